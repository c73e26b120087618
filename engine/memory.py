"""What a run has used at most (GPU memory by the allocator's own books, host memory by the system's), and that there is no more.

All that asks a GPU about its memory goes through the functions here, which a test on a CPU replaces.
"""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from engine.optimizers import kept_tensors

if TYPE_CHECKING:
    from engine.config import RunConfig
    from shared_data.datasets import DataSet

MIB = 2**20
TRAINING, EVALUATION, REHEARSAL = "training", "evaluation", "evaluation, tried before the first step"
"""Where a run can find its GPU full."""


class Gpu(NamedTuple):
    """Bytes. `total` as the driver offers it; `others` is what neither our allocator nor free memory accounts for: other
    programs, and the CUDA context of this one."""

    name: str
    total: int
    others: int


@dataclass(frozen=True)
class Finding:
    """What comes of comparing a run's memory with what was predicted.

    event   numbers for the log
    lines   for the user; none where nothing is wrong
    row     the calibration that the run speaks for, as a file of it, to be kept in the run folder; None where the prediction held
    """

    event: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    row: str | None = None


Compare = Callable[[Mapping[str, float]], Finding]
"""Takes `peaks` of the first steps."""
Expect = Callable[["RunConfig", "DataSet", torch.device, Callable[[str], None]], Compare]
"""Predicts the memory of a run on a GPU, may tell the user something, and raises `LabError` where there is no prediction."""


class RanOut(torch.cuda.OutOfMemoryError):
    """The GPU is full, with the part of the run that found it so."""

    def __init__(self, part: str, words: str) -> None:
        super().__init__(words)
        self.part = part


def first_line(error: Exception) -> str:
    """The allocator's words, without its tables."""
    return (str(error).splitlines() or ["no more memory"])[0]


def counted(device: torch.device) -> bool:
    """Whether `device` has an allocator whose books tell what was used."""
    return device.type == "cuda"


def gpu(device: torch.device) -> Gpu:
    """The GPU that `device` is."""
    properties = torch.cuda.get_device_properties(device)
    index = torch.cuda.current_device() if device.index is None else device.index  # torch 2.3 takes no device here
    free, total = torch.cuda.mem_get_info(index)
    return Gpu(properties.name, properties.total_memory, max(total - free - torch.cuda.memory_reserved(device), 0))


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def release(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peaks(device: torch.device) -> dict[str, float]:
    """MiB: peak_allocated_mib and peak_reserved_mib of the GPU since `reset_peak` (0 on CPU), rss_mib of the process."""
    allocated = torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else 0.0
    reserved = torch.cuda.max_memory_reserved(device) / MIB if device.type == "cuda" else 0.0
    unit = MIB if sys.platform == "darwin" else 1024
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {
        "peak_allocated_mib": round(allocated, 1),
        "peak_reserved_mib": round(reserved, 1),
        "rss_mib": round(rss, 1),
    }


def still_to_come(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """Tensors without content for what a training step will add beside the network: gradients, and the optimizer's state.

    That is as much as each parameter for its gradient, for SGD's momentum if it has one, and for each of Adam's two moments.
    """
    for group in optimizer.param_groups:
        kept = kept_tensors(group)
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {}).values()  # [parameter] would make an entry
            there = sum(torch.is_tensor(value) and value.shape == parameter.shape for value in state)
            for _ in range((parameter.grad is None) + max(kept - there, 0)):
                yield torch.empty_like(parameter, requires_grad=False)
