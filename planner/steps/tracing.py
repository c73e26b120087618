"""Steps of the trainer run on tensors without values, and watched: on meta tensors, or under fake tensors where autocast acts."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.assembly import new_optimizer, train_step
from engine.evaluate import evaluation_pass
from engine.losses import Loss, LossName
from engine.optimizers import BETAS, OptimizerName
from engine.pretraining.objective import Objective, encoder_pass, is_objective
from engine.pretraining.step import pretrain_step
from engine.step import Precision, autocast, takes_positions
from layers.device import as_if_on_gpu
from layers.recompute import Level
from planner.steps.kernels import on_cuda, scratch
from planner.steps.lifetimes import Lifetimes, Timeline, rounded
from planner.steps.shapes import KnownShapes
from planner.steps.work import StepWork, Work, many_at_once
from shared_data.errors import LabError

Phase = Literal["train", "eval"]
Kernels = Literal["cuda", "cpu"]
"""Whose kernels are predicted."""


class Grows(LabError):
    """A network of which each step leaves more alive than the one before."""


LITTLE = 512
"""Bytes more after each step of which nothing is said: torch 2.3's AdamW leaves one number."""


class TooFewValues(LabError):
    """A batch so small that BatchNorm has one value of a channel, of which it can learn no spread."""


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


@dataclass(frozen=True, kw_only=True)
class TracedStep(StepSettings):
    """With what a lever may change, and what costs no memory: an `engine.assembly.StepConfig`.

    cuda_graphs, compile   never: a replayed step and a compiled one are not predicted
    """

    precision: Precision = "fp32"
    forward_batch_size: int | None = None
    recompute: Level = "none"
    base_lr: float = 0.1
    decay_vectors: bool = True
    betas: Sequence[float] = BETAS
    layer_decay: float = 1.0
    encoder_lr_factor: float = 1.0
    clip_each: bool = False
    cuda_graphs: bool = False
    compile: bool = False


@dataclass(frozen=True)
class Task:
    """One step to be traced.

    batch         clips of an optimizer step, or of an evaluation pass
    micro_batch   clips per forward pass, None for the whole batch
    """

    phase: Phase
    batch: int
    precision: Precision
    recompute: Level
    micro_batch: int | None = None

    @property
    def shown(self) -> int:
        """Clips that are run: of micro-batches two, as the second has gradients beside it and those after do the same again."""
        return self.batch if self.micro_batch is None else min(self.batch, 2 * self.micro_batch)

    @property
    def piece(self) -> int:
        """Clips of a forward pass."""
        return self.micro_batch or self.batch

    @property
    def kind(self) -> Kind:
        """What it has in common with steps of other batches."""
        return Kind(self.phase, self.precision, self.recompute, self.micro_batch is not None)


@dataclass(frozen=True)
class Kind:
    """Steps that differ in nothing but the number of clips: what a law holds for."""

    phase: Phase
    precision: Precision
    recompute: Level
    pieces: bool

    def task(self, clips: int) -> Task:
        """That with `clips` in each forward pass; in pieces, two of them."""
        batch, piece = (2 * clips, clips) if self.pieces else (clips, None)
        return Task(self.phase, batch, self.precision, self.recompute, piece)


@dataclass(frozen=True)
class Trace:
    """What a step did.

    peak       bytes, each storage rounded up to the allocator's 512
    timeline   births and deaths; the tensors of the batch have the first numbers
    batch      how many tensors those are
    """

    peak: int
    timeline: Timeline
    batch: int


