"""One optimizer step: forward, loss, backward, clipping, update; in one piece or in micro-batches, in any precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from engine.losses import Loss

Precision = Literal["fp32", "bf16", "fp16"]
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """What one step did; tensors stay on the device so that a GPU is never waited for.

    loss       () mean loss of the batch before the update
    correct    () number of clips whose largest logit was the label
    grad_norm  () L2 norm over all gradients before clipping
    """

    loss: torch.Tensor
    correct: torch.Tensor
    grad_norm: torch.Tensor


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The autocast context of `precision` on `device`; does nothing for fp32."""
    dtype = AUTOCAST_DTYPES.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=precision in AUTOCAST_DTYPES)


class TrainStep:
    """Callable that trains `model` on one batch.

    micro_batch   clips per forward pass; gradients are accumulated so that the update is that of the whole batch, except
                  that BatchNorm sees the pieces (as in the official MS-G3D trainer)
    clip_grad     largest allowed L2 norm of the gradient, None for no clipping
    precision     fp32, or autocast to bf16, or to fp16 with a loss scaler
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        *,
        precision: Precision = "fp32",
        clip_grad: float | None = None,
        micro_batch: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.precision, self.clip_grad, self.micro_batch = precision, clip_grad, micro_batch
        self.device = torch.device(device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, clips: torch.Tensor, labels: torch.Tensor) -> StepResult:
        """Train on clips (N, C, T, V, M) with labels (N,), both on the model's device."""
        self.optimizer.zero_grad(set_to_none=True)
        size = self.micro_batch or len(clips)
        total = torch.zeros((), device=clips.device, dtype=torch.float64)
        correct = torch.zeros((), device=clips.device, dtype=torch.int64)
        for first in range(0, len(clips), size):
            piece, truth = clips[first : first + size], labels[first : first + size]
            with autocast(self.precision, self.device):
                logits = self.model(piece)
                loss = self.loss(logits, truth) * (len(piece) / len(clips))
            self.scaler.scale(loss).backward()
            total += loss.detach()
            correct += (logits.detach().argmax(1) == truth).sum()
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return StepResult(total, correct, norm)

    def _clip(self) -> torch.Tensor:
        """Clip if asked; return the norm before clipping."""
        limit = float("inf") if self.clip_grad is None else self.clip_grad
        return torch.nn.utils.clip_grad_norm_(self.parameters, limit)
