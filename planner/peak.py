"""Peak memory of one training step and one evaluation pass, predicted without a GPU and without weights in memory.

First cut: tensors only. What a GPU needs on top (context, cuBLAS and cuDNN workspaces, allocator slack) is the
allowance of `planner.verdict`. The step traced is the trainer's own, `engine.step.TrainStep`, with its recomputation,
micro-batches, clipping and penalty, and the update by multi-tensor kernels (torch's choice on CUDA where it has no fused
ones, which need less). The second step is the one that counts, because the optimizer's state appears at the end of the
first.

The law in the batch is affine (fixed part + so much per clip) for every network that treats clips alike: two probes
give it, a third must agree within 1 %. A network that breaks it is still predicted right: each batch is traced. Steps in
micro-batches are always traced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.losses import LossName, build_loss
from engine.optimizers import OptimizerName, build_optimizer
from engine.step import Precision, TrainStep, autocast, forward, takes_positions
from layers.device import as_if_on_gpu
from layers.recompute import Level
from planner.lifetimes import Lifetimes, rounded
from shared_data.errors import LabError

MIB = 2**20
Phase = Literal["train", "eval"]
TOLERANCE = 0.01
"""Largest relative distance between the third probe and the line through the first two."""
LARGEST_BATCH = 1 << 16
"""Answers of `Law.largest_batch` stop here."""


ONE_VALUE = "Expected more than 1 value per channel"
"""How torch's BatchNorm begins its refusal of a batch that gives a channel one value."""


class TooFewValues(LabError):
    """A batch so small that BatchNorm has one value of a channel, of which it can learn no spread."""


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
    """Predicted peak of the tensors of one model under one optimizer, precision and level of recomputation, in MiB.

    train, eval   the affine laws; evaluation is that of a training run, whose optimizer state and gradients are alive
    linear        whether the third probe agreed; if not, every question is answered by a trace of that very batch
    deviation     relative distance of the third probe from the line, the worse of the two phases
    gradients     MiB of all gradients
    approximate   True where an operation list stands in for CUDA's (autocast)
    trace         (phase, batch, micro-batch or None) -> MiB
    """

    train: Line
    eval: Line
    linear: bool
    deviation: float
    gradients: float
    approximate: bool
    trace: Callable[[Phase, int, int | None], float] = field(repr=False, compare=False)

    def peak(self, batch: int, phase: Phase = "train", *, micro_batch: int | None = None) -> float:
        """MiB at `batch` clips per step; with `micro_batch`, of a step run in pieces of that many clips, which is traced.

        Raises `LabError` for a batch below 1.
        """
        if batch < 1 or (micro_batch is not None and micro_batch < 1):
            raise LabError(f"batch {batch if batch < 1 else micro_batch} is not a number of clips", expected="1 or more")
        if phase == "train" and micro_batch is not None and micro_batch < batch:
            return self.trace(phase, batch, micro_batch)
        return self._line(phase).at(batch) if self.linear else self.trace(phase, batch, None)

    def largest_batch(self, mib: float, phase: Phase = "train") -> int:
        """The most clips whose peak is at most `mib`, checked by a trace of that batch; 0 if not even one fits."""
        line = self._line(phase)
        if self.linear:
            if line.slope <= 0:
                return LARGEST_BATCH if line.intercept <= mib else 0
            guess = min(int((mib - line.intercept) / line.slope), LARGEST_BATCH)
            if guess < 1:
                return 0
            if line.at(guess) <= mib and self._traced_or_none(phase, guess, mib):
                return guess
        return self._search(phase, mib)

    def _line(self, phase: Phase) -> Line:
        return self.train if phase == "train" else self.eval

    def _traced_or_none(self, phase: Phase, batch: int, room: float) -> bool:
        """Whether `batch` really fits; a batch that the network refuses (BatchNorm of one value) does not."""
        try:
            return self.trace(phase, batch, None) <= room
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
    optimizer: OptimizerName = "SGD",
    precision: Precision = "fp32",
    recompute: Level = "cheap",
    probes: tuple[int, int, int] = (16, 32, 64),
) -> Law:
    """The law of the network that `build()` returns, for clips of `clip_shape` (C, T, V, M).

    optimizer   SGD (momentum 0.9, Nesterov), AdamW or Adam, with weight decay
    precision   fp32, or bf16 / fp16: see `Steps.peak`
    recompute   what the backward pass computes again; "cheap" is what a GPU does unless told otherwise
    probes      two batches for the law and one that checks it, ascending
    Raises `LabError` for an unknown name, or naming the operation that cannot run without values.
    """
    steps = Steps(build, clip_shape, num_classes, StepSettings(optimizer=optimizer))
    return steps.law(precision=precision, recompute=recompute, probes=probes)


