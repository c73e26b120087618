"""What a run has used at most: GPU memory by the allocator's own books, host memory by the system's."""

from __future__ import annotations

import resource
import sys

import torch

MIB = 2**20


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


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
