"""Memory used again from batch to batch: fresh pages cost more time than the arithmetic that fills them."""

from __future__ import annotations

import math
import sys
import threading

import numpy as np
import torch

_HERE = threading.local()


def scratch(purpose: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """A float32 tensor of `shape` with any content, valid in this thread until the next call for the same `purpose`.

    Only main memory is kept: on a GPU torch's own allocator does the same.
    """
    if device.type != "cpu":
        return torch.empty(shape, device=device)
    size = math.prod(shape)
    buffer: np.ndarray | None = getattr(_HERE, purpose, None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, dtype=np.float32)
        setattr(_HERE, purpose, buffer)
    # A new tensor each time: one made under torch.inference_mode must not be changed outside of it.
    return torch.from_numpy(buffer)[:size].view(shape)


class Recycled:
    """Float32 arrays that are handed out again once nobody holds them, up to `keep` of them; beyond that, fresh ones.

    A batch handed to a caller stays the caller's for as long as any tensor or view of it lives: each of those holds a
    reference to the array it was made from, and an array with a holder is never given twice.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._kept: list[np.ndarray] = []
        self._lock = threading.Lock()
        probe = [np.empty(0)]
        self._unheld = sys.getrefcount(probe[0])  # the count of an array that only its list knows

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of `shape` with any content over an array that nobody else holds."""
        size = math.prod(shape)
        kept = self._kept
        with self._lock:
            for i in range(len(kept)):
                if kept[i].size >= size and sys.getrefcount(kept[i]) == self._unheld:
                    return torch.from_numpy(kept[i])[:size].view(shape)
            fresh = np.empty(size, dtype=np.float32)
            if len(kept) < self._keep:
                kept.append(fresh)
            return torch.from_numpy(fresh).view(shape)
