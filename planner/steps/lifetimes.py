"""What is alive when: storages counted from birth to death while real operations run on meta tensors.

A meta tensor has a shape and a storage of the right size but no memory behind it, so a training step of any batch costs
milliseconds and no RAM. A dispatch mode sees each operation after autograd, hence every tensor that autograd saves,
every gradient and every temporary; a weak reference on each storage tells when it dies. Sizes are rounded up to 512
bytes, as the CUDA caching allocator does. Works from torch 2.1 on (storages keep their Python object since then).
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from planner.steps.modes import OperationMode

GRAIN = 512
"""Bytes: the smallest block, and the step between block sizes, of the CUDA caching allocator."""

Scratch = Callable[[Any, Any, Any, Any], Iterable[int]]
"""(operation, arguments, keyword arguments, result) -> bytes of each block that its kernel needs while it runs."""


def rounded(size: int) -> int:
    """`size` bytes as the CUDA allocator hands them out: the next multiple of 512 (0 stays 0)."""
    return -(-size // GRAIN) * GRAIN


@dataclass(frozen=True)
class Timeline:
    """Births and deaths in their order.

    sizes    bytes of each storage, not rounded, in the order in which they were seen
    events   k for the birth of storage k, -1 - k for its death; deaths with no birth between them are in order of birth, as
             they may come in any. Storages that were there before come first, whatever their number
    """

    sizes: tuple[int, ...]
    events: tuple[int, ...]


class Lifetimes(OperationMode):
    """Counts the bytes alive on `device`; `peak` is the most there ever were since the last `reset_peak()`.

    Other devices do not count: AdamW, for one, keeps its step counters on the CPU. What a kernel needs beside its results while
    it runs is what `scratch` says. With `reads`, what an operation reads and nobody had held counts as if it had been held from
    the beginning: a network may keep tensors anywhere.

    >>> with Lifetimes() as memory:
    ...     memory.hold(model.parameters())   # what was there before the first operation
    ...     loss = model(clips).sum()
    >>> memory.peak
    """

    def __init__(self, device: str = "meta", scratch: Scratch | None = None, *, reads: bool = False) -> None:
        super().__init__()
        self.device, self.scratch, self.reads = device, scratch, reads
        self.live = 0
        self.peak = 0
        self._number: dict[int, int] = {}  # address of a living storage -> its number in order of birth
        self._sizes: list[int] = []
        self._events: list[int] = []
        self._watch: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @property
    def timeline(self) -> Timeline:
        """All that happened so far."""
        runs = (sorted(run, reverse=dead) for dead, run in itertools.groupby(self._events, key=lambda event: event < 0))
        return Timeline(tuple(self._sizes), tuple(itertools.chain.from_iterable(runs)))

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count the storages of `tensors` (once each, however many views share them) until they die."""
        for tensor in tensors:
            if tensor.device.type != self.device:
                continue
            storage = tensor.untyped_storage()
            # The address names the storage as long as it lives, and `_release` forgets it the moment it dies.
            address, size = storage._cdata, storage.nbytes()
            known = self._number.get(address)
            if known is None:
                self._watch[address] = weakref.ref(storage, partial(self._release, address))
            elif self._sizes[known] == size:
                continue
            else:  # resized in place
                self._died(known)
            self._number[address] = self._born(size)
        self.peak = max(self.peak, self.live)

    def _hold_read(self, values: Iterable[Any]) -> None:
        """Count what an operation reads and nobody had held: it was there from the beginning.

        Fake and meta tensors only: among fake ones a real tensor is a number of Python's, or lies in the host's memory.
        """
        for value in values:
            if isinstance(value, torch.Tensor):
                if value.layout is not torch.strided:
                    continue
                storage = value.untyped_storage()
                address = storage._cdata
                if address in self._number or not (isinstance(value, FakeTensor) or value.is_meta):
                    continue
                if value.device.type == self.device:
                    self._watch[address] = weakref.ref(storage, partial(self._release, address))
                    self._number[address] = number = len(self._sizes)
                    self._sizes.append(storage.nbytes())
                    self._events.insert(0, number)
                    self.live += rounded(storage.nbytes())
                    self.peak += rounded(storage.nbytes())
            elif isinstance(value, (list, tuple)):
                self._hold_read(value)

    def reset_peak(self) -> None:
        """Begin a new measurement from what is alive now."""
        self.peak = self.live

    def _born(self, size: int) -> int:
        number = len(self._sizes)
        self._sizes.append(size)
        self._events.append(number)
        self.live += rounded(size)
        return number

    def _died(self, number: int) -> None:
        self._events.append(-1 - number)
        self.live -= rounded(self._sizes[number])

    def _release(self, address: int, _: weakref.ref[torch.UntypedStorage]) -> None:
        self._watch.pop(address, None)
        number = self._number.pop(address, None)
        if number is not None:
            self._died(number)

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self.reads:
            self._hold_read(args)
            self._hold_read(kwargs.values())
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            self.hold((result,))
        elif result is not None:
            self.hold(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        if self.scratch is not None:
            blocks = [self._born(size) for size in self.scratch(func, args, kwargs, result)]
            self.peak = max(self.peak, self.live)
            for block in blocks:
                self._died(block)
        return result

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        # Storages may outlive the measurement (the model's own); their death must not call back into a finished count.
        self._watch.clear()
