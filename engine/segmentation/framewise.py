"""Learning to segment: the network, its step, its scores on held-out sequences, the best of them."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from engine import checkpoint, memory, models
from engine.config import RunConfig
from engine.errors import ConfigError, PeerError
from engine.progress import Display
from engine.report import write_report
from engine.segmentation import evaluation, material
from engine.segmentation.network import Pooled, build
from engine.segmentation.predictions import BEST, LAST, Predictions, write_predictions
from engine.segmentation.settings import Settings, as_dict, settings
from engine.segmentation.step import SegmentStep, segment_step
from engine.segmentation.stream import sequence_scores
from engine.step import StepResult
from engine.watch import told_as
from engine.weights import ENCODER, load_encoder, load_weights
from shared_data.sequence_loader import SequenceBatch, SequenceLoader
from shared_data.sequences import Sequences
from shared_data.window_loader import WindowLoader

if TYPE_CHECKING:
    from engine.train import Trainer

FRAME_BYTES = 8  # of predictions, about, before they are packed
UNUSED = (
    "stream", "labelled", "leave_out", "hold_out", "repeat", "train_feeder_args", "test_feeder_args", "objective_args",
    "augment_on", "upstream_seeding", "loss_type", "label_smoothing", "penalty_weight", "sync_batchnorm", "cuda_graphs",
    "compile",
)  # fmt: skip
"""Settings of other runs, which mean nothing here."""
OF_A_HEAD = (
    "head_width", "head_layers", "class_stages", "boundary_stages", "dropout", "hop", "encoder_scale", "frozen",
    "background_share",
)  # fmt: skip
"""`segment_args` that mean nothing to a network of its own kind."""


class FrameWise:
    """An `engine.learning.Learning`."""

    labelled = False
    clips = None

    def __init__(self, run: Trainer) -> None:
        self.run = run
        self.chosen = chosen_of(run.config)
        self.material = material.load(run.config)
        self.features = material.features(run.config, self.material.source.skeleton)

    def fingerprints(self) -> tuple[int, int]:
        return (seen := self.material.fingerprint()), seen

    def batches(self) -> SequenceLoader | WindowLoader:
        run, config = self.run, self.run.config
        given: dict[str, Any] = {
            "batch_size": config.batch_size, "train": True, "seed": config.seed, "features": self.features,
            "share": (run.world.rank, run.world.size), "workers": config.num_worker,
        }  # fmt: skip
        if self.chosen.mode == "full":
            return SequenceLoader(self.material.train, **given)
        return WindowLoader(
            self.material.train, window=config.train_window_size, background_share=self.chosen.background_share, **given
        )

    def remarks(self) -> list[str]:
        told = [f"{finding.severity}: {finding.message}" for finding in self.material.source.findings]
        if self.chosen.mode == "window" and self.chosen.smoothing_weight:
            told.append("windows were published with cross-entropy alone: --segment-args.smoothing_weight 0")
        return [*told, f"each epoch is judged by {self.material.rule}"]

    def described(self) -> dict[str, Any]:
        source = self.material.source
        return {
            "num_classes": len(source.class_names), "class_names": list(source.class_names), "skeleton": source.skeleton.name,
            "people": self.material.people, "segment_args": as_dict(self.chosen), "pipeline": self.run.config.pipeline,
            "window": self.run.config.train_window_size,
        }  # fmt: skip

    def result_bytes(self) -> int:
        return 2 * FRAME_BYTES * max(int(part.lengths.sum()) for part in (self.material.held_out, self.material.test))

    def network(self) -> nn.Module:
        run, source = self.run, self.material.source
        torch.manual_seed(run.config.seed)
        return network_of(
            run.config, self.chosen, classes=len(source.class_names), skeleton=source.skeleton, people=self.material.people
        ).to(run.device)

    def step(self, network: nn.Module) -> SegmentStep:
        run = self.run
        return segment_step(
            run.config, network, self.chosen, run.device, pos_weight=self.material.positive_weight, world=run.world
        )  # fmt: skip

    def start(self) -> None:
        run = self.run
        if weights := run.config.weights:
            run.world.by_first(load_weights, Path(weights), run.model, run.config.model, trust_pickle=run.config.trust_pickle)
        if init := run.config.init:
            run.world.by_first(self._take_encoder, Path(init))

    def _take_encoder(self, file: Path) -> None:
        """Give the network's encoder the weights in `file`, by way of the classifier that has such an encoder."""
        config = self.run.config
        card = models.find(config.model)
        given = dict(config.model_args)
        if "frames" in models.arguments(card):
            given.setdefault("frames", config.train_window_size)
        classifier = models.build(
            card, num_classes=2, skeleton=self.material.source.skeleton, people=self.material.people, **given
        )  # fmt: skip
        load_encoder(file, classifier, config.model, trust_pickle=config.trust_pickle)
        encoder = self.run.model.get_submodule(ENCODER)
        if isinstance(encoder, Pooled):
            encoder = encoder.network.get_submodule(ENCODER)
        encoder.load_state_dict(classifier.get_submodule(ENCODER).state_dict())

    def inputs(self, batch: SequenceBatch) -> tuple[torch.Tensor | None, ...]:
        return batch.features, batch.labels, batch.boundary, batch.mask

    def rehearse(self) -> None:
        """The longest held-out sequence, as it will be shown after steps of the optimizer."""
        run, held_out = self.run, self.material.held_out
        longest = int(held_out.lengths.argmax())
        run.model.eval()
        beside = list(memory.still_to_come(run.optimizer))
        shown = torch.from_numpy(self.features(held_out.frames(longest)))
        sequence_scores(
            run.model, shown, device=run.device, precision=run.config.precision, clips=run.config.test_batch_size
        )  # fmt: skip
        del beside

    def status(self, loss: float, correct: float) -> str:
        return f"loss {loss:.3f}"

    def logged(self, result: StepResult, clips: int) -> dict[str, Any]:
        return {name: float(term) for name, term in result.terms.items()}

    def evaluate(self, display: Display) -> None:
        """Predictions for the held-out sequences; keeps them, and the best weights."""
        run, began = self.run, time.monotonic()
        found = self._predicted(self.material.held_out, if_full=run.save)
        metrics = evaluation.judged(found, official_ends=self.chosen.official_ends)
        run.last = {"epoch": run.epoch, **metrics}
        last = self._best_form(metrics)
        run.log("eval", epoch=run.epoch, seconds=time.monotonic() - began, **last)
        run.world.by_first(write_predictions, run.folder.path / LAST, found)
        if run.best is None or self._measure(run.last) > self._measure(run.best):
            run.best = run.last
            run.world.by_first(checkpoint.save_weights, run.folder.best, run.model, run.about() | {"metrics": metrics})
            run.world.by_first(write_predictions, run.folder.path / BEST, found)
        seen, best = max(run.sums["seen"], 1), self._measure(run.best)
        display.line(
            f"epoch {run.epoch + 1:3d}/{run.config.num_epoch}  loss {run.sums['loss'] / seen:.4f}  {summary(last)}  "
            f"best {self.chosen.chosen_by} {best:.1f}"
        )

    def _predicted(self, sequences: Sequences, *, if_full: Any = lambda: None, saved: bool = False) -> Predictions:
        run = self.run
        try:
            return told_as(
                memory.EVALUATION,
                lambda: evaluation.predict(
                    run.model, sequences, self.features, self.material.source.class_names, device=run.device,
                    precision=run.config.precision, clips=run.config.test_batch_size,
                    after_sequence=lambda: run.stop_if_asked(saved=saved), world=run.world,
                ), if_full=if_full,
            )  # fmt: skip
        except PeerError:  # the memory of another process may be full
            if_full()
            raise

    @staticmethod
    def _best_form(metrics: dict[str, Any]) -> dict[str, Any]:
        """Those of the refined predictions, or of the raw ones where there are no others."""
        chosen: dict[str, Any] = metrics.get("refined", metrics["raw"])
        return chosen

    def _measure(self, found: dict[str, Any]) -> float:
        return float(self._best_form(found)[self.chosen.chosen_by])

    def weights(self) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
        return {"": (self.run.model, self.run.about())}

    def close(self) -> None:
        """Write `metrics.json` and the report; under the honest protocol the test sequences are looked at now, once."""
        run, config, source = self.run, self.run.config, self.material.source
        assert run.last is not None and run.best is not None
        values = {
            **heading(config, source.class_names, self.chosen), "last": run.last, "best": run.best,
            "selection": f"best {self.chosen.chosen_by} of an epoch on {self.material.rule}", "parameters": run.parameters,
            "sequences_train": len(self.material.train), "sequences_test": len(self.material.test), "seconds": run.seconds,
        }  # fmt: skip
        if config.protocol == "honest":
            values["test"] = self._test_untouched()
        run.world.by_first(run.folder.write_json, "metrics.json", values)
        run.log("end", seconds=run.seconds, **self._best_form(run.last))
        report = run.world.from_first(lambda: write_report(run.folder.path))
        for name, found in values.get("test", {"last": run.last, "best": run.best}).items():
            run.console.print(f"{name} epoch: {summary(self._best_form(found))}", highlight=False)
        run.console.print(f"report: {report}", highlight=False, soft_wrap=True)

    def _test_untouched(self) -> dict[str, Any]:
        """The test sequences, with the last weights and with those that were chosen; their predictions take the place of the
        held-out ones."""
        run, result = self.run, {}
        for name, weights, kept in (("last", None, LAST), ("best", run.folder.best, BEST)):
            if weights is not None:
                run.world.by_first(load_weights, weights, run.model, run.config.model)
                run.world.share(run.model)
            found = self._predicted(self.material.test, saved=True)
            run.world.by_first(write_predictions, run.folder.path / kept, found)
            result[name] = evaluation.judged(found, official_ends=self.chosen.official_ends)
        return result


