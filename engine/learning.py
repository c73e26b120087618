"""What a run does with its clips: the one seam between the trainer, which knows epochs, files and signals, and what is learnt."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from engine.progress import Display
from engine.step import StepResult
from shared_data.loader import Batch


class Step(Protocol):
    """An optimizer step on one batch; see `engine.step.TrainStep`."""

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def __call__(self, clips: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor | None = None, /) -> StepResult: ...


class Learning(Protocol):
    """Made for a `Trainer` whose settings, data, device and world are known; makes its network and step, and looks at results."""

    labelled: bool
    """Whether steps count what they get right."""

    def network(self) -> nn.Module:
        """The network on its device, freshly initialised; its state dict is saved and restored."""
        ...

    def step(self, network: nn.Module) -> Step:
        """The step that trains `network`, with its optimizer."""
        ...

    def start(self) -> None:
        """What a fresh run begins with beside a fresh network: given weights."""
        ...

    def targets(self, batch: Batch) -> torch.Tensor:
        """(N,) int64: what a step is given beside the clips."""
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