class Bench:
    """A network without values and an optimizer that has taken its first step, on which steps of any batch are traced.

    fake      fake tensors, under which autocast acts, instead of meta tensors
    kernels   "cuda": what a GPU does, with the multi-tensor updates that torch chooses there where it has no fused ones, which
              need less; "cpu": what torch does on a CPU, always with fake tensors
    """

    def __init__(
        self,
        model: nn.Module,
        clip_shape: tuple[int, ...],
        num_classes: int,
        settings: StepSettings,
        *,
        fake: bool,
        kernels: Kernels = "cuda",
    ) -> None:
        self.fake = FakeTensorMode(allow_non_fake_inputs=True) if fake or kernels == "cpu" else None
        if self.fake is not None:
            self.fake.cache_enabled = False  # `KnownShapes` is faster, and torch 2.3's shrinks storages
        without_values(model, self.fake.from_tensor if self.fake else lambda tensor: tensor.to("meta"))
        self.model, self.clip_shape, self.num_classes, self.settings = model, clip_shape, num_classes, settings
        self.kernels = kernels
        self.device = "meta" if self.fake is None else "cpu"
        self.objective = is_objective(model)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = new_optimizer(self._config(), model) if self.parameters else None
        self.touched: list[nn.Parameter] | None = None  # parameters that a step gives a gradient; None before the first

    @property
    def together(self) -> bool:
        """Whether the loss is of the whole batch, also where it goes through the network in pieces."""
        return bool(getattr(self.model, "in_batch", False))

    def seen_in_pieces(self) -> list[nn.Module]:
        """The modules that micro-batches go through: all but those of a loss that is of the whole batch."""
        parts = cast(Objective, self.model).encoders().values() if self.together else (self.model,)
        return [module for part in parts for module in part.modules()]

    def trace(self, task: Task) -> Trace:
        """The step, with all that a training run keeps beside it."""
        memory = Lifetimes(self.device, scratch if self.kernels == "cuda" else None, reads=True)
        with self._ready(task) as clips, memory:
            memory.hold(clips)
            memory.hold([*self.model.parameters(), *self.model.buffers(), *self._state()])
            memory.hold(p.grad for p in self.parameters if p.grad is not None)
            shown = clips if self.together else [tensor[: task.shown] for tensor in clips]
            self._step(task, shown)
            found = Trace(memory.peak, memory.timeline, len(clips))
            self._require_no_growth(task, shown, memory, clips)
            return found

    def _require_no_growth(self, task: Task, shown: list[torch.Tensor], memory: Lifetimes, clips: list[torch.Tensor]) -> None:
        """Refuse a network of which more is alive after each step. What is alive beyond the usual may be of a step of its own."""

        def unusual() -> int:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            usual = [*clips, *self.model.parameters(), *self.model.buffers(), *self._state(), *gradients]
            storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in usual if t.device.type == self.device}
            return memory.live - sum(map(rounded, storages.values()))

        if not unusual():
            return
        gc.collect()
        after_one = unusual()
        if not after_one:
            return
        if task.phase == "train":
            self.model.zero_grad(set_to_none=True)
        self._step(task, shown)
        gc.collect()
        growth = unusual() - after_one
        if growth > LITTLE:
            raise Grows(
                f"the {task.phase} step of {type(self.model).__name__} leaves {growth / 2**20:.4g} MiB more alive each time: "
                f"memory grows until it is full",
                where=f"batch {task.batch}, clips of shape {self.clip_shape}",
                expected="a network that keeps nothing of a step for the next ones (a list that tensors are appended to)",
                next_step="let it drop what it kept, or keep it detached and only the last",
            )

    def work(self, task: Task) -> StepWork:
        """What the step, with all its micro-batches, asks of the device."""
        work = Work(self.device)
        with self._ready(task) as clips, work:
            self._step(task, clips)
        return work.counted

    @contextlib.contextmanager
    def _ready(self, task: Task) -> Iterator[list[torch.Tensor]]:
        """Inside, the step can be run on the clips given; gradients are as the trainer leaves them."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_no_collection())
            stack.enter_context(self.fake or contextlib.nullcontext())
            stack.enter_context(KnownShapes(self.fake))
            if self.kernels == "cuda":
                stack.enter_context(as_if_on_gpu())
                stack.enter_context(on_cuda(autocast=task.precision != "fp32"))
                if self.optimizer is not None:
                    stack.enter_context(many_at_once(self.optimizer))
            touched = self._first_step(task)
            self.model.zero_grad(set_to_none=True)
            if task.phase == "eval":  # a trainer drops the gradients only before its next step
                for parameter in touched:
                    parameter.grad = torch.empty_like(parameter)
            yield self._clips(task)

    def _first_step(self, task: Task) -> list[nn.Parameter]:
        """Let the optimizer make its state, once."""
        if self.touched is None:
            if self.optimizer is not None:
                first = Task("train", task.shown, task.precision, task.recompute, task.micro_batch)
                self._step(first, self._clips(first))
            self.touched = [p for p in self.parameters if p.grad is not None]
        return self.touched

    def _config(self, precision: Precision = "fp32", micro_batch: int | None = None, recompute: Level = "none") -> TracedStep:
        return TracedStep(
            **asdict(self.settings), precision=precision, forward_batch_size=micro_batch, recompute=recompute
        )  # fmt: skip

    def _state(self) -> list[torch.Tensor]:
        states = self.optimizer.state.values() if self.optimizer is not None else ()
        return [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]

    def _clips(self, task: Task) -> list[torch.Tensor]:
        """Clips, labels and, where the network reads them, positions of the frames."""
        batch = task.batch
        clips = torch.empty((batch, *self.clip_shape), device=self.device)
        labels = torch.empty(batch, dtype=torch.int64, device=self.device)
        positions = [torch.empty(batch, self.clip_shape[-3], device=self.device)] if takes_positions(self.model) else []
        return [clips, labels, *positions]

    def _step(self, task: Task, batch: list[torch.Tensor]) -> None:
        self.model.train(task.phase == "train")
        # Autocast and loss scalers know no meta device; in fp32 they do nothing on any. A CPU's scaler would look at values.
        device = torch.device("cpu")
        precision: Precision = "fp32" if task.precision == "fp32" else "bf16"
        if task.phase == "eval":
            clips, labels, *positions = batch
            with torch.no_grad():
                if self.objective:
                    with autocast(precision, device):
                        encoder_pass(self.model, clips)
                    return
                self._checked(evaluation_pass(self.model, clips, *positions, device=device, precision=precision), labels)
            return
        if self.optimizer is None:
            raise ValueError("no parameter of the network needs a gradient")
        config = self._config(precision, task.micro_batch, task.recompute)
        if self.objective:
            pretrain_step(config, self.model, device, optimizer=self.optimizer)(*batch)
            return
        step = train_step(config, self.model, device, optimizer=self.optimizer)
        step.loss = self._checking(step.loss)
        step(*batch)

    def _checking(self, loss: Loss) -> Loss:
        return lambda logits, labels: loss(self._checked(logits, labels), labels)

    def _checked(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        wanted = (len(labels), self.num_classes)
        if logits.shape != wanted:
            raise ValueError(f"the network returns {tuple(logits.shape)}, expected {wanted}")
        return logits


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Python's collector of cycles comes when it likes, and would make two traces of one step differ. Without it, what hangs in
    a cycle counts as alive."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def without_values(model: nn.Module, empty: Callable[[torch.Tensor], torch.Tensor]) -> None:
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
