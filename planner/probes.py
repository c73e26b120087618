"""What a GPU takes beside the tensors and how fast it is, found out by using it; from that its row of `planner.card.calibration`.

driver        nominal size less the memory that the driver offers
context       what a process takes of the GPU beyond what its allocator reserved: a second process runs a few kernels of every
              library and waits, while this one asks how much less is free. Another program that takes memory in that second
              is taken for context.
workspaces    measured peak allocated less the predicted tensors, over steps of every model: the median, and as the most that
              is reckoned with the largest and half of it again
fragmentation peak reserved over peak allocated of the larger steps: the median, and the largest and half of what it loses again
launch        time of a step of very few clips, in which the GPU waits for the host, over its aten calls: the median
rates         the best of several large copies and products
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import nn

from engine.step import Precision
from planner.card.calibration import Calibration
from planner.measure import MIB, Device, Gpu
from shared_data.errors import LabError

Product = Literal["fp32", "tf32", "half"]
SPARE = 0.5
"""Of what was found at most, how much more is reckoned with."""
LARGE_ENOUGH = 256.0
"""MiB allocated from which a step says something about fragmentation: the allocator takes 2 to 20 MiB at a time."""
COPIED, SIDE, REPEATS = 2**28, 4096, 5
"""Bytes of the copy, rows and columns of the matrices, tries of which the best counts."""


class NotMeasured(LabError):
    """The GPU could not be measured."""

    exit_code = 75


class Probes(Device, Protocol):
    """What is asked of a GPU to calibrate it; `GpuProbes` is the real one."""

    @property
    def name(self) -> str:
        """As the driver has it."""

    @property
    def total_mib(self) -> float:
        """What the driver offers of its memory."""

    @property
    def half(self) -> Precision:
        """The 16-bit arithmetic that it has."""

    def context_mib(self) -> float:
        """What a process takes beyond its allocator's memory."""

    def bandwidth_gbs(self) -> float:
        """GB/s read and written by a large copy."""

    def tflops(self, product: Product) -> float | None:
        """TFLOP/s of a large matrix product; None for arithmetic that it does not have."""


class GpuProbes(Gpu):
    """`Probes` of GPU `number`. Raises `NoGpu` (69) where torch has none such."""

    def __init__(self, number: int = 0) -> None:
        super().__init__(number)
        about = torch.cuda.get_device_properties(self.torch)
        self.name, self.total_mib = about.name, about.total_memory / MIB
        self.newer = about.major >= 8  # Ampere: the first with bf16 and TF32

    @property
    def half(self) -> Precision:
        return "bf16" if self.newer else "fp16"

    def context_mib(self) -> float:
        self.release()
        before = self._free_mib()
        with subprocess.Popen(self._second(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            reserved = process.stdout.readline()
            taken = before - self._free_mib()
            process.stdin.close()
        if process.returncode or not reserved:
            raise NotMeasured("a second process could not use the GPU", next_step="see its message above; end other programs")
        return max(0.0, taken - float(reserved))

    def _second(self) -> list[str]:
        return [sys.executable, "-m", "planner.probes", str(self.torch.index)]

    def _free_mib(self) -> float:
        return float(torch.cuda.mem_get_info(self.torch)[0]) / MIB

    def bandwidth_gbs(self) -> float:
        source = torch.empty(COPIED, dtype=torch.uint8, device=self.torch)
        target = torch.empty_like(source)
        return 2 * COPIED / 1e9 / self._best(lambda: target.copy_(source))

    def tflops(self, product: Product) -> float | None:
        if product == "tf32" and not self.newer:
            return None
        dtype = torch.float32 if product != "half" else torch.bfloat16 if self.newer else torch.float16
        a = torch.randn(SIDE, SIDE, device=self.torch, dtype=dtype)
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = product == "tf32"
        try:
            return 2 * SIDE**3 / 1e12 / self._best(lambda: a @ a)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    def _best(self, work: object) -> float:
        assert callable(work)
        work()
        return min(self.seconds(work) for _ in range(REPEATS))


def use_and_wait(number: int) -> None:
    """Run kernels of every library on a GPU, print the MiB reserved for them, and wait for the end of the standard input."""
    device = torch.device("cuda", number)
    clips = torch.randn(2, 8, 32, 32, device=device, requires_grad=True)
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(7200, 8)).to(device)
    with torch.autocast("cuda", enabled=False):
        network(clips).softmax(1).square().sum().backward()
    torch.cuda.synchronize(device)
    print(torch.cuda.memory_reserved(device) / MIB, flush=True)
    sys.stdin.read()


@dataclass(frozen=True)
class Seen:
    """One step or evaluation pass that was measured, and what was predicted for it.

    tensors_mib     predicted
    launches        counted; 0 where the time of the step is not to be used for the host's
    """

    tensors_mib: float
    allocated_mib: float
    reserved_mib: float
    seconds: float
    launches: int = 0

    @property
    def workspace_mib(self) -> float:
        """Beyond the tensors; 0 where the prediction was too high."""
        return max(0.0, self.allocated_mib - self.tensors_mib)

    @property
    def fragmentation(self) -> float:
        return max(1.0, self.reserved_mib / self.allocated_mib)


def row_of(device: Probes, seen: Sequence[Seen], *, nominal_mib: float, date: str, source: str) -> Calibration:
    """The row of `device`, of whose nominal size `nominal_mib` is known, or what it offers, rounded up to a GiB, stands for it.

    Raises `NotMeasured` (75) where no step was measured.
    """
    if not seen:
        raise NotMeasured(
            "no step was measured: not one had room on the GPU", where=device.name,
            next_step="end other programs on this GPU and try again; until then the pessimistic row stands",
        )  # fmt: skip
    workspaces = [one.workspace_mib for one in seen]
    losses = [one.fragmentation - 1 for one in seen if one.allocated_mib >= LARGE_ENOUGH] or [
        one.fragmentation - 1 for one in seen
    ]
    calls = [1e6 * one.seconds / one.launches for one in seen if one.launches]
    rates = {product: device.tflops(product) for product in get_args(Product)}
    return Calibration(
        gpu=device.name, gib=round(max(nominal_mib, device.total_mib) / 1024, 2),
        torch=torch.__version__, cuda=torch.version.cuda or "",
        driver_mib=float(math.ceil(max(0.0, nominal_mib - device.total_mib))), context_mib=float(math.ceil(device.context_mib())),
        workspace_mib=round(statistics.median(workspaces), 1), workspace_high_mib=float(math.ceil(max(workspaces) * (1 + SPARE))),
        fragmentation=round(1 + statistics.median(losses), 3), fragmentation_high=round(1 + max(losses) * (1 + SPARE), 3),
        launch_us=round(statistics.median(calls), 2) if calls else None, bandwidth_gbs=round(device.bandwidth_gbs(), 1),
        fp32_tflops=_rounded(rates["fp32"]), tf32_tflops=_rounded(rates["tf32"]), half_tflops=_rounded(rates["half"]),
        cells=len(seen), date=date, source=source,
    )  # fmt: skip


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 2)


if __name__ == "__main__":
    use_and_wait(int(sys.argv[1]))