@dataclass(frozen=True)
class StepSettings:
    """What of a recipe's step costs memory, beside what a lever may change; names as in `engine.config.RunConfig`."""

    optimizer: OptimizerName = "SGD"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    clip_grad: float | None = None
    penalty_weight: float = 0.0
    loss_type: LossName = "CE"
    label_smoothing: float = 0.0


class Steps:
    """The steps of one network on clips of one shape: any batch, precision and level, each traced once.

    Raises `LabError` for an unknown optimizer.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        clip_shape: tuple[int, ...],
        num_classes: int,
        settings: StepSettings | None = None,
    ) -> None:
        self.settings = settings or StepSettings()
        if self.settings.optimizer not in get_args(OptimizerName):
            raise LabError(f"unknown optimizer {self.settings.optimizer!r}", expected=", ".join(get_args(OptimizerName)))
        self.build, self.clip_shape, self.num_classes = build, clip_shape, num_classes
        self._benches: dict[bool, _Bench] = {}  # under fake tensors, or on meta tensors
        self._known: dict[tuple[object, ...], float] = {}
        self._needs_fake = False

    def peak(
        self,
        phase: Phase,
        batch: int,
        *,
        precision: Precision = "fp32",
        recompute: Level = "cheap",
        micro_batch: int | None = None,
    ) -> float:
        """MiB at `batch` clips, by a trace.

        precision   bf16 and fp16 by the CPU's list of operations for autocast to bf16, as the meta device has none; a loss
                    scaler's few numbers are not counted
        Raises `LabError` naming what cannot run without values.
        """
        key = (phase, batch, precision, recompute, micro_batch) if phase == "train" else (phase, batch, precision)
        if key not in self._known:
            self._known[key] = self._traced(phase, batch, precision, recompute, micro_batch) / MIB
        return self._known[key]

    def law(
        self, *, precision: Precision = "fp32", recompute: Level = "cheap", probes: tuple[int, int, int] = (16, 32, 64)
    ) -> Law:
        """The law under `precision` and `recompute`; see `predict`."""
        if precision not in get_args(Precision):
            raise LabError(f"unknown precision {precision!r}", expected="fp32, bf16 or fp16")
        first, second, third = probes
        if not 0 < first < second < third:
            raise LabError(f"probes {probes} do not ascend", expected="three batches, each larger than the one before")

        def trace(phase: Phase, batch: int, micro_batch: int | None = None) -> float:
            return self.peak(phase, batch, precision=precision, recompute=recompute, micro_batch=micro_batch)

        lines, deviation = {}, 0.0
        phases: tuple[Phase, ...] = ("train", "eval")
        for phase in phases:
            a, b, c = (trace(phase, batch) for batch in probes)
            slope = (b - a) / (second - first)
            lines[phase] = Line(a - slope * first, slope)
            deviation = max(deviation, abs(lines[phase].at(third) - c) / c)
        gradients = sum(rounded(p.numel() * p.element_size()) for p in self._any.parameters) / MIB
        return Law(
            lines["train"], lines["eval"], deviation <= TOLERANCE, deviation, gradients, precision != "fp32", trace
        )  # fmt: skip

    @property
    def batch_norm(self) -> bool:
        """Whether the network normalises by statistics of the batch, so that the size of a micro-batch is seen."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self._any.model.modules())

    @property
    def _any(self) -> _Bench:
        return next(iter(self._benches.values()), None) or self._bench(fake=False)

    def _bench(self, *, fake: bool) -> _Bench:
        if fake not in self._benches:
            with torch.random.fork_rng(devices=[]):  # built as usual: a constructor may look at values
                model = self.build()
            mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
            self._benches[fake] = _Bench(model, self.clip_shape, self.num_classes, self.settings, mode)
        return self._benches[fake]

    def _traced(self, phase: Phase, batch: int, precision: Precision, recompute: Level, micro_batch: int | None) -> int:
        fake = precision != "fp32" or self._needs_fake
        bench = self._bench(fake=fake)
        try:
            return bench.trace(phase, batch, precision, recompute, micro_batch)
        except Exception as error:  # whatever a network may raise: the caller's table goes on with the next one
            if isinstance(error, NotImplementedError) and not fake:  # no meta kernel (torch 2.3): fake tensors do without
                self._needs_fake = True
                return self._traced(phase, batch, precision, recompute, micro_batch)
            kind = TooFewValues if isinstance(error, ValueError) and str(error).startswith(ONE_VALUE) else LabError
            raise kind(
                f"the {phase} step of {type(bench.model).__name__} cannot be traced without values: {_first_line(error)}",
                where=f"batch {batch}, clips of shape {self.clip_shape}",
                expected="a forward pass that never reads a tensor's values (.item(), boolean indexing) and "
                "keeps its constants as buffers",
                next_step="measure it on a GPU instead",
            ) from error


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


