"""What a training step takes, counted without a GPU: launches, traffic and operations (`Work`), memory (`Lifetimes`)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.step_task import EAGER, LEVELS, Task
from engine.step import TrainStep
from planner.card.budget import Budget
from planner.card.calibration import pessimistic
from planner.measure import Batch, run
from planner.steps.kernels import FusedAttention
from planner.steps.lifetimes import Lifetimes
from planner.steps.tracing import without_values
from planner.steps.work import Work, many_at_once

MIB, GIB = 2**20, 2**30
SMALL_GPU = 8.0
"""GiB of the card of the "8 GB preset"."""


@dataclass(frozen=True)
class Counted:
    """One step, the second, so that the optimizer's state is there. Bytes: kept by autograd at the loss, peak of all."""

    work: Work
    kept: int
    peak: int


def counted(task: Task, *sizes: int, plain: bool = False) -> list[Counted]:
    """A step of so many clips each, traced without values, as on a GPU.

    fp32 on meta tensors; bf16 and fp16 on fake CPU tensors with autocast to bf16, by the CPU's list of operations.
    """
    mixed = task.config.precision != "fp32"
    task = task.having(precision="bf16" if mixed else "fp32", cuda_graphs=False, compile=False)
    fake = FakeTensorMode(allow_non_fake_inputs=True) if mixed else None
    device = "cpu" if mixed else "meta"
    network = task.plain() if plain else task.network()
    without_values(network, fake.from_tensor if fake else lambda tensor: tensor.to("meta"))
    with fake or contextlib.nullcontext(), torch.device(device), contextlib.nullcontext() if plain else FusedAttention():
        step = task.step(network, torch.device("cpu"))
        with many_at_once(step.optimizer):
            with Work(device):
                run(step, _batch(task, min(sizes)))
            return [_traced(task, step, size, device) for size in sizes]


def _batch(task: Task, clips: int) -> Batch:
    """On the default device."""
    return torch.empty(clips, *task.clip), torch.empty(clips, dtype=torch.int64), torch.empty(clips, task.clip[1])


def _traced(task: Task, step: TrainStep, clips: int, device: str) -> Counted:
    batch, network, loss = _batch(task, clips), step.model, step.loss
    network.zero_grad(set_to_none=True)
    states = [value for state in step.optimizer.state.values() for value in state.values()]
    memory, before, kept = Lifetimes(device), 0, 0

    def watched(logits: Tensor, labels: Tensor) -> Tensor:
        nonlocal kept
        kept = max(kept, memory.live - before)
        return loss(logits, labels)

    step.loss = watched
    with memory, Work(device) as work:
        memory.hold([*network.parameters(), *network.buffers(), *batch])
        memory.hold(value for value in states if isinstance(value, Tensor))
        before = memory.live
        run(step, batch)
    step.loss = loss
    return Counted(work, kept, memory.peak)


def counts(task: Task, *, plain: bool) -> dict[str, Any]:
    """The figures of the step, and with `plain` those of the plain form under the same names with an ending."""
    row = _counts(task, plain=False)
    if plain:
        row |= {f"{name}_plain": value for name, value in _counts(task.having(**EAGER), plain=True).items()}
    return row


def _counts(task: Task, *, plain: bool) -> dict[str, Any]:
    whole = task.config.batch_size
    other = 4 if whole > 4 else 2 * whole
    in_one = task.having(forward_batch_size=None)  # the slopes are those of a step in one piece
    one, two = counted(in_one, whole, other, plain=plain)
    in_pieces = (task.config.forward_batch_size or whole) < whole
    here = counted(task, whole, plain=plain)[0] if in_pieces else one
    return {
        "launches": here.work.launches,
        "traffic_mb_per_clip": round((here.work.read + here.work.written) / whole / 1e6, 1),
        "matrix_gflops_per_clip": round(here.work.matrix_flops / whole / 1e9, 2),
        "other_gflops_per_clip": round(here.work.other_flops / whole / 1e9, 3),
        "kept_mib_per_clip": round((one.kept - two.kept) / (whole - other) / MIB, 1),
        "peak_mib_per_clip": round((one.peak - two.peak) / (whole - other) / MIB, 1),
        "predicted_gib": round(here.peak / GIB, 2),
    }


def small_gpu(task: Task, clips: int) -> dict[str, Any]:
    """The least recomputation with which a step of `clips` is predicted to fit `SMALL_GPU`; the most, if none is enough."""
    peak, fits, level = 0, False, ""
    for level in LEVELS:
        peak = counted(task.having(recompute=level, forward_batch_size=None), clips)[0].peak
        fits = peak / MIB <= Budget(SMALL_GPU, pessimistic()).room()
        if fits:
            break
    return {"preset_8gb": level, "preset_8gb_clips": clips, "preset_8gb_gib": round(peak / GIB, 2), "preset_8gb_fits": fits}
