"""One optimizer step: forward, loss, backward, clipping, update; in one piece or in micro-batches, in any precision.

It has two parts: the gradients, which a GPU can replay from a graph (`engine.graphs`), and the update. Between them the processes
of a run, if there are several, add up what they have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from engine import compiling, graphs
from engine.distributed import World
from engine.errors import ConfigError
from engine.losses import Loss
from layers.recompute import Level, recomputing

Precision = Literal["fp32", "bf16", "fp16"]
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SAME = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 1e-2}  # relative difference of a replayed loss and gradient norm to the usual ones


@dataclass(frozen=True)
class StepResult:
    """What one step did; tensors stay on the device so that a GPU is never waited for.

    loss       () mean loss of the batch before the update, penalty included
    correct    () number of clips whose largest logit was the label
    grad_norm  () L2 norm over all gradients before clipping
    terms      what the loss is made of, and the like, by name, all ()
    """

    loss: torch.Tensor
    correct: torch.Tensor
    grad_norm: torch.Tensor
    terms: Mapping[str, torch.Tensor] = field(default_factory=dict)


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The autocast context of `precision` on `device`; does nothing for fp32."""
    dtype = AUTOCAST_DTYPES.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=precision in AUTOCAST_DTYPES)


def without_autocast(x: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    """Turns autocast off for the device of `x`; the meta device has none."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def forward(model: nn.Module, clips: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
    """Logits (N, K) of clips (N, C, T, V, M); `positions` (N, T) go to networks that read where in its clip each frame lies."""
    logits: torch.Tensor = model(clips, positions) if takes_positions(model) else model(clips)
    return logits


def chosen_level(wish: Level | Literal["auto"], device: torch.device) -> Level:
    """The level that "auto" means on `device`: a CPU has memory to spare and no time."""
    if wish != "auto":
        return wish
    return "none" if device.type == "cpu" else "cheap"


def takes_positions(model: nn.Module) -> bool:
    """Whether `model` says (``takes_positions = True``) that it reads frame positions."""
    return bool(getattr(model, "takes_positions", False))


def clipped(parameters: Sequence[nn.Parameter], limit: float | None, *, each: bool = False) -> torch.Tensor:
    """Clip the gradients if there is a `limit`, all together or `each` by itself; returns the norm of all before."""
    if limit is None or not each:
        return torch.nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
    norms = [torch.nn.utils.clip_grad_norm_([p], limit) for p in parameters if p.grad is not None]
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def updated(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: Sequence[nn.Parameter],
    limit: float | None,
    *,
    each: bool = False,
) -> torch.Tensor:
    """Let the optimizer take its step with the gradients as `scaler` left them, `clipped`; returns the norm of all before."""
    scaler.unscale_(optimizer)
    norm = clipped(parameters, limit, each=each)
    scaler.step(optimizer)
    scaler.update()
    return norm


class TrainStep:
    """Callable that trains `model` on one batch.

    micro_batch   clips per forward pass; gradients are accumulated so that the update is that of the whole batch, except
                  that BatchNorm sees the pieces (as in the official MS-G3D trainer)
    clip_grad     largest allowed L2 norm of the gradient, None for no clipping
    clip_each     of each parameter's by itself, not of all together
    precision     fp32, or autocast to bf16, or to fp16 with a loss scaler
    penalty       weight of the model's own ``penalty()`` in the loss; a model without one raises `ConfigError` if it is not 0
    recompute     what the backward pass computes again instead of keeping it (`layers.recompute`); no number changes
    backend       captures the gradients and replays them (`engine.graphs`), None for no graphs
    compiled      whether the network runs through `torch.compile`, which then decides itself what to compute again
    note          is told, in words for the user, what a step decides about itself
    world         the processes that share each batch; every one makes the update of the whole batch
    whole         clips of such a batch; None: as many as a call is given
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        *,
        precision: Precision = "fp32",
        clip_grad: float | None = None,
        clip_each: bool = False,
        micro_batch: int | None = None,
        penalty: float = 0.0,
        recompute: Level = "none",
        backend: graphs.Backend | None = None,
        compiled: bool = False,
        note: Callable[[str], None] = print,
        device: torch.device | str = "cpu",
        world: World | None = None,
        whole: int | None = None,
    ) -> None:
        if penalty and not hasattr(model, "penalty"):
            raise ConfigError(f"{type(model).__name__} has no penalty of its own", where="penalty_weight", expected="0")
        self.model, self.optimizer, self.loss, self.penalty = model, optimizer, loss, penalty
        self.precision, self.clip_grad, self.clip_each, self.micro_batch = precision, clip_grad, clip_each, micro_batch
        self.recompute = recompute
        self.device, self.world, self.whole = torch.device(device), world or World(), whole
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.network = compiling.compiled(model) if compiled else model
        self.kept: Level = "none" if compiled else recompute
        self.replayed: graphs.Replayed | None = None
        if backend is not None:
            self.scaler.scale(torch.zeros((), device=self.device))  # makes the scale now: a captured one would be made every time
            self.replayed = graphs.Replayed(
                self._gradients, model, self.parameters, backend=backend, tolerance=SAME[precision],
                without_random=self.kept == "blocks", note=note,
            )  # fmt: skip

    def __call__(self, clips: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor | None = None) -> StepResult:
        """Train on clips (N, C, T, V, M) with labels (N,) and, where the model reads them, positions (N, T); on its device.

        Of several processes each is given its share of a batch, and told what became of all.
        """
        self.world.begin()
        loss, correct = (self.replayed or self._gradients)(clips, labels, positions)
        loss, correct, _ = self.world.summed(
            self.model, self.parameters, loss, correct, part=len(clips) / (self.whole or len(clips))
        )
        norm = updated(self.optimizer, self.scaler, self.parameters, self.clip_grad, each=self.clip_each)
        return StepResult(loss, correct, norm)

    def _gradients(
        self, clips: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and correct clips of the batch; the gradients of its loss, scaled by a loss scaler, are in the parameters.

        Of a share: its part of them, which add up to those of the whole.
        Nothing in here may look at a tensor's values.
        """
        self.optimizer.zero_grad(set_to_none=True)
        size = self.micro_batch or len(clips)
        total = torch.zeros((), device=clips.device, dtype=torch.float64)
        correct = torch.zeros((), device=clips.device, dtype=torch.int64)
        for first in range(0, len(clips), size):
            rows = slice(first, first + size)
            piece, truth = clips[rows], labels[rows]
            with recomputing(self.kept), autocast(self.precision, self.device):
                logits = forward(self.network, piece, None if positions is None else positions[rows])
                loss = self.loss(logits, truth)
                if self.penalty:
                    loss = loss + self.penalty * self.model.penalty()  # type: ignore[operator]
                loss = loss * (len(piece) / (self.whole or len(clips)))
            self.scaler.scale(loss).backward()
            total += loss.detach()
            correct += (logits.detach().argmax(1) == truth).sum()
        return total, correct
