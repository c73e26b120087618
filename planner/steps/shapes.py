"""What operations on tensors without values return, worked out once for each set of arguments.

Most of the time of a trace goes into torch's own Python code that finds the shape of a result. It depends on nothing but the
shapes, strides and types of the arguments, and a network asks the same again: in each of its blocks, at each level of
recomputation, in each recipe. So the answers belong to the process, not to a `KnownShapes`: all networks share them, and they
stay until there are `MOST`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.utils._pytree import tree_flatten, tree_unflatten

from planner.steps.modes import OperationMode

MOST = 50_000
"""Answers kept; then all are forgotten."""


PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
"""Types of arguments that mean the same wherever they are equal."""


@dataclass(frozen=True)
class _Fresh:
    """A new tensor; the device is that of a fake tensor, None for meta tensors."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device | None


@dataclass(frozen=True)
class _View:
    """A tensor on the storage of argument `index`."""

    index: int
    offset: int
    like: _Fresh


@dataclass(frozen=True)
class _Given:
    """Argument `index` itself."""

    index: int


@dataclass(frozen=True)
class _Answer:
    results: tuple[object, ...]
    spec: Any  # how the results are packed; None for a single one


class _Unknown(Exception):
    """Something that is not a plain fact about shapes."""


_answers: dict[object, _Answer | None] = {}  # None: to be asked each time


class KnownShapes(OperationMode):
    """Inside, an operation on meta tensors, or on fake tensors of `fake`, that was run before is not run again.

    To be entered before every mode that watches operations: the one entered first is asked last. `fake` must be on already.
    """

    def __init__(self, fake: FakeTensorMode | None = None) -> None:
        super().__init__()
        self.fake = fake
        self.kind: type[Tensor] = Tensor if fake is None else FakeTensor

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        given: list[Tensor] = []
        try:
            key = (func, self.fake is None, self._key(args, given), self._key(tuple(kwargs.items()), given))
            answer = _answers[key]
        except _Unknown:
            return func(*args, **kwargs)
        except KeyError:
            return self._ask(func, args, kwargs, key, given)
        if answer is None:
            return func(*args, **kwargs)
        if answer.spec is None:
            return self._made(answer.results[0], given)
        return tree_unflatten([self._made(result, given) for result in answer.results], answer.spec)

    def _key(self, values: Any, given: list[Tensor]) -> object:
        """What `values` are as far as shapes go; their tensors are added to `given`."""
        parts: list[object] = []
        for value in values:
            if isinstance(value, Tensor):
                if type(value) is not self.kind and not (self.fake is None and isinstance(value, torch.nn.Parameter)):
                    raise _Unknown
                if self.fake is None:
                    if not value.is_meta:
                        raise _Unknown
                    where = None
                else:
                    if value.constant is not None:  # type: ignore[attr-defined]  # has a value after all
                        raise _Unknown
                    where = value.fake_device  # type: ignore[attr-defined]
                given.append(value)
                parts.append((value.dtype, value.shape, value.stride(), value.storage_offset(), where))
            elif isinstance(value, (list, tuple)):
                parts.append(self._key(value, given))
            elif isinstance(value, PLAIN):
                parts.append((value.__class__, value))  # True, 1 and 1.0 are not the same argument
            else:
                raise _Unknown
        return tuple(parts)

    def _ask(self, func: Any, args: Any, kwargs: Any, key: object, given: list[Tensor]) -> Any:
        before = [_state(tensor) for tensor in given]
        result = func(*args, **kwargs)
        if len(_answers) >= MOST:
            _answers.clear()
        try:
            _answers[key] = self._answer(result, given, before)
        except _Unknown:
            _answers[key] = None
        return result

    def _answer(self, result: Any, given: list[Tensor], before: list[object]) -> _Answer:
        if [_state(tensor) for tensor in given] != before:  # resize_, set_, transpose_
            raise _Unknown
        leaves, spec = tree_flatten(result)
        places: dict[int, int] = {}
        for index, tensor in enumerate(given):
            places.setdefault(tensor.untyped_storage()._cdata, index)
        made: list[object] = []
        seen: set[int] = set()
        for leaf in leaves:
            if leaf is None or isinstance(leaf, (bool, int, float)):
                made.append(leaf)
                continue
            if type(leaf) is not self.kind and not (self.fake is None and isinstance(leaf, torch.nn.Parameter)):
                raise _Unknown
            same = [index for index, tensor in enumerate(given) if tensor is leaf]
            if same:
                made.append(_Given(same[0]))
                continue
            if leaf.is_complex() or leaf.layout != torch.strided or getattr(leaf, "constant", None) is not None:
                raise _Unknown
            like = _Fresh(tuple(leaf.shape), leaf.stride(), leaf.dtype, None if self.fake is None else leaf.device)
            address = leaf.untyped_storage()._cdata
            if address in places:
                if (
                    self.fake is None or leaf.dtype != given[places[address]].dtype
                ):  # torch's own views of meta tensors are as fast
                    raise _Unknown
                made.append(_View(places[address], int(leaf.storage_offset()), like))
                continue
            if address in seen or leaf.storage_offset() or leaf.untyped_storage().nbytes() != _bytes(like):
                raise _Unknown
            if self.fake is None and not leaf.is_meta:
                raise _Unknown
            seen.add(address)
            made.append(like)
        return _Answer(tuple(made), None if leaves and leaves[0] is result else spec)

    def _made(self, result: object, given: list[Tensor]) -> Any:
        if isinstance(result, _Fresh):
            if self.fake is None:
                return torch.empty_strided(result.size, result.stride, dtype=result.dtype, device="meta")
            with torch._C._DisableTorchDispatch():
                plain = torch.empty_strided(result.size, result.stride, dtype=result.dtype, device="meta")
            return FakeTensor(self.fake, plain, result.device)
        if isinstance(result, _View):
            assert self.fake is not None
            with in_kernel_invocation_manager(self.fake):  # set_ on its storage would shrink that in torch 2.3
                plain = torch.as_strided(given[result.index], result.like.size, result.like.stride, result.offset)
            return FakeTensor(self.fake, plain, result.like.device)
        if isinstance(result, _Given):
            return given[result.index]
        return result


def _state(tensor: Tensor) -> object:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.untyped_storage().nbytes()


def _bytes(like: _Fresh) -> int:
    if 0 in like.size:
        return 0
    return (1 + sum((n - 1) * step for n, step in zip(like.size, like.stride, strict=True))) * like.dtype.itemsize
