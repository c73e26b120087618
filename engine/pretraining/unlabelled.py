"""Learning an encoder without labels: the objective of the model's stage, its step, what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from engine import assembly, checkpoint, models
from engine.errors import ConfigError
from engine.official import Entry, from_official, strip_prefix
from engine.pretraining import COLLAPSED
from engine.pretraining.objective import Objective
from engine.pretraining.step import PretrainStep, pretrain_step
from engine.progress import Display
from engine.report import write_report
from engine.shared_batchnorm import synchronised
from engine.step import StepResult
from engine.weights import ENCODER, load_encoder, read_tensors
from shared_data.loader import Batch, Loader

if TYPE_CHECKING:
    from engine.train import Trainer


class Unlabelled:
    """An `engine.learning.Learning`."""

    labelled = False

    def __init__(self, run: Trainer) -> None:
        self.run = run
        self.told = False
        if run.config.weights:
            raise ConfigError("weights of a whole classifier have no place here", where="--weights", next_step="--init FILE")
        if run.config.labelled:
            raise ConfigError(
                "there are no labels to be seen here", where="--labelled", next_step="--max-clips N takes fewer clips"
            )
        self.clips = assembly.validation(assembly.load_data(run.config), run.config)

    def fingerprints(self) -> tuple[int, int]:
        return (seen := assembly.fingerprint(self.clips)), seen

    def batches(self) -> Loader:
        return assembly.train_loader(self.clips, self.run.config, self.run.device, self.run.world)

    def remarks(self) -> list[str]:
        return assembly.remarks(self.run.config, self.clips)

    def described(self) -> dict[str, Any]:
        return assembly.described(self.clips)

    def result_bytes(self) -> int:
        return 0

    def network(self) -> nn.Module:
        run = self.run
        network = assembly.build_objective(run.config, self.clips, run.device)
        if not run.config.sync_batchnorm:
            return network
        objective = cast(Objective, network)
        if not objective.in_batch:
            return synchronised(network, run.device, run.world)
        for encoder in objective.encoders().values():  # what belongs to the loss has the whole batch in every process
            synchronised(encoder, run.device, run.world)
        return network

    def step(self, network: nn.Module) -> PretrainStep:
        run = self.run
        self.taken = pretrain_step(run.config, network, run.device, world=run.world, whole=run.config.batch_size)
        return self.taken

    def start(self) -> None:
        """Pretraining begins from nothing, tuning from an encoder: ours or an official one."""
        run, init = self.run, self.run.config.init
        if run.config.stage == "pretrain" and init:
            raise ConfigError(
                "pretraining begins from nothing", where="--init", next_step="sal tune, where the model can be tuned"
            )
        if run.config.stage == "tune":
            if not init:
                raise ConfigError("tuning goes on from an encoder, and none is given", next_step="--init encoder.safetensors")
            run.world.by_first(self._begin_from, Path(init))

    def _begin_from(self, file: Path) -> None:
        """The state of an earlier stage of the same objective, head and queues included; or of any file the encoders alone."""
        given = read_tensors(file, self.run.config.trust_pickle)
        whole = {name.removeprefix("model/"): value for name, value in given.items() if name.startswith("model/")}
        own = self.run.model.state_dict()
        if whole.keys() == own.keys() and all(whole[name].shape == value.shape for name, value in own.items()):
            self.run.model.load_state_dict(whole)
            return
        card = models.find(self.run.config.model)
        rows = models.import_module(card, "official").pretraining_table(self.run.model) if card.status == "verified" else []
        stripped = {strip_prefix(name): value for name, value in given.items()}
        if rows and all(row.official in stripped for row in rows):  # of the same stage of the official code
            ours = {name: value for name, value in own.items() if name not in {row.ours for row in rows}}
            table = [*rows, *(Entry(name, name) for name in ours)]
            state = {row.official: stripped[row.official] for row in rows} | ours
            self.run.model.load_state_dict(from_official(table, state, self.run.model))
            return
        self.run.note(f"{file.name}: the encoder is taken, all else begins anew")
        for name, encoder in self.objective.encoders().items():
            self._take(file, name, encoder)

    def _take(self, file: Path, name: str, encoder: nn.Module) -> None:
        """Give `encoder` the weights in `file`, by way of the classifier that has such an encoder."""
        run, data = self.run, self.clips
        classifier = models.build(
            models.find(run.config.model), num_classes=2, skeleton=data.skeleton, people=data.train.max_people,
            **self.objective.classifier(name),
        )  # fmt: skip
        load_encoder(file, classifier, run.config.model, which=name, trust_pickle=run.config.trust_pickle)
        encoder.load_state_dict(getattr(classifier, ENCODER).state_dict())

    def inputs(self, batch: Batch) -> tuple[torch.Tensor | None, ...]:
        return batch.clips, torch.from_numpy(batch.index), batch.positions

    def rehearse(self) -> None:
        """Nothing comes after an epoch that a step does not need."""

    def status(self, loss: float, correct: float) -> str:
        return f"loss {loss:.4f}"

    def logged(self, result: StepResult, clips: int) -> dict[str, Any]:
        return {name: float(term) for name, term in result.terms.items()}

    def evaluate(self, display: Display) -> None:
        """What the last step said of the epoch; there are no held-out clips."""
        run = self.run
        seen = max(run.sums["seen"], 1)
        terms = {name: float(term) for name, term in self.taken.terms.items()}
        run.last = run.best = {"epoch": run.epoch, "loss": run.sums["loss"] / seen, "terms": terms}
        run.log("eval", epoch=run.epoch, **terms)
        told = [f"{name} {terms[name]:.2f}" for name in ("spread", "uniformity", "alignment") if name in terms]
        display.line("  ".join([f"epoch {run.epoch + 1:3d}/{run.config.num_epoch}", f"loss {run.last['loss']:.4f}", *told]))
        if terms.get("spread", 1.0) < COLLAPSED and not self.told:
            self.told = True
            run.note(
                f"the features of all clips have become nearly the same (spread {terms['spread']:.3f}): the encoder collapses"
            )

    def weights(self) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
        return {
            f"_{name}" if name else "": (encoder, self.run.about() | {"model_args": self.objective.classifier(name)})
            for name, encoder in self.objective.encoders().items()
        }

    def close(self) -> None:
        """Write the encoders, `metrics.json` and the report, and tell the user what they are for."""
        run = self.run
        assert run.last is not None
        files = []
        for ending, (encoder, about) in self.weights().items():
            files.append(run.folder.path / f"{ENCODER}{ending}.safetensors")
            run.world.by_first(checkpoint.save_weights, files[-1], encoder, about)
        config = run.config
        values = {
            "model": config.model, "recipe": config.recipe, "stage": config.stage, "dataset": self.clips.name,
            "split": config.split, "stream": config.stream, "last": run.last, "parameters": run.parameters,
            "clips_train": len(self.clips.train), "seconds": run.seconds, "encoders": [file.name for file in files],
        }  # fmt: skip
        run.world.by_first(run.folder.write_json, "metrics.json", values)
        run.log("end", loss=run.last["loss"], seconds=run.seconds)
        report = run.world.from_first(lambda: write_report(run.folder.path))
        for file in files:
            run.console.print(f"encoder: {file}", highlight=False, soft_wrap=True)
        run.console.print(f"report: {report}", highlight=False, soft_wrap=True)

    @property
    def objective(self) -> Objective:
        return cast(Objective, self.run.model)
