"""What a run learns, and from what: the one seam between this and the trainer, which knows epochs, files and signals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from engine.progress import Display
from engine.step import StepResult
from shared_data.datasets import DataSet


class Step(Protocol):
    """An optimizer step on one batch, whose `Learning.inputs` it is given; see `engine.step.TrainStep`."""

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def __call__(self, *inputs: Any) -> StepResult: ...


class Batches(Protocol):
    """What is learnt from, batch by batch; see `shared_data.loader.Loader`."""

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of `epoch` from number `start` on."""
        ...

    def ids(self, epoch: int, step: int) -> Any:
        """Names of what is in batch `step` of `epoch`, an array."""
        ...


class Learning(Protocol):
    """Made for a `Trainer` whose settings, device and world are known, which reads the data; makes the batches, the network and
    its step, and looks at results."""

    labelled: bool
    """Whether steps count what they get right."""

    @property
    def clips(self) -> DataSet | None:
        """What a prediction of the run's memory is made for; None where there is none."""
        ...

    def fingerprints(self) -> tuple[int, int]:
        """Of the data as given, which all processes must share, and of what the run sees of it, as whoever resumes it must."""
        ...

    def batches(self) -> Batches:
        """Those of training; of several processes, this one's share of each."""
        ...

    def remarks(self) -> list[str]:
        """What a person should know about the run's settings before it begins."""
        ...

    def described(self) -> dict[str, Any]:
        """What a file of weights says of the data that they fit."""
        ...

    def result_bytes(self) -> int:
        """Of the largest files that evaluations leave in the run folder, together."""
        ...

    def network(self) -> nn.Module:
        """The network on its device, freshly initialised; its state dict is saved and restored."""
        ...

    def step(self, network: nn.Module) -> Step:
        """The step that trains `network`, with its optimizer."""
        ...

    def start(self) -> None:
        """What a fresh run begins with beside a fresh network: given weights."""
        ...

    def inputs(self, batch: Any) -> tuple[torch.Tensor | None, ...]:
        """What a step is given of a batch, not yet on its device."""
        ...

    def rehearse(self) -> None:
        """Try what comes after an epoch, so that a full GPU is told before the first step."""
        ...

    def status(self, loss: float, correct: float) -> str:
        """How the epoch goes, from means over its clips so far, in a few words."""
        ...

    def logged(self, result: StepResult, clips: int) -> dict[str, Any]:
        """What a log line of a step says beside its loss."""
        ...

    def evaluate(self, display: Display) -> None:
        """After an epoch: look at held-out clips or the like; sets `Trainer.last` and `Trainer.best`."""
        ...

    def weights(self) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
        """Ending of a file's name -> what others load from it, and what the file says about that."""
        ...

    def close(self) -> None:
        """After the last epoch: results and a report."""
        ...
