"""Two judges of a predicted peak of tensors that need no GPU and share no code with the predictor.

`AllocatorLog`   what torch's CPU allocator says, of real steps: every block that is handed out and given back, also by what the
                 predictor does not know of. What a kernel makes and drops inside one call is told apart: a CPU's workspaces
                 say nothing of a GPU's, which are in the calibration
`tracked_peak`   torch's own MemTracker, of steps of any batch on fake tensors
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from engine.assembly import clip_shape, train_step
from engine.config import RunConfig
from engine.models import ModelCard
from engine.step import autocast, forward, takes_positions
from planner.costs import Size
from planner.measure import FEW, MIB, built, run
from planner.steps.lifetimes import rounded
from planner.steps.tracing import Phase, without_values
from shared_data.skeletons import skeleton

PRODUCTS = {"aten::convolution", "aten::convolution_backward", "aten::bmm", "aten::mm", "aten::addmm", "aten::baddbmm"}
MIXED = {"aten::add", "aten::add_", "aten::sub", "aten::sub_", "aten::mul", "aten::mul_", "aten::div", "aten::div_"}
KERNELS = frozenset(PRODUCTS | MIXED)
"""Calls inside which a CPU makes and drops what a GPU does not: workspaces of its own, and copies of arguments of mixed types."""
RESET = "# new peaks"
"""The mark of `AllocatorLog.reset` among the profiler's events."""


@dataclass(frozen=True)
class Block:
    """`size` bytes that were handed out at `born` ns and given back at `died`, infinity if they were not.

    workspace   whether that was inside one call of one of `KERNELS`
    """

    size: int
    born: float
    died: float
    workspace: bool


def peak_of(blocks: Iterable[Block], since: float) -> int:
    """The most bytes alive from `since` ns on, each block rounded to the 512 bytes of CUDA's allocator."""
    changes = [(block.born, rounded(block.size)) for block in blocks]
    changes += [(block.died, -rounded(block.size)) for block in blocks if block.died < math.inf]
    live = peak = 0
    for when, size in sorted(changes):
        if when >= since:
            peak = max(peak, live, live + size)
        live += size
    return max(peak, live)


class AllocatorLog:
    """`planner.measure.Device` of the CPU. The log begins at the first `release` and ends with `peaks`.

    Nothing is reserved ahead on a CPU: both peaks are the same. Use an instance for one measurement.

    without_workspaces   MiB, the peak of the blocks that are not workspaces; there after `peaks`
    """

    def __init__(self) -> None:
        self._log: Any = None
        self.without_workspaces = math.nan

    @property
    def torch(self) -> torch.device:
        return torch.device("cpu")

    def release(self) -> None:
        gc.collect()
        if self._log is None:
            self._log = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._log.__enter__()

    def reset(self) -> None:
        gc.collect()
        with torch.profiler.record_function(RESET):
            pass

    def seconds(self, work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    def peaks(self) -> tuple[float, float]:
        self._log.__exit__(None, None, None)
        events = list(_flat(self._log.profiler.kineto_results.experimental_event_tree()))
        since = max(event.start_time_ns for event in events if event.name == RESET)
        blocks = blocks_of(event for event in events if event.name == "[memory]")
        self.without_workspaces = peak_of([block for block in blocks if not block.workspace], since) / MIB
        peak = peak_of(blocks, since) / MIB
        return peak, peak


def blocks_of(events: Iterable[Any]) -> list[Block]:
    """The blocks that the profiler's events of memory tell of. Those given back that were never handed out are not in the log."""
    blocks, open_ = [], {}
    for event in sorted(events, key=lambda event: event.start_time_ns):
        change = event.typed[1]
        if change.alloc_size > 0:
            open_[change.ptr] = event
        elif born := open_.pop(change.ptr, None):
            blocks.append(_block(born, event.start_time_ns))
    return blocks + [_block(born, math.inf) for born in open_.values()]


def _block(born: Any, died: float) -> Block:
    call = born.parent
    while call is not None and not (call.name in KERNELS and died <= call.end_time_ns):
        call = call.parent
    return Block(born.typed[1].alloc_size, born.start_time_ns, died, workspace=call is not None)


def _flat(events: Iterable[Any]) -> Iterator[Any]:
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        yield event
        waiting.extend(event.children)


def tracked_peak(phase: Phase, config: RunConfig, card: ModelCard, size: Size) -> float:
    """MiB by MemTracker: the second training step, or an evaluation pass after a step of a few clips."""
    from torch.distributed._tools.mem_tracker import MemTracker

    cpu = torch.device("cpu")
    network = built(config, card, size)
    layout = skeleton(size.skeleton)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    without_values(network, mode.from_tensor)
    for module in network.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            if not parameter.requires_grad:  # MemTracker wants a gradient of every parameter, and takes buffers as they are
                delattr(module, name)
                module.register_buffer(name, parameter.detach())

    def batch(clips: int, *, train: bool) -> tuple[torch.Tensor, ...]:
        shape = clip_shape(config, layout, size.people, train=train)
        return torch.empty(clips, *shape), torch.empty(clips, dtype=torch.int64), torch.empty(clips, shape[1])

    with mode:
        step = train_step(config, network.train(), cpu, note=lambda _: None)
        run(step, batch(FEW, train=True))  # type: ignore[arg-type]
        asked = batch(config.batch_size if phase == "train" else config.test_batch_size, train=phase == "train")
        if not takes_positions(network):
            asked = asked[:2]
        if phase == "train":
            network.zero_grad(set_to_none=True)
        else:
            network.eval()
        tracker = MemTracker()
        tracker.track_external(network, step.optimizer, *asked)
        with tracker:
            if phase == "train":
                step(*asked)
            else:
                with torch.inference_mode(), autocast(config.precision, cpu):  # as the trainer evaluates
                    forward(network, asked[0], asked[2] if len(asked) > 2 else None)
    return float(tracker.get_tracker_snapshot("peak")[cpu]["Total"]) / MIB
