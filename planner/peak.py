"""Peak memory of one training step and one evaluation step, predicted without a GPU and without weights in memory.

First cut: tensors only. What a GPU needs on top (context, cuBLAS and cuDNN workspaces, allocator slack) is the
allowance of `planner.verdict`. The step traced is the plain one: gradients dropped, forward pass, cross-entropy,
backward, optimizer step with the multi-tensor kernels that torch picks on CUDA. The second step is the one that counts,
because the optimizer's state appears at the end of the first.

The law in the batch is affine (fixed part + so much per clip) for every network that treats clips alike: two probes
give it, a third must agree within 1 %. A network that breaks it is still predicted right: each batch is traced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from planner.lifetimes import Lifetimes, rounded
from shared_data.errors import LabError

MIB = 2**20
Phase = Literal["train", "eval"]
TOLERANCE = 0.01
"""Largest relative distance between the third probe and the line through the first two."""
LARGEST_BATCH = 1 << 16
"""Answers of `Law.largest_batch` stop here."""


@dataclass(frozen=True)
class Line:
    """MiB as a function of clips: `intercept` MiB for the model and its states + `slope` MiB per clip."""

    intercept: float
    slope: float

    def at(self, batch: int) -> float:
        """MiB at `batch` clips."""
        return self.intercept + self.slope * batch


@dataclass(frozen=True)
class Law:
    """Predicted peak of the tensors of one model under one optimizer and precision, in MiB.

    train, eval   the affine laws; evaluation is that of a training run, whose optimizer state and gradients are alive
    linear        whether the third probe agreed; if not, every question is answered by a trace of that very batch
    deviation     relative distance of the third probe from the line, the worse of the two phases
    gradients     MiB of all gradients: what micro-batches keep alive during the forward pass
    approximate   True where an operation list stands in for CUDA's (autocast)
    trace         (phase, batch) -> MiB
    """

    train: Line
    eval: Line
    linear: bool
    deviation: float
    gradients: float
    approximate: bool
    trace: Callable[[Phase, int], float] = field(repr=False, compare=False)

    def peak(self, batch: int, phase: Phase = "train", *, micro_batch: int | None = None) -> float:
        """MiB at `batch` clips per step; with `micro_batch`, of a step run in pieces of that many clips.

        The bound for micro-batches is the peak of one piece plus all gradients, which live through the forward pass.
        Raises `LabError` for a batch below 1.
        """
        if batch < 1 or (micro_batch is not None and micro_batch < 1):
            raise LabError(f"batch {batch if batch < 1 else micro_batch} is not a number of clips", expected="1 or more")
        if phase == "train" and micro_batch is not None and micro_batch < batch:
            return self.peak(micro_batch) + self.gradients
        return self._line(phase).at(batch) if self.linear else self.trace(phase, batch)

    def largest_batch(self, mib: float, phase: Phase = "train", *, micro: bool = False) -> int:
        """The most clips whose peak is at most `mib`, checked by a trace of that batch; 0 if not even one fits.

        `micro`: as a micro-batch of a larger step (gradients stay alive).
        """
        room = mib - (self.gradients if micro else 0.0)
        line = self._line(phase)
        if self.linear:
            if line.slope <= 0:
                return LARGEST_BATCH if line.intercept <= room else 0
            guess = min(int((room - line.intercept) / line.slope), LARGEST_BATCH)
            if guess < 1:
                return 0
            if line.at(guess) <= room and self._traced_or_none(phase, guess, room):
                return guess
        return self._search(phase, room)

    def _line(self, phase: Phase) -> Line:
        return self.train if phase == "train" else self.eval

    def _traced_or_none(self, phase: Phase, batch: int, room: float) -> bool:
        """Whether `batch` really fits; a batch that the network refuses (BatchNorm of one value) does not."""
        try:
            return self.trace(phase, batch) <= room
        except LabError:
            return False

    def _search(self, phase: Phase, room: float) -> int:
        """Doubling, then bisection, on traces."""
        fits = 0
        step = 1
        while step <= LARGEST_BATCH and self._traced_or_none(phase, step, room):
            fits, step = step, step * 2
        if fits == 0 and self._traced_or_none(phase, 2, room):  # a network that refuses one clip may take two
            fits, step = 2, 4
            while step <= LARGEST_BATCH and self._traced_or_none(phase, step, room):
                fits, step = step, step * 2
        low, high = fits, min(step, LARGEST_BATCH + 1)
        while fits and high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._traced_or_none(phase, middle, room) else (low, middle)
        return low


def predict(
    build: Callable[[], nn.Module],
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    optimizer: str = "SGD",
    precision: str = "fp32",
    probes: tuple[int, int, int] = (16, 32, 64),
) -> Law:
    """The law of the network that `build()` returns, for clips of `clip_shape` (C, T, V, M).

    optimizer   SGD (momentum 0.9, Nesterov), AdamW or Adam, with weight decay
    precision   fp32, or bf16 / fp16: autocast, traced with the CPU's list of operations (marked approximate)
    probes      two batches for the law and one that checks it, ascending
    Raises `LabError` for an unknown name, or naming the operation that cannot run without values.
    """
    if precision not in ("fp32", "bf16", "fp16"):
        raise LabError(f"unknown precision {precision!r}", expected="fp32, bf16 or fp16")
    _optimizer([nn.Parameter(torch.empty(1, device="meta"))], optimizer)  # refuse a wrong name before any work
    first, second, third = probes
    if not 0 < first < second < third:
        raise LabError(f"probes {probes} do not ascend", expected="three batches, each larger than the one before")

    mixed = precision != "fp32"
    with torch.random.fork_rng(devices=[]):  # built as usual: a constructor may look at values, a forward pass may not
        model = build()
    fake = FakeTensorMode(allow_non_fake_inputs=True) if mixed else None  # autocast knows no meta device
    _without_values(model, fake.from_tensor if fake else lambda tensor: tensor.to("meta"))
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(rounded(p.numel() * p.element_size()) for p in parameters) / MIB

    bench = _Bench(model, clip_shape, num_classes, optimizer=optimizer, fake=fake)

    @cache
    def trace(phase: Phase, batch: int) -> float:
        try:
            return bench.trace(phase, batch) / MIB
        except Exception as error:  # whatever a network may raise: the caller's table goes on with the next one
            raise LabError(
                f"the {phase} step of {type(model).__name__} cannot be traced without values: {_first_line(error)}",
                where=f"batch {batch}, clips of shape {clip_shape}",
                expected="a forward pass that never reads a tensor's values (.item(), boolean indexing) and "
                "keeps its constants as buffers",
                next_step="measure it on a GPU instead",
            ) from error

    lines, deviation = {}, 0.0
    phases: tuple[Phase, ...] = ("train", "eval")
    for phase in phases:
        a, b, c = (trace(phase, batch) for batch in probes)
        slope = (b - a) / (second - first)
        lines[phase] = Line(a - slope * first, slope)
        deviation = max(deviation, abs(lines[phase].at(third) - c) / c)
    return Law(lines["train"], lines["eval"], deviation <= TOLERANCE, deviation, gradients, mixed, trace)


def _optimizer(parameters: list[nn.Parameter], name: str) -> torch.optim.Optimizer:
    """foreach=True: torch's own choice on CUDA; it holds temporaries for all parameters at once."""
    if name.lower() == "sgd":
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, foreach=True)
    if name.lower() in ("adamw", "adam"):
        kind = torch.optim.AdamW if name.lower() == "adamw" else torch.optim.Adam
        return kind(parameters, lr=1e-3, weight_decay=1e-4, foreach=True)
    raise LabError(f"unknown optimizer {name!r}", expected="SGD, AdamW or Adam")


