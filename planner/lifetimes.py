"""What is alive when: storages counted from birth to death while real operations run on meta tensors.

A meta tensor has a shape and a storage of the right size but no memory behind it, so a training step of any batch costs
milliseconds and no RAM. A dispatch mode sees each operation after autograd, hence every tensor that autograd saves,
every gradient and every temporary; a weak reference on each storage tells when it dies. Sizes are rounded up to 512
bytes, as the CUDA caching allocator does. Works from torch 2.1 on (storages keep their Python object since then).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GRAIN = 512
"""Bytes: the smallest block, and the step between block sizes, of the CUDA caching allocator."""


def rounded(size: int) -> int:
    """`size` bytes as the CUDA allocator hands them out: the next multiple of 512 (0 stays 0)."""
    return -(-size // GRAIN) * GRAIN


class Lifetimes(TorchDispatchMode):
    """Counts the bytes alive on `device`; `peak` is the most there ever were since the last `reset_peak()`.

    Other devices do not count: AdamW, for one, keeps its step counters on the CPU.

    >>> with Lifetimes() as memory:
    ...     memory.hold(model.parameters())   # what was there before the first operation
    ...     loss = model(clips).sum()
    >>> memory.peak
    """

    def __init__(self, device: str = "meta") -> None:
        super().__init__()
        self.device = device
        self.live = 0
        self.peak = 0
        self._size: dict[int, int] = {}
        self._watch: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count the storages of `tensors` (once each, however many views share them) until they die."""
        for tensor in tensors:
            if tensor.device.type != self.device:
                continue
            storage = tensor.untyped_storage()
            # The address names the storage as long as it lives, and `_release` forgets it the moment it dies.
            address, size = storage._cdata, rounded(storage.nbytes())
            known = self._size.get(address)
            if known is None:
                self._watch[address] = weakref.ref(storage, partial(self._release, address))
            if known != size:  # new, or resized in place
                self._size[address] = size
                self.live += size - (known or 0)
        self.peak = max(self.peak, self.live)

    def reset_peak(self) -> None:
        """Begin a new measurement from what is alive now."""
        self.peak = self.live

    def _release(self, address: int, _: weakref.ref[torch.UntypedStorage]) -> None:
        self._watch.pop(address, None)
        self.live -= self._size.pop(address, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.hold(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        return result

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        # Storages may outlive the measurement (the model's own); their death must not call back into a finished count.
        self._watch.clear()
