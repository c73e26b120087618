"""What a run's training step and evaluation pass take on a device that is at hand: memory by the allocator's books, and time.

The steps are the trainer's own (`engine.assembly.train_step`) on made-up clips of the recipe's shape. Training is looked at from
its second step on, when the optimizer has its state; evaluation with that state and the gradients of a step beside it, as in the
middle of a run. A device that runs out of memory is an answer, not an error.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine import models
from engine.assembly import choose_kernels, clip_shape, model_arguments, objective_arguments, train_step
from engine.config import RunConfig
from engine.learning import Step
from engine.models import ModelCard
from engine.pretraining.objective import encoder_pass, is_objective
from engine.pretraining.step import pretrain_step
from engine.segmentation import framewise
from engine.segmentation.step import segment_step
from engine.segmentation.stream import sequence_scores
from engine.step import TrainStep, autocast, forward, takes_positions
from planner.costs import Size, item_shape
from planner.steps.tracing import Phase
from shared_data.errors import LabError
from shared_data.skeletons import skeleton

MIB = 2**20
WARM_UP = 3
"""Steps before times are taken: the first make the optimizer's state and choose kernels."""
IN_A_ROW = 5
"""Steps between two looks at the clock: a trainer waits for its device every so many steps, not after each."""
FEW = 2
"""Clips of the step that leaves gradients and optimizer state behind before an evaluation pass."""

Prepared = tuple[Callable[[Any], object], tuple[Tensor, ...], Callable[[], object]]
"""A training step, the batch that it is given, and an evaluation pass."""
Batch = tuple[Tensor, Tensor, Tensor]
"""Clips (N, C, T, V, M), labels (N,), positions of frames (N, T)."""


class NoGpu(LabError):
    """There is no GPU to be measured."""

    exit_code = 69


class Device(Protocol):
    """What is asked of a device; `Gpu` is the real one."""

    @property
    def torch(self) -> torch.device:
        """Where tensors go."""

    def release(self) -> None:
        """Give back the memory that the allocator keeps and nothing uses."""

    def reset(self) -> None:
        """Begin new peaks."""

    def peaks(self) -> tuple[float, float]:
        """MiB allocated and reserved at most since `reset`."""

    def seconds(self, work: Callable[[], object]) -> float:
        """How long `work` takes until the device has done all of it."""


class Gpu:
    """`Device` of GPU `number`. Raises `NoGpu` (69) where torch has none such."""

    def __init__(self, number: int = 0) -> None:
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not 0 <= number < found:
            raise NoGpu(
                f"no GPU {number} to measure: torch sees {found or 'none'}", expected="a machine with a GPU that torch can use",
                next_step="`sal doctor` says what is missing; `sal plan` predicts without one",
            )  # fmt: skip
        self._device = torch.device("cuda", number)

    @property
    def torch(self) -> torch.device:
        return self._device

    def release(self) -> None:
        gc.collect()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def peaks(self) -> tuple[float, float]:
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) / MIB, torch.cuda.max_memory_reserved(self._device) / MIB

    def seconds(self, work: Callable[[], object]) -> float:
        torch.cuda.synchronize(self._device)
        began = time.perf_counter()
        work()
        torch.cuda.synchronize(self._device)
        return time.perf_counter() - began


@dataclass(frozen=True)
class Figures:
    """One phase on a device.

    allocated_mib, reserved_mib   peaks; of the allocator's bytes, and of what it took from the driver for them
    seconds                       median time of a step, or of an evaluation pass
    steps                         those timed
    """

    allocated_mib: float
    reserved_mib: float
    seconds: float
    steps: int


@dataclass(frozen=True)
class Measured:
    """Both phases of a run; None for one that ran out of memory."""

    train: Figures | None
    eval: Figures | None


def measured(config: RunConfig, card: ModelCard, size: Size, device: Device, *, steps: int = 15) -> Measured:
    """Train `steps` steps and evaluate as many batches as `config` says, of a network for data of `size`."""
    phases: tuple[Phase, ...] = ("train", "eval")
    train, evaluation = (measured_phase(phase, config, card, size, device, steps=steps) for phase in phases)
    return Measured(train, evaluation)


def measured_phase(
    phase: Phase, config: RunConfig, card: ModelCard, size: Size, device: Device, *, steps: int = 15, warm_up: int = WARM_UP
) -> Figures | None:
    """The figures of one phase; None where the device runs out of memory."""
    device.release()
    with kernels_kept():
        choose_kernels(config)
        try:
            return _run(phase, config, card, size, device, steps=steps, warm_up=warm_up)
        except torch.cuda.OutOfMemoryError:
            pass  # the error holds the frames that hold the tensors: it is dropped before they are released
    device.release()
    return None