def _without_values(model: nn.Module, empty: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Replace every tensor of `model` by `empty(tensor)`, once each, so that tied weights stay tied.

    Parameters, buffers, and constants kept as plain attributes, which `Module.to` does not see.
    """
    done: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # keeps the original too: an id is unique only while it lives

    def once(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in done:
            shell = empty(tensor.detach())
            if isinstance(tensor, nn.Parameter):
                shell = nn.Parameter(shell, requires_grad=tensor.requires_grad)
            done[id(tensor)] = (tensor, shell)
        return done[id(tensor)][1]

    for module in model.modules():
        for table in (module._parameters, module._buffers, vars(module)):
            entries: dict[str, Any] = table
            for name, value in list(entries.items()):
                if isinstance(value, torch.Tensor):
                    entries[name] = once(value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class FusedAttention(TorchFunctionMode):
    """Attention as a GPU does it in fp32: one kernel that keeps no probabilities. The meta device would take it apart.

    Where torch has no meta kernel of it (2.3), attention is taken apart after all, and the prediction is far too high.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            with contextlib.suppress(NotImplementedError, TypeError):
                return self._fused(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _fused(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0, *,
        scale: float | None = None,
    ) -> torch.Tensor:  # fmt: skip
        mask = None if attn_mask is None else attn_mask.expand(*q.shape[:-1], k.shape[-2])
        attend = torch.ops.aten._scaled_dot_product_efficient_attention
        result: torch.Tensor = attend(q, k, v, mask, q.requires_grad, dropout_p, False, scale=scale)[0]
        return result


class _Bench:
    """A network without values and an optimizer that has taken its first step, on which steps of any batch are traced.

    `fake` is the mode under which autocast acts, None for meta tensors.
    """

    def __init__(
        self,
        model: nn.Module,
        clip_shape: tuple[int, ...],
        num_classes: int,
        *,
        optimizer: str,
        fake: FakeTensorMode | None,
    ) -> None:
        self.model, self.clip_shape, self.num_classes, self.fake = model, clip_shape, num_classes, fake
        self.device = "meta" if fake is None else "cpu"
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.parameters, optimizer) if self.parameters else None
        self.touched: list[nn.Parameter] | None = None  # parameters that a step gives a gradient; None before the first

    def trace(self, phase: Phase, batch: int) -> int:
        """Peak bytes of one step at `batch` clips, with all that a training run keeps beside it."""
        with self.fake or contextlib.nullcontext():
            touched = self._first_step(batch)
            self.model.zero_grad(set_to_none=True)
            if phase == "eval":  # a trainer drops the gradients only before its next step
                for parameter in touched:
                    parameter.grad = torch.empty_like(parameter)
            clips, labels = self._clips(batch)
            memory = Lifetimes(self.device)
            with memory:
                memory.hold([*self.model.parameters(), *self.model.buffers(), *self._state(), clips, labels])
                memory.hold(p.grad for p in self.parameters if p.grad is not None)
                self._step(phase, clips, labels)
                return memory.peak

    def _first_step(self, batch: int) -> list[nn.Parameter]:
        """Let the optimizer make its state, once."""
        if self.touched is None:
            if self.optimizer is not None:
                self._step("train", *self._clips(batch))
            self.touched = [p for p in self.parameters if p.grad is not None]
        return self.touched

    def _state(self) -> list[torch.Tensor]:
        states = self.optimizer.state.values() if self.optimizer is not None else ()
        return [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]

    def _clips(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        clips = torch.empty((batch, *self.clip_shape), device=self.device)
        return clips, torch.empty(batch, dtype=torch.int64, device=self.device)

    def _step(self, phase: Phase, clips: torch.Tensor, labels: torch.Tensor) -> None:
        self.model.train(phase == "train")
        if phase == "eval":
            with torch.no_grad():
                self._loss(clips, labels)
            return
        if self.optimizer is None:
            raise ValueError("no parameter of the network needs a gradient")
        self._loss(clips, labels).backward()
        self.optimizer.step()

    def _loss(self, clips: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16) if self.fake else FusedAttention():
            logits = self.model(clips)
            wanted = (len(labels), self.num_classes)
            if logits.shape != wanted:
                raise ValueError(f"the network returns {tuple(logits.shape)}, expected {wanted}")
            return nn.functional.cross_entropy(logits, labels)