class FusedAttention:
    """Inside, attention is what a GPU does: one kernel that keeps no probabilities. Tensors without values would be taken apart.

    `torch.nn.functional.scaled_dot_product_attention` is replaced, and not caught by a `TorchFunctionMode`, which is off in
    backward passes that compute a block again.

    or_apart   what happens where torch has no meta kernel of it (2.3): take it apart after all, which is predicted far too
               high, or, if False, raise `NotImplementedError`. Fake tensors need no such kernel.
    """

    def __init__(self, *, or_apart: bool = True) -> None:
        self.or_apart = or_apart

    def __enter__(self) -> FusedAttention:
        self._before: Any = nn.functional.scaled_dot_product_attention
        nn.functional.scaled_dot_product_attention = self._attention
        return self

    def __exit__(self, *_: object) -> None:
        nn.functional.scaled_dot_product_attention = self._before

    def _attention(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        try:
            return self._fused(*args, **kwargs)
        except TypeError:  # a keyword that only the whole function knows
            pass
        except NotImplementedError:
            if not self.or_apart:
                raise
        result: torch.Tensor = self._before(*args, **kwargs)
        return result

    @staticmethod
    def _fused(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0, *,
        scale: float | None = None,
    ) -> torch.Tensor:  # fmt: skip
        if (dtype := _autocast_dtype(q.device.type)) is not None:
            q, k, v = (tensor.to(dtype) for tensor in (q, k, v))
            attn_mask = None if attn_mask is None else attn_mask.to(dtype)
        mask = None if attn_mask is None else attn_mask.expand(*q.shape[:-1], k.shape[-2])
        attend = torch.ops.aten._scaled_dot_product_efficient_attention
        result: torch.Tensor = attend(q, k, v, mask, q.requires_grad, dropout_p, False, scale=scale)[0]
        return result


def _autocast_dtype(kind: str) -> torch.dtype | None:
    """What autocast, if it is on for devices of this kind, turns matrix products into."""
    if kind != "cpu":
        return None
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None  # torch 2.3


class _Bench:
    """A network without values and an optimizer that has taken its first step, on which steps of any batch are traced.

    `fake` is the mode under which autocast acts, None for meta tensors.
    """

    def __init__(
        self,
        model: nn.Module,
        clip_shape: tuple[int, ...],
        num_classes: int,
        settings: StepSettings,
        fake: FakeTensorMode | None,
    ) -> None:
        _without_values(model, fake.from_tensor if fake else lambda tensor: tensor.to("meta"))
        self.model, self.clip_shape, self.num_classes, self.settings, self.fake = model, clip_shape, num_classes, settings, fake
        self.device = "meta" if fake is None else "cpu"
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = self._optimizer() if self.parameters else None
        self.touched: list[nn.Parameter] | None = None  # parameters that a step gives a gradient; None before the first
        self.criterion = build_loss(settings.loss_type, label_smoothing=settings.label_smoothing)

    def trace(self, phase: Phase, batch: int, precision: Precision, recompute: Level, micro_batch: int | None) -> int:
        """Peak bytes of one step at `batch` clips, with all that a training run keeps beside it.

        Of micro-batches, two are run: the second has the gradients beside it, and each one after it does the same again.
        """
        shown = batch if micro_batch is None else min(batch, 2 * micro_batch)
        with self.fake or contextlib.nullcontext(), as_if_on_gpu(), FusedAttention(or_apart=False):
            touched = self._first_step(shown, precision, recompute, micro_batch)
            self.model.zero_grad(set_to_none=True)
            if phase == "eval":  # a trainer drops the gradients only before its next step
                for parameter in touched:
                    parameter.grad = torch.empty_like(parameter)
            clips = self._clips(batch)
            memory = Lifetimes(self.device)
            with memory:
                memory.hold([*self.model.parameters(), *self.model.buffers(), *self._state(), *clips])
                memory.hold(p.grad for p in self.parameters if p.grad is not None)
                self._step(phase, [tensor[:shown] for tensor in clips], precision, recompute, micro_batch)
                return memory.peak

    def _first_step(self, batch: int, precision: Precision, recompute: Level, micro_batch: int | None) -> list[nn.Parameter]:
        """Let the optimizer make its state, once."""
        if self.touched is None:
            if self.optimizer is not None:
                self._step("train", self._clips(batch), precision, recompute, micro_batch)
            self.touched = [p for p in self.parameters if p.grad is not None]
        return self.touched

    def _optimizer(self) -> torch.optim.Optimizer:
        """The recipe's, with the multi-tensor kernels of a GPU, which hold temporaries for all parameters at once."""
        optimizer = build_optimizer(
            self.parameters, name=self.settings.optimizer, lr=0.1, weight_decay=self.settings.weight_decay,
            momentum=self.settings.momentum, nesterov=self.settings.nesterov,
        )  # fmt: skip
        for group in optimizer.param_groups:
            group["foreach"] = True
        return optimizer

    def _state(self) -> list[torch.Tensor]:
        states = self.optimizer.state.values() if self.optimizer is not None else ()
        return [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]

    def _clips(self, batch: int) -> list[torch.Tensor]:
        """Clips, labels and, where the network reads them, positions of the frames."""
        clips = torch.empty((batch, *self.clip_shape), device=self.device)
        labels = torch.empty(batch, dtype=torch.int64, device=self.device)
        positions = [torch.empty(batch, self.clip_shape[1], device=self.device)] if takes_positions(self.model) else []
        return [clips, labels, *positions]

    def _step(
        self, phase: Phase, batch: list[torch.Tensor], precision: Precision, recompute: Level, micro_batch: int | None
    ) -> None:
        self.model.train(phase == "train")
        # Autocast and loss scalers know no meta device; in fp32 they do nothing on any. A CPU's scaler would look at values.
        device = torch.device("cpu")
        precision = "fp32" if precision == "fp32" else "bf16"
        if phase == "eval":
            clips, labels, *positions = batch
            with torch.no_grad(), autocast(precision, device):
                self._checked(forward(self.model, clips, *positions), labels)
            return
        if self.optimizer is None:
            raise ValueError("no parameter of the network needs a gradient")
        step = TrainStep(
            self.model, self.optimizer, self._loss, precision=precision, clip_grad=self.settings.clip_grad,
            micro_batch=micro_batch, penalty=self.settings.penalty_weight, recompute=recompute, device=device,
        )  # fmt: skip
        step(*batch)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.criterion(self._checked(logits, labels), labels)

    def _checked(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        wanted = (len(labels), self.num_classes)
        if logits.shape != wanted:
            raise ValueError(f"the network returns {tuple(logits.shape)}, expected {wanted}")
        return logits
