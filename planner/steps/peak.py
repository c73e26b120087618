"""Peak memory of one training step and one evaluation pass, predicted without a GPU and without weights in memory.

Tensors only, with what CUDA's kernels hold beside them (`planner.steps.kernels`). What a GPU needs on top (context, cuBLAS and
cuDNN workspaces, allocator slack) is the calibration of `planner.card.budget`. The step traced is the trainer's own,
`engine.step.TrainStep`, with its recomputation, micro-batches, clipping and penalty. The second step is the one that counts,
because the optimizer's state appears at the end of the first.

The law in the batch comes from two probes and is exact (`planner.steps.affine`) for every network that treats clips alike: a
third probe must agree within 1 %. A network that breaks it is still predicted right: each batch is traced. Steps in micro-batches
have a law in the size of the pieces, beside which the other clips wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, get_args

import torch
from torch import nn

from engine.optimizers import OptimizerName
from engine.pretraining.objective import TooFewClips
from engine.step import Precision
from layers.recompute import Level
from planner.steps.affine import LARGEST_BATCH, MIB, Envelope, Fit, Line, envelope
from planner.steps.cache import Findings, Store
from planner.steps.lifetimes import rounded
from planner.steps.tracing import Bench, Grows, Kernels, Kind, Phase, StepSettings, Task, TooFewValues, Trace
from planner.steps.work import StepWork
from shared_data.errors import LabError

Found = TypeVar("Found")
TOLERANCE = 0.01
"""Largest relative distance between the third probe and the law of the first two."""
PROBES = (2, 32, 64)
"""Batches for the law, and the one that checks it."""

PHASES: tuple[Phase, ...] = get_args(Phase)
NO_LINE = Line(float("nan"), float("nan"))
"""In place of one that was not asked for."""
ONE_VALUE = "Expected more than 1 value per channel"
"""How torch's BatchNorm begins its refusal of a batch that gives a channel one value."""


@dataclass(frozen=True)
class Law:
    """Predicted peak of the tensors of one model under one optimizer, precision and level of recomputation, in MiB.

    train, eval   lines that hold at large batches; at small ones the peak may lie above, never below. Evaluation is that of a
                  training run, whose optimizer state and gradients are alive
    linear        whether all traces agreed when the law was asked for; if not, or if a later one does not, every question is
                  answered by a trace of that very batch
    deviation     relative distance of the third probe from the law, the worse of the two phases
    gradients     MiB of all gradients
    approximate   True where an operation list stands in for CUDA's (autocast)
    trace, ask    (phase, batch, micro-batch or None) -> MiB, by a trace; by what is known, or a trace where that is not enough
    envelope      phase -> the law in bytes, None where it has none or has been found wrong
    """

    train: Line
    eval: Line
    linear: bool
    deviation: float
    gradients: float
    approximate: bool
    trace: Callable[[Phase, int, int | None], float] = field(repr=False, compare=False)
    ask: Callable[[Phase, int, int | None], float] = field(repr=False, compare=False)
    envelope: Callable[[Phase], Envelope | None] = field(repr=False, compare=False)

    def peak(self, batch: int, phase: Phase = "train", *, micro_batch: int | None = None) -> float:
        """MiB at `batch` clips per step; with `micro_batch`, of a step run in pieces of that many clips.

        Raises `LabError` for a batch below 1.
        """
        if batch < 1 or (micro_batch is not None and micro_batch < 1):
            raise LabError(f"batch {batch if batch < 1 else micro_batch} is not a number of clips", expected="1 or more")
        return self.ask(phase, batch, micro_batch)

    def largest_batch(self, mib: float, phase: Phase = "train") -> int:
        """The most clips whose peak is at most `mib`, checked by a trace of that batch; 0 if not even one fits."""
        found = self.envelope(phase)
        if found is not None:
            guess = found.largest(mib * MIB)
            fits = guess > 0 and self._traced_within(phase, guess, mib)
            if self.envelope(phase) is not None and (fits or guess == 0):  # that trace did not find the law wrong
                return guess
        return self._search(phase, mib)

    def _traced_within(self, phase: Phase, batch: int, room: float) -> bool:
        """Whether `batch` really fits; one that is too small for BatchNorm does not."""
        try:
            return self.trace(phase, batch, None) <= room
        except TooFewValues:
            return False

    def _search(self, phase: Phase, room: float) -> int:
        """Doubling, then bisection, on traces."""
        fits = 0
        step = 1
        while step <= LARGEST_BATCH and self._traced_within(phase, step, room):
            fits, step = step, step * 2
        if fits == 0 and self._traced_within(phase, 2, room):  # a network that refuses one clip may take two
            fits, step = 2, 4
            while step <= LARGEST_BATCH and self._traced_within(phase, step, room):
                fits, step = step, step * 2
        low, high = fits, min(step, LARGEST_BATCH + 1)
        while fits and high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._traced_within(phase, middle, room) else (low, middle)
        return low