def _run(phase: Phase, config: RunConfig, card: ModelCard, size: Size, device: Device, *, steps: int, warm_up: int) -> Figures:
    network = built(config, card, size).to(device.torch).train()
    prepared = _segmenting if config.stage == "segment" else _clips
    train, batch, evaluate = prepared(config, network, size, device, phase)
    train(batch)  # makes the optimizer's state

    def work() -> object:
        return train(batch) if phase == "train" else evaluate()

    if phase == "eval":
        batch = ()
        network.eval()
        device.release()  # a run keeps what training reserved; an evaluation pass is asked what it needs by itself
    device.reset()
    for _ in range(warm_up):
        work()
    rounds = max(1, steps // IN_A_ROW)
    in_a_row = max(1, steps // rounds)
    times = [device.seconds(lambda: [work() for _ in range(in_a_row)]) / in_a_row for _ in range(rounds)]
    return Figures(*device.peaks(), statistics.median(times), rounds * in_a_row)


def _clips(config: RunConfig, network: nn.Module, size: Size, device: Device, phase: Phase) -> Prepared:
    """Of clips; before an evaluation pass, training is of a few."""
    unlabelled = is_objective(network)
    step = (
        pretrain_step(config, network, device.torch)
        if unlabelled
        else train_step(config, network, device.torch, note=lambda _: None)
    )
    clips = config.batch_size if phase == "train" else min(FEW, config.batch_size)
    batch = _made(config, size, clips, device, train=True)
    shown = _made(config, size, config.test_batch_size, device, train=unlabelled) if phase == "eval" else batch

    def evaluate() -> object:
        clips, _, positions = shown
        with torch.inference_mode(), autocast(config.precision, device.torch):
            if unlabelled:
                return encoder_pass(network, clips).float().cpu()
            return forward(network, clips, positions if takes_positions(network) else None).float().cpu()

    return lambda given: run(step, given), batch, evaluate


def _segmenting(config: RunConfig, network: nn.Module, size: Size, device: Device, phase: Phase) -> Prepared:
    """Of sequences as long as the longest, or windows; the longest sequence is evaluated."""
    step = segment_step(config, network, framewise.chosen_of(config), device.torch, pos_weight=1.0)
    shape = item_shape(config, size)
    clips = config.batch_size if phase == "train" else min(FEW, config.batch_size)
    generator = torch.Generator().manual_seed(0)
    batch = (
        torch.randn(clips, *shape, generator=generator), torch.randint(size.classes, (clips, shape[-1]), generator=generator),
        torch.zeros(clips, 1, shape[-1]), torch.ones(clips, 1, shape[-1], dtype=torch.bool),
    )  # fmt: skip
    sequence = torch.randn(*shape[:-1], size.frames, generator=generator)

    def evaluate() -> object:
        return sequence_scores(
            network, sequence, device=device.torch, precision=config.precision, clips=config.test_batch_size
        )  # fmt: skip

    return lambda given: step(*given), tuple(tensor.to(device.torch) for tensor in batch), evaluate


def built(config: RunConfig, card: ModelCard, size: Size) -> nn.Module:
    """The network of a run on data of `size`, on the CPU, with the start weights of the run's seed."""
    layout = skeleton(size.skeleton)
    if config.stage == "segment":
        torch.manual_seed(config.seed)
        return framewise.network_of(
            config, framewise.chosen_of(config), classes=size.classes, skeleton=layout, people=size.people
        )  # fmt: skip
    if config.stage != "supervised":
        given = objective_arguments(config, layout, size.people)
        torch.manual_seed(config.seed)
        return models.build_objective(card, config.stage, skeleton=layout, people=size.people, **given)
    arguments = model_arguments(config, size.classes, layout, size.people)
    torch.manual_seed(config.seed)
    return models.build(card, num_classes=size.classes, skeleton=size.skeleton, people=size.people, **arguments)


def run(step: Step, batch: Batch) -> Tensor:
    """One step; returns its loss."""
    clips, labels, positions = batch
    reads = isinstance(step, TrainStep) and takes_positions(step.model)
    return step(clips, labels, positions if reads else None).loss


def made_up(number: int, clips: int, shape: tuple[int, ...], classes: int) -> Batch:
    """Batch `number` of made-up clips of `shape` (C, T, V, M), the same on every machine; on the CPU."""
    generator = torch.Generator().manual_seed(number)
    values = torch.randn(clips, *shape, generator=generator)
    labels = torch.randint(classes, (clips,), generator=generator)
    return values, labels, torch.linspace(-1, 1, shape[-3]).expand(clips, -1).contiguous()


def _made(config: RunConfig, size: Size, clips: int, device: Device, *, train: bool) -> Batch:
    shape = clip_shape(config, skeleton(size.skeleton), size.people, train=train)
    values, labels, positions = made_up(0, clips, shape, size.classes)
    return values.to(device.torch), labels.to(device.torch), positions.to(device.torch)


@contextlib.contextmanager
def kernels_kept() -> Iterator[None]:
    """Torch's choice of kernels (`choose_kernels`) may be changed inside, and is afterwards what it was."""
    deterministic, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, fill = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn)
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
