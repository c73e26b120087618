"""Learning classes from labels: the network, its step, its scores on held-out clips, the best of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from engine import assembly, checkpoint, closing, memory
from engine.errors import PeerError
from engine.evaluate import evaluate, rehearse
from engine.metrics import Scores, measure
from engine.progress import Display
from engine.score_files import BEST, LAST, write_scores
from engine.shared_batchnorm import synchronised
from engine.step import StepResult, TrainStep
from engine.watch import told_as
from engine.weights import load_encoder, load_weights
from shared_data.loader import Batch, Loader

if TYPE_CHECKING:
    from engine.train import Trainer

SCORE_FILES = 4  # the most that a run writes
ID = 64  # bytes for a clip's name and label in a score file


class Supervised:
    """An `engine.learning.Learning`."""

    labelled = True

    def __init__(self, run: Trainer) -> None:
        self.run = run
        self.given = assembly.load_data(run.config)
        self.clips = assembly.validation(self.given, run.config)

    def fingerprints(self) -> tuple[int, int]:
        return assembly.fingerprint(self.given), assembly.fingerprint(self.clips)

    def batches(self) -> Loader:
        run = self.run
        self.test_batches = assembly.test_loader(self.clips, run.config, run.device, run.world)
        return assembly.train_loader(self.clips, run.config, run.device, run.world)

    def remarks(self) -> list[str]:
        return assembly.remarks(self.run.config, self.clips)

    def described(self) -> dict[str, Any]:
        return assembly.described(self.clips)

    def result_bytes(self) -> int:
        return SCORE_FILES * len(self.clips.test) * (4 * self.clips.num_classes + ID)

    def network(self) -> nn.Module:
        run = self.run
        network = assembly.build_model(run.config, self.clips, run.device)
        return synchronised(network, run.device, run.world) if run.config.sync_batchnorm else network

    def step(self, network: nn.Module) -> TrainStep:
        run = self.run
        return assembly.train_step(
            run.config, network, run.device, note=run.note, world=run.world, whole=run.config.batch_size
        )  # fmt: skip

    def start(self) -> None:
        run, trust = self.run, self.run.config.trust_pickle
        if weights := run.config.weights:
            run.world.by_first(load_weights, Path(weights), run.model, run.config.model, trust_pickle=trust)
        if init := run.config.init:
            run.world.by_first(load_encoder, Path(init), run.model, run.config.model, trust_pickle=trust)

    def inputs(self, batch: Batch) -> tuple[torch.Tensor | None, ...]:
        return batch.clips, batch.labels, batch.positions

    def rehearse(self) -> None:
        run = self.run
        rehearse(run.model, self.test_batches, run.optimizer, device=run.device, precision=run.config.precision)

    def status(self, loss: float, correct: float) -> str:
        return f"loss {loss:.3f}  top-1 {correct:.1%}"

    def logged(self, result: StepResult, clips: int) -> dict[str, Any]:
        return {"top1": float(result.correct) / clips}

    def evaluate(self, display: Display) -> None:
        """Scores of the test (or held-out) clips; keeps the best weights and both score files."""
        run, began = self.run, time.monotonic()
        scores = self.scores(self.test_batches, run.stop_if_asked, if_full=run.save)
        metrics = measure(scores, run.epoch)
        run.last = metrics.as_dict()
        run.log(
            "eval", epoch=run.epoch, loss=metrics.loss, top1=metrics.top1, top5=metrics.top5,
            seconds=time.monotonic() - began,
        )  # fmt: skip
        run.world.by_first(write_scores, run.folder.path / LAST, scores)
        if run.best is None or metrics.top1 > run.best["top1"]:
            run.best = run.last
            run.world.by_first(checkpoint.save_weights, run.folder.best, run.model, run.about(metrics))
            run.world.by_first(write_scores, run.folder.path / BEST, scores)
        seen = max(run.sums["seen"], 1)
        display.line(
            f"epoch {run.epoch + 1:3d}/{run.config.num_epoch}  loss {run.sums['loss'] / seen:.4f}  "
            f"train {run.sums['correct'] / seen:6.1%}  {self.held_out} {metrics.top1:6.1%}  best {run.best['top1']:6.1%}"
        )

    def weights(self) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
        return {"": (self.run.model, self.run.about())}

    def close(self) -> None:
        closing.close(self)

    @property
    def held_out(self) -> str:
        return "validation" if self.run.config.protocol == "honest" else "test"

    def scores(self, batches: Loader, after_batch: Callable[[], None], *, if_full: Callable[[], None] = lambda: None) -> Scores:
        """`evaluate` as the run is set up; `if_full` is called where the GPU's memory is not enough, before the run ends."""
        run = self.run
        how: dict[str, Any] = {"device": run.device, "precision": run.config.precision, "world": run.world}
        try:
            return told_as(
                memory.EVALUATION, lambda: evaluate(run.model, batches, after_batch=after_batch, **how), if_full=if_full
            )
        except PeerError:  # that of another process may be full
            if_full()
            raise
