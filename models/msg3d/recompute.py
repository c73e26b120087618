"""Intermediate tensors that autograd does not keep for the backward pass but computes again there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Place = tuple[torch.Size, tuple[int, ...], int]  # size, strides and offset of a view


@contextmanager
def recomputed(tensor: Tensor, again: Callable[[], Tensor]) -> Iterator[None]:
    """What the block saves of `tensor` (or views of it) for the backward pass is not kept; ``again()`` gives it then.

    `again` runs without gradients once per backward pass, outside of any autocast, and gives what `tensor` is when it is saved,
    in the same memory layout: it does the same to the same values. Unlike `torch.utils.checkpoint` this runs no more than
    `again`, and asks no device for its random state, so it works on the meta device.
    """
    if not tensor.requires_grad:
        yield
        return
    storage = tensor.untyped_storage()._cdata  # its identity alone: the hooks must not keep the memory
    uses, left = 0, 0
    held: list[Tensor] = []  # from the first to the last use in a backward pass

    def pack(saved: Tensor) -> Tensor | Place:
        nonlocal uses, left
        if saved.untyped_storage()._cdata != storage:
            return saved
        uses = left = uses + 1
        return saved.size(), saved.stride(), saved.storage_offset()

    def unpack(packed: Tensor | Place) -> Tensor:
        nonlocal left
        if isinstance(packed, Tensor):
            return packed
        if not held:
            with torch.no_grad():
                held.append(again())
        result = held[0].as_strided(*packed)
        left -= 1
        if left == 0:
            held.clear()
            left = uses
        return result

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


@contextmanager
def activated(bn: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """``relu(bn(x))``, which the block does not keep: `x` is normalised again, with the same statistics.

    The running statistics move once. A BatchNorm over several processes is left as it is: it would have to talk to them again.
    """
    normed = bn(x)
    if type(bn) is not nn.BatchNorm2d:
        yield F.relu(normed, inplace=True)
        return
    given = x.detach()
    running = (None, None) if bn.training else (bn.running_mean, bn.running_var)

    def again() -> Tensor:
        return F.relu(F.batch_norm(given, *running, bn.weight, bn.bias, bn.training, 0.0, bn.eps), inplace=True)

    with recomputed(normed, again):
        yield F.relu(normed, inplace=True)
