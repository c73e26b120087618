"""What a CUDA graph does, done on a CPU: each operation is written down with the very tensors it touched, and run again on them.

As with CUDA's, Python does not run in a replay, the numbers it computed are those of the recording, and what looks at a tensor's
values, brings in new ones from Python, or asks for the state of the random numbers while recording is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

T = TypeVar("T")
aten = torch.ops.aten
WAITS = {  # operations whose result, or its size, the host has to wait for
    aten._local_scalar_dense.default, aten.nonzero.default, aten.is_nonzero.default, aten.item.default, aten.equal.default,
    aten.masked_select.default, aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor, aten.bincount.default, aten.allclose.default,
}  # fmt: skip
FROM_PYTHON = {aten.lift_fresh.default}  # a tensor made of Python's numbers: a copy to the GPU, which waits for it
MASKED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
NO_KERNEL = {aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default}


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def waits_for_the_gpu(operation: Any, args: Any) -> str:
    """Why `operation` would make the host wait on a GPU; empty if it would not."""
    if operation in WAITS or operation in FROM_PYTHON:
        return str(operation)
    if operation in MASKED and any(t.dtype in (torch.bool, torch.uint8) for t in tensors(args[1])):
        return f"{operation} with a mask"
    return ""


class Recorder:
    """A `engine.graphs.Backend` for CPUs."""

    def __init__(self) -> None:
        self.recordings = self.replays = 0

    def eagerly(self, work: Callable[[], T]) -> T:
        return work()

    def capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        tape = Tape()
        refused = mock.Mock(side_effect=RuntimeError("the state of the random numbers cannot be read in a capture"))
        with tape, mock.patch.object(torch, "get_rng_state", refused):
            result = work()
        self.recordings += 1

        def replay() -> None:
            self.replays += 1
            tape.replay()

        return result, replay


class Tape(TorchDispatchMode):
    """The operations that ran, with their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if reason := waits_for_the_gpu(func, args):
            raise RuntimeError(f"operation not permitted in a capture: {reason}")
        result = func(*args, **kwargs)
        self.calls.append((func, _places(args), _places(kwargs), tensors(_places(result))))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, places in self.calls:
            if func in NO_KERNEL:
                continue
            for place, value in zip(places, tensors(func(*args, **kwargs)), strict=True):
                if value.data_ptr() != place.data_ptr():  # else a view, or changed in place
                    place.copy_(value)


def _places(tree: Any) -> Any:
    """The same memory without its history: autograd may go on owning and giving away the tensors themselves."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)