def chosen_of(config: RunConfig) -> Settings:
    """The run's settings of segmentation. Raises `ConfigError` for what does not fit together, or would change nothing."""
    chosen, card = settings(config.segment_args), models.find_for(config.model, "segment")
    _require_used(config, chosen, own_network=card.kind == "segmenter")
    if card.kind == "segmenter" and (chosen.mode != "full" or config.init):
        raise ConfigError(
            f"{card.title} is a whole network of its own", where="--init" if config.init else "segment_args: mode",
            expected="--weights FILE" if config.init else "full",
        )  # fmt: skip
    if config.train_window_size < 1:
        raise ConfigError("the window of the encoder is of whole clips", where="--train-window-size", expected="64, say")
    return chosen


def _require_used(config: RunConfig, chosen: Settings, *, own_network: bool) -> None:
    """Raise `ConfigError` for a setting that was changed and that nothing in this run looks at."""
    usual = {field.name: getattr(RunConfig(), field.name) for field in dataclasses.fields(RunConfig)}
    changed = [name for name in UNUSED if getattr(config, name) != usual[name]]
    if config.test_window_size not in (usual["test_window_size"], config.train_window_size):
        changed.append("test_window_size")
    if changed:
        raise ConfigError(
            f"{changed[0]} is {getattr(config, changed[0])!r}, and segmentation does nothing with it",
            where=f"--{changed[0].replace('_', '-')}", next_step="leave it out",
        )  # fmt: skip
    unread = OF_A_HEAD if own_network else () if chosen.mode == "window" else ("background_share",)
    for name in unread:
        if getattr(chosen, name) != getattr(Settings(), name):
            raise ConfigError(
                f"{name} is {getattr(chosen, name)!r}, and {config.model} in the mode {chosen.mode} does nothing with it",
                where="segment_args", next_step="leave it out",
            )  # fmt: skip


def network_of(config: RunConfig, chosen: Settings, *, classes: int, skeleton: Any, people: int) -> nn.Module:
    """The network of `config` on the CPU, drawn from torch's generator."""
    return build(
        models.find_for(config.model, "segment"), classes=classes, skeleton=skeleton, people=people,
        window=config.train_window_size, chosen=chosen, **config.model_args,
    )  # fmt: skip


def heading(config: RunConfig, class_names: tuple[str, ...], chosen: Settings) -> dict[str, Any]:
    """What `metrics.json` begins with."""
    return {
        "model": config.model, "recipe": config.recipe, "stage": config.stage, "dataset": config.dataset, "split": config.split,
        "protocol": config.protocol, "mode": chosen.mode, "class_names": list(class_names),
    }  # fmt: skip


def summary(metrics: dict[str, Any]) -> str:
    """In a few words."""
    return f"accuracy {metrics['accuracy']:.1f}  edit {metrics['edit']:.1f}  F1@50 {metrics['f1_50']:.1f}"