def predict(
    build: Callable[[], nn.Module],
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    optimizer: OptimizerName = "SGD",
    precision: Precision = "fp32",
    recompute: Level = "cheap",
    probes: tuple[int, int, int] = PROBES,
) -> Law:
    """The law of the network that `build()` returns, for clips of `clip_shape` (C, T, V, M).

    optimizer   SGD (momentum 0.9, Nesterov), AdamW or Adam, with weight decay
    precision   fp32, or bf16 / fp16: see `Steps.peak`
    recompute   what the backward pass computes again; "cheap" is what a GPU does unless told otherwise
    probes      two batches for the law and one that checks it, ascending
    Raises `LabError` for an unknown name, or naming the operation that cannot run without values.
    """
    steps = Steps(build, clip_shape, num_classes, StepSettings(optimizer=optimizer), probes=probes)
    return steps.law(precision=precision, recompute=recompute)


class Steps:
    """The steps of one network on clips of one shape: any batch, precision and level, each traced once.

    kernels   whose kernels are predicted: "cuda", or "cpu", for which a run on a CPU can be held against the prediction
    store     where it is kept what is found; None: nowhere
    bench     runs them: called as `Bench`
    Raises `LabError` for an unknown optimizer or probes that do not ascend.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        clip_shape: tuple[int, ...],
        num_classes: int,
        settings: StepSettings | None = None,
        *,
        kernels: Kernels = "cuda",
        probes: tuple[int, int, int] = PROBES,
        store: Store | None = None,
        bench: Callable[..., Bench] = Bench,
    ) -> None:
        self.settings = settings or StepSettings()
        if self.settings.optimizer not in get_args(OptimizerName):
            raise LabError(f"unknown optimizer {self.settings.optimizer!r}", expected=", ".join(get_args(OptimizerName)))
        if not 0 < probes[0] < probes[1] < probes[2]:
            raise LabError(f"probes {probes} do not ascend", expected="three batches, each larger than the one before")
        self.build, self.clip_shape, self.num_classes = build, clip_shape, num_classes
        self.kernels, self.probes, self.bench = kernels, probes, bench
        self._benches: dict[bool, Bench] = {}  # under fake tensors, or on meta tensors
        self.store = store
        self._found = Findings() if store is None else store.read()
        self._seen: dict[Kind, tuple[Task, Trace]] = {}  # the last of each kind
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
        """MiB at `batch` clips: the first question about a phase, precision and level by a trace, others by their law.

        The law is believed up to the most clips that were traced: a question about more is a trace, too, which widens it. One
        trace that contradicts it ends it.

        precision   bf16 and fp16 as autocast to bf16 under fake tensors, by CUDA's list of operations (see `kernels`); a loss
                    scaler's few numbers are not counted
        Raises `LabError` naming what cannot run without values, `TooFewValues` for a batch too small for BatchNorm.
        """
        task = _task(phase, batch, precision, recompute, micro_batch)
        if task in self._found.peaks:
            return self._found.peaks[task]
        if self._is_of_law(task) and any(one.kind == task.kind for one in self._found.peaks):
            found = self._fit(task.kind).envelope
            if found is not None and task.piece <= max(one.piece for one in self._found.peaks if one.kind == task.kind):
                return found.at(task.piece, task.batch) / MIB
        return self.traced(phase, batch, precision=precision, recompute=recompute, micro_batch=micro_batch)

    def traced(
        self,
        phase: Phase,
        batch: int,
        *,
        precision: Precision = "fp32",
        recompute: Level = "cheap",
        micro_batch: int | None = None,
    ) -> float:
        """The same, by a trace of that very batch."""
        task = _task(phase, batch, precision, recompute, micro_batch)
        if task not in self._found.peaks:
            trace = self._trace(task)
            self._found.peaks[task] = trace.peak / MIB
            self._seen[task.kind] = task, trace
            if task.kind in self._found.fits:
                self._found.fits[task.kind] = self._held_against_traces(task.kind, self._found.fits[task.kind])
            self._keep()
        return self._found.peaks[task]

    def counted(self, phase: Phase, batch: int, *, precision: Precision = "fp32", recompute: Level = "cheap") -> StepWork:
        """What a step asks of the device, by a count of that very batch: for steps that are no line in it."""
        task = _task(phase, batch, precision, recompute, None)
        if task not in self._found.works:
            self._found.works[task] = self._counted(task)
            self._keep()
        return self._found.works[task]

    def law(self, *, precision: Precision = "fp32", recompute: Level = "cheap", phases: Sequence[Phase] = PHASES) -> Law:
        """The law under `precision` and `recompute`; see `predict`. It is of no other than the `phases`.

        Raises `LabError` for an unknown precision, or naming what cannot run without values; `TooFewValues` where even the
        probes are too small for BatchNorm.
        """
        if precision not in get_args(Precision):
            raise LabError(f"unknown precision {precision!r}", expected="fp32, bf16 or fp16")

        def trace(phase: Phase, batch: int, micro_batch: int | None = None) -> float:
            return self.traced(phase, batch, precision=precision, recompute=recompute, micro_batch=micro_batch)

        def ask(phase: Phase, batch: int, micro_batch: int | None = None) -> float:
            return self.peak(phase, batch, precision=precision, recompute=recompute, micro_batch=micro_batch)

        def fit(phase: Phase) -> Fit:
            return self._fit(_task(phase, 1, precision, recompute, None).kind)

        fits = {phase: fit(phase) for phase in phases}
        train, evaluation = (fits[phase].line if phase in fits else NO_LINE for phase in PHASES)
        linear, deviation = all(one.envelope for one in fits.values()), max(one.deviation for one in fits.values())
        return Law(
            train, evaluation, linear, deviation, self.gradients, precision != "fp32", trace, ask,
            lambda phase: fit(phase).envelope,
        )  # fmt: skip

    def work(
        self,
        batch: int,
        *,
        precision: Precision = "fp32",
        recompute: Level = "cheap",
        micro_batch: int | None = None,
        phase: Phase = "train",
    ) -> StepWork:
        """What a step of `batch` clips asks of the device, from counts of the first two probes.

        A step in pieces is counted whole where there are few, and from two and three pieces where there are more.
        Raises `LabError` as `peak` does.
        """
        task = _task(phase, batch, precision, recompute, micro_batch)
        if task not in self._found.works:
            self._found.works[task] = self._reckoned(task)
            self._keep()
        return self._found.works[task]

    @property
    def gradients(self) -> float:
        """MiB of all gradients."""
        return self._fact("gradients", lambda bench: sum(rounded(p.numel() * p.element_size()) for p in bench.parameters) / MIB)

    @property
    def weights(self) -> float:
        """MiB of all parameters and buffers, frozen ones too."""

        def held(bench: Bench) -> float:
            tensors = {id(tensor): tensor for tensor in (*bench.model.parameters(), *bench.model.buffers())}
            return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) / MIB

        return self._fact("weights", held)

    @property
    def batch_norm(self) -> bool:
        """Whether the network normalises by statistics of the batch, so that the size of a micro-batch is seen."""
        norms = nn.modules.batchnorm._BatchNorm
        return bool(self._fact("batch_norm", lambda bench: any(isinstance(m, norms) for m in bench.seen_in_pieces())))

    @property
    def _together(self) -> bool:
        """Whether pieces of a batch share a loss: their memory is a line in neither."""
        return bool(self._fact("together", lambda bench: bench.together))

    def _fact(self, name: str, ask: Callable[[Bench], float]) -> float:
        if name not in self._found.facts:
            bench = next(iter(self._benches.values()), None) or self._bench(fake=False)
            self._found.facts[name] = ask(bench)
            self._keep()
        return self._found.facts[name]

    def _keep(self) -> None:
        if self.store is not None:
            self.store.write(self._found)

    def _bench(self, *, fake: bool) -> Bench:
        if fake not in self._benches:
            with torch.random.fork_rng(devices=[]):  # built as usual: a constructor may look at values
                model = self.build()
            self._benches[fake] = self.bench(
                model, self.clip_shape, self.num_classes, self.settings, fake=fake, kernels=self.kernels
            )  # fmt: skip
        return self._benches[fake]

    def _fit(self, kind: Kind) -> Fit:
        if kind not in self._found.fits:
            self._found.fits[kind] = self._held_against_traces(kind, self._fitted(kind))
            self._keep()
        return self._found.fits[kind]

    def _fitted(self, kind: Kind) -> Fit:
        n1, n2, n3 = self.probes
        task, seen = self._seen.pop(kind, (kind.task(n3), None))
        if task.piece > n2 and task == kind.task(task.piece):  # what was traced before can be what checks the law
            n3 = task.piece
        else:
            seen = None
        traces = [self._trace(kind.task(n1)), self._trace(kind.task(n2)), seen or self._trace(kind.task(n3))]
        a, b, c = (trace.peak / MIB for trace in traces)
        self._found.peaks |= {kind.task(n1): a, kind.task(n2): b, kind.task(n3): c}
        first, second, third = (trace.timeline for trace in traces)
        found = envelope(first, n1, second, n2, batch=traces[0].batch, pieces=1 + kind.pieces)
        if found is not None and third.events == first.events:
            deviation = abs(found.at(n3, kind.task(n3).batch) / MIB / c - 1)
            if deviation <= TOLERANCE:
                return Fit(found, found.line, deviation)
        return Fit(None, Line.through(n2, b, n3, c), abs(Line.through(n1, a, n2, b).at(n3) / c - 1))

    def _is_of_law(self, task: Task) -> bool:
        """A law knows nothing of what is below its probes, nor of a piece that is cut off from a second one."""
        if task.micro_batch is not None and self._together:
            return False
        return task.piece >= self.probes[0] and task.shown in (task.piece, 2 * task.piece)

    def _held_against_traces(self, kind: Kind, fit: Fit) -> Fit:
        """`fit`, or none, where any step that was traced contradicts it."""
        if fit.envelope is None:
            return fit
        for task, mib in self._found.peaks.items():
            if task.kind == kind and self._is_of_law(task):
                deviation = abs(fit.envelope.at(task.piece, task.batch) / MIB / mib - 1)
                if deviation > TOLERANCE:
                    return Fit(None, fit.line, deviation)
        return fit

    def _reckoned(self, task: Task) -> StepWork:
        piece = task.piece
        if task.micro_batch is not None:
            whole, rest = divmod(task.batch, piece)
            if rest or whole <= 2:
                return self._counted(task)
            two, three = (self._work_of(task, number * piece, piece) for number in (2, 3))
            return StepWork.affine(two, 2, three, 3, whole)
        n1, n2, _ = self.probes
        if piece in (n1, n2) or piece < n1:
            return self._counted(task)
        return StepWork.affine(self._work_of(task, n1), n1, self._work_of(task, n2), n2, piece)

    def _work_of(self, task: Task, batch: int, micro_batch: int | None = None) -> StepWork:
        other = Task(task.phase, batch, task.precision, task.recompute, micro_batch)
        if other not in self._found.works:
            self._found.works[other] = self._counted(other)
        return self._found.works[other]

    def _trace(self, task: Task) -> Trace:
        return self._run(task, lambda bench: bench.trace(task))

    def _counted(self, task: Task) -> StepWork:
        return self._run(task, lambda bench: bench.work(task))

    def _run(self, task: Task, ask: Callable[[Bench], Found]) -> Found:
        """What `ask` finds; a step that was refused is refused again."""
        if task in self._found.refusals:
            raise self._found.refusals[task]
        try:
            return self._asked(task, ask)
        except LabError as error:
            if error.__cause__ is None or isinstance(error, TooFewValues):  # other causes may be this machine's
                self._found.refusals[task] = error
                self._keep()
            raise

    def _asked(self, task: Task, ask: Callable[[Bench], Found]) -> Found:
        fake = task.precision != "fp32" or self._needs_fake or self.kernels == "cpu"
        bench = self._bench(fake=fake)
        try:
            return ask(bench)
        except Grows:
            raise
        except Exception as error:  # whatever a network may raise: the caller's table goes on with the next one
            if fake or _too_few(error):
                raise self._refusal(task, bench, error) from error
            first = error
        try:  # fake tensors do without meta kernels (torch 2.3), and know autocast
            found = ask(self._bench(fake=True))
        except Grows:
            raise
        except Exception as error:
            told = error if _too_few(error) else first
            raise self._refusal(task, bench, told) from told
        self._needs_fake = True
        return found

    def _refusal(self, task: Task, bench: Bench, error: Exception) -> LabError:
        return (TooFewValues if _too_few(error) else LabError)(
            f"the {task.phase} step of {type(bench.model).__name__} cannot be traced without values: {_first_line(error)}",
            where=f"batch {task.batch}, clips of shape {self.clip_shape}",
            expected="a forward pass that never reads a tensor's values (.item(), boolean indexing) and "
            "keeps its constants as buffers",
            next_step="measure it on a GPU instead",
        )


def _too_few(error: Exception) -> bool:
    return isinstance(error, TooFewClips) or (isinstance(error, ValueError) and str(error).startswith(ONE_VALUE))


def _task(phase: Phase, batch: int, precision: Precision, recompute: Level, micro_batch: int | None) -> Task:
    """The step asked for, by the one name it goes by: evaluation recomputes nothing, and one piece is none."""
    if phase == "eval":
        return Task(phase, batch, precision, "none")
    return Task(phase, batch, precision, recompute, micro_batch if micro_batch is not None and micro_batch < batch else None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
