"""What operations ask of a device, counted while they run: kernel launches, bytes moved, floating-point operations.

A dispatch mode sees every operation after autograd, those of the backward pass too. On meta tensors, which have shapes and no
memory, a training step of any batch is counted in seconds and no GPU is needed.

launches   one for each aten call, except those that start nothing on a device:
           - views: calls that change nothing and whose results lie in the storages of their arguments (view, permute, expand,
             split, detach, _unsafe_view, ...);
           - allocations (`ALLOCATIONS`): memory is handed out, nothing runs;
           - calls that return no tensor (sizes, values read by the host);
           - calls on tensors of other devices only (AdamW's step counters live on the CPU).
           A GPU starts at least one kernel per call counted: some calls are two or three (backward of a convolution), and a
           call on a list of all parameters (_foreach_...) is one per few hundred. A profiler on a GPU counts more.
bytes      each storage that a call reads, once, as far as it is shown to the call (an expanded tensor is as large as its memory),
           and each that it writes; a tensor changed in place is both. What a kernel reads twice (BatchNorm's input) counts
           once: a lower bound of the traffic, without caches.
FLOPs      matrix: `torch.utils.flop_counter`'s formulas (two per multiply-add) for matrix products, convolutions, attention;
           the backward of a convolution is twice its forward, also with groups, where torch's own formula forgets them.
           other: one per element of the largest argument or result; `MOVES` only copy and count none.

`Work` counts; `StepWork` is what was counted, by the name of the call: it can be kept in a file, and that of any batch follows
from two.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

from planner.steps.modes import OperationMode

aten = torch.ops.aten

ALLOCATIONS = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "resize_"})
ARGUMENT_IS_A_PATTERN = frozenset(
    {"zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_full"}
)
"""Calls that take a tensor for its shape alone."""
OVERWRITES = frozenset({"copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "_foreach_copy_", "_foreach_zero_"})
"""Calls in place that do not read what was there."""
PICKS = frozenset({"index", "_unsafe_index", "index_select", "gather", "embedding"})
"""Calls that read of their first argument no more than they return."""
MOVES = (
    ARGUMENT_IS_A_PATTERN
    | OVERWRITES
    | PICKS
    | {
        "_to_copy", "clone", "cat", "stack", "zeros", "ones", "full", "arange", "scalar_tensor", "select_backward",
        "slice_backward", "constant_pad_nd", "replication_pad2d", "flip", "roll", "im2col", "scatter", "index_put", "index_put_",
    }
)  # fmt: skip
"""Calls without arithmetic."""

_RESULT = "out_val" if "out_val" in flop_registry[aten.mm].__code__.co_varnames else "out"  # torch 2.3's word
_ON_CPU = {
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: aten._scaled_dot_product_flash_attention_backward,
}


@dataclass(frozen=True)
class Tally:
    """What all calls of one name take together; bytes are those read and those written."""

    calls: int = 0
    bytes: int = 0
    matrix_flops: int = 0
    other_flops: int = 0


NOTHING = Tally()


@dataclass(frozen=True)
class StepWork:
    """What one step, or one evaluation pass, asks of a device: a tally for each name of an aten call. Never changes."""

    by_call: Mapping[str, Tally]

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_call", MappingProxyType(dict(self.by_call)))

    @property
    def launches(self) -> int:
        return sum(tally.calls for tally in self.by_call.values())

    @property
    def bytes(self) -> int:
        return sum(tally.bytes for tally in self.by_call.values())

    @property
    def matrix_flops(self) -> int:
        return sum(tally.matrix_flops for tally in self.by_call.values())

    @property
    def other_flops(self) -> int:
        return sum(tally.other_flops for tally in self.by_call.values())

    def as_dict(self) -> dict[str, list[int]]:
        """For JSON: [calls, bytes, matrix FLOPs, other FLOPs] by name."""
        return {name: list(astuple(tally)) for name, tally in self.by_call.items()}

    @classmethod
    def from_dict(cls, counts: Mapping[str, Iterable[int]]) -> StepWork:
        """What `as_dict` gave; raises `ValueError` or `TypeError` for anything else."""
        tallies = {}
        for name, values in counts.items():
            numbers = tuple(values)
            if len(numbers) != 4 or any(type(number) is not int or number < 0 for number in numbers):
                raise ValueError(f"{name}: {numbers!r} are not four counts")
            tallies[name] = Tally(*numbers)
        return cls(tallies)

    @classmethod
    def affine(cls, small: StepWork, n1: int, large: StepWork, n2: int, n: int) -> StepWork:
        """That of `n` clips (or pieces) from those of `n1` and of `n2`, by a line for each number of each name.

        What is equal in both, as launches are, stays as it is; no count falls below 0. Exact where a network treats clips alike.
        Raises `ValueError` for `n1` equal to `n2`.
        """
        if n1 == n2:
            raise ValueError(f"two counts at {n1} clips make no line")

        def at(a: int, b: int) -> int:
            return max(a + round((b - a) * (n - n1) / (n2 - n1)), 0)

        pairs = {name: (small.by_call.get(name, NOTHING), large.by_call.get(name, NOTHING)) for name in small.by_call}
        pairs |= {name: (NOTHING, tally) for name, tally in large.by_call.items() if name not in pairs}
        return cls({name: Tally(*map(at, astuple(a), astuple(b))) for name, (a, b) in pairs.items()})


class Work(OperationMode):
    """Counts the work on `device` of what runs inside; the module's docstring has the rules.

    read, written               bytes
    matrix_flops, other_flops   operations
    calls, moved                launches and bytes by the name of the aten call
    counted                     all of it but the two directions of bytes, by the name of the aten call

    >>> with Work() as work:
    ...     model(clips).sum().backward()
    >>> work.launches, work.read + work.written
    """

    def __init__(self, device: str = "meta") -> None:
        super().__init__()
        self.device = device
        self.read = self.written = 0
        self.calls: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self._matrix: Counter[str] = Counter()
        self._other: Counter[str] = Counter()

    @property
    def launches(self) -> int:
        return self.calls.total()

    @property
    def matrix_flops(self) -> int:
        return self._matrix.total()

    @property
    def other_flops(self) -> int:
        return self._other.total()

    @property
    def counted(self) -> StepWork:
        """What has run so far."""
        return StepWork(
            {name: Tally(n, self.moved[name], self._matrix[name], self._other[name]) for name, n in self.calls.items()}
        )

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        try:
            result = func(*args, **kwargs)
        except NotImplementedError:  # torch 2.3 has no meta kernel of some updates in place, which have nothing to do there
            if self.device != "meta" or func._schema.returns:
                raise
            result = None
        self._count(func, args, kwargs, result)
        return result

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        name = func._schema.name.partition("::")[2]
        results = self._tensors(result)
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        changed = [a for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write and a.name in given]
        targets = [tensor for argument in changed for tensor in self._tensors(given[argument.name])]
        if name in ALLOCATIONS or not (results or targets):
            return
        arguments = {_address(tensor) for tensor in self._tensors((args, kwargs))}
        if not targets and all(_address(tensor) in arguments for tensor in results):
            return  # a view

        unread = [] if name not in OVERWRITES else [a.name for a in changed]
        unread += [a.name for a in changed if a.is_out]
        if name in ARGUMENT_IS_A_PATTERN:
            unread += list(given)
        if name == "convolution_backward":  # the gradient of the input needs the weight and the other way round
            unread += [word for word, needed in zip(("weight", "input"), given["output_mask"], strict=False) if not needed]
        sources = {word: self._tensors(value) for word, value in given.items() if word not in unread}
        read = _bytes(tensor for tensors in sources.values() for tensor in tensors)
        if name in PICKS:
            first = self._tensors(args[0])
            read += min(_bytes(results), _bytes(first)) - _bytes(first)
        written = _bytes([*results, *targets])
        self.calls[name] += 1
        self.moved[name] += read + written
        self.read += read
        self.written += written
        self._count_flops(func, name, args, kwargs, result)

    def _count_flops(self, func: Any, name: str, args: Any, kwargs: Any, result: Any) -> None:
        packet = _ON_CPU.get(func._overloadpacket, func._overloadpacket)
        if packet is aten.convolution_backward:
            gradient, x, weight, transposed, mask = args[0], args[1], args[2], args[7], args[10]
            forward = conv_flop_count(list(x.shape), list(weight.shape), list(gradient.shape), transposed)
            self._matrix[name] += forward * (mask[0] + mask[1])
        elif packet in flop_registry:
            self._matrix[name] += flop_registry[packet](*args, **kwargs, **{_RESULT: result})
        elif name not in MOVES:
            every = (*args, *kwargs.values(), result)
            self._other[name] += max(sum(tensor.numel() for tensor in self._tensors(value)) for value in every)

    def _tensors(self, values: Any) -> list[torch.Tensor]:
        return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor) and leaf.device.type == self.device]


def _address(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Memory behind `tensors`: each view once, a storage never more than it holds, repeated (expanded) elements once."""
    shown: dict[int, dict[object, int]] = {}
    holds: dict[int, int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        place = (tensor.storage_offset(), tensor.size(), tensor.stride())
        elements = math.prod(n for n, stride in zip(tensor.size(), tensor.stride(), strict=True) if stride or n == 0)
        shown.setdefault(storage._cdata, {})[place] = elements * tensor.element_size()
        holds[storage._cdata] = storage.nbytes()
    return sum(min(sum(views.values()), holds[address]) for address, views in shown.items())


@contextlib.contextmanager
def many_at_once(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Clipping and `optimizer` work on all parameters in one call, as torch does of itself on a GPU and not on meta tensors."""
    before = [group.get("foreach") for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["foreach"] = True
    try:
        with mock.patch.object(torch.nn.utils.clip_grad, "_has_foreach_support", lambda *_: True):
            yield
    finally:
        for group, foreach in zip(optimizer.param_groups, before, strict=True):
            group["foreach"] = foreach
