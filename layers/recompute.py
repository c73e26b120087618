"""Computing again in the backward pass what autograd would keep: memory for a little time, and the same bits.

Inside ``with recomputing("cheap"):`` a network may mark intermediate values that cost less to compute again than to keep:

    value = cheap(self.value, x)          # what needs `value` in the backward pass computes it from x again
    y = cheap(relu_of_sum, self.bn(z), x)

`cheap` runs the function as usual and remembers it. Where autograd saves the result, or a view of it, for the backward pass,
the saved-tensor hooks of the context put a reference in its place, so that nothing keeps the memory; there the function runs
again, on the same values, once per backward pass. Results of `cheap` may be arguments of `cheap`.

`segment` is for a whole block: with "blocks" it keeps the block's input alone (activation checkpointing), and runs the block
again with its cheap values marked. Outside of the context, in evaluation, and under `torch.compile` or `torch.export`, which
decide for themselves, both just call the function.

Everything is what ran before on what it ran on before: deterministic kernels give the same bits, and gradients are those of a
network that keeps everything. BatchNorm's running statistics move once. What changes inputs, weights or mode of the network
between its forward and backward pass is found and refused.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Level = Literal["none", "cheap", "blocks"]
Result = TypeVar("Result", Tensor, "tuple[Tensor, ...]")
Context = contextlib.AbstractContextManager[Any]
Place = tuple[tuple[int, ...], tuple[int, ...], int]  # size, strides and offset of a view


class _AsItWas:
    """That modules are what they were: the same parameters with the same values, and training or not."""

    __slots__ = ("modules", "state")

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules, self.state = modules, [_state(m) for m in modules]

    def require(self) -> None:
        """Raise `RuntimeError` if not: what runs again would compute something else."""
        if any(_state(m) != state for m, state in zip(self.modules, self.state, strict=True)):
            raise RuntimeError(
                "between its forward and its backward pass a network that is computed again had its weights changed or "
                "replaced, or went from training to evaluation or back"
            )


def _state(module: nn.Module) -> list[object]:
    return [
        *((id(p), p._version) for p in module.parameters()),
        *(m.training for m in module.modules()),
        *(b._version for m in module.modules() if not m.training for b in m.buffers(recurse=False)),
    ]


class _Again:
    """How to compute the results of one `cheap` call again; holds them between their first and last use of a backward pass."""

    def __init__(
        self, function: Callable[..., Any], arguments: list[Any], autocast: contextlib.AbstractContextManager[Any]
    ) -> None:
        self.function, self.arguments, self.autocast = function, arguments, autocast
        self.versions = [a._version if isinstance(a, Tensor) else None for a in arguments]
        candidates = (function, getattr(function, "__self__", None), *arguments)
        self.modules = _AsItWas([m for m in candidates if isinstance(m, nn.Module)])
        self.uses = self.left = 0
        self.held: tuple[Tensor, ...] | None = None

    def will_be_used(self) -> None:
        """One more use in the backward pass; the first makes it a use of every argument that is computed again itself."""
        if not self.uses:
            for argument in self.arguments:
                if isinstance(argument, _Reference):
                    argument.source.will_be_used()
        self.uses = self.left = self.uses + 1

    def result(self, index: int, place: Place) -> Tensor:
        """The view `place` of result `index`; the last use lets go of the memory."""
        if self.held is None:
            self.held = self._computed()
        value = self.held[index].as_strided(*place)
        self.left -= 1
        if not self.left:
            self.held, self.left = None, self.uses  # a graph that was retained may be walked again
        return value

    def _computed(self) -> tuple[Tensor, ...]:
        self.modules.require()
        for argument, version in zip(self.arguments, self.versions, strict=True):
            if isinstance(argument, Tensor) and argument._version != version:
                raise RuntimeError(f"an argument of cheap({self.function}) was changed in place after the forward pass")
        given = [a.source.result(a.index, a.place) if isinstance(a, _Reference) else a for a in self.arguments]
        with torch.no_grad(), self.autocast:
            result = self.function(*given)
        return (result,) if isinstance(result, Tensor) else result


@dataclass(frozen=True)
class _Reference:
    """In place of a tensor: view `place` of result `index` of `source`."""

    source: _Again
    index: int
    place: Place


class _Ledger:
    """Which storages can be computed again, while they live: an address may be another storage's afterwards."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.saved: list[_Saved] | None = None  # by a cheap function that is running: its results are not known yet
        self._known: dict[int, tuple[_Again, int, int]] = {}  # address -> source, index of its result, version
        self._watch: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def note(self, result: Tensor, source: _Again, index: int) -> None:
        storage = result.untyped_storage()
        address = storage._cdata
        self._known[address] = (source, index, result._version)
        self._watch[address] = weakref.ref(storage, partial(self._forget, address))

    def _forget(self, address: int, _: object) -> None:
        self._known.pop(address, None)
        self._watch.pop(address, None)

    def reference(self, tensor: Tensor) -> Tensor | _Reference:
        """`tensor`, or where to get it from if it need not be kept."""
        known = self._known.get(tensor.untyped_storage()._cdata)
        if known is None:
            return tensor
        source, index, version = known
        if tensor._version != version:
            raise RuntimeError(f"a result of cheap({source.function}) was changed in place: change it inside the function")
        return _Reference(source, index, (tensor.size(), tensor.stride(), int(tensor.storage_offset())))

    def pack(self, tensor: Tensor) -> _Saved:
        saved = _Saved(tensor)
        if self.saved is None:
            self.settle(saved)
        else:
            self.saved.append(saved)
        return saved

    def settle(self, saved: _Saved) -> None:
        """Let go of the tensor if it can be computed again."""
        if isinstance(saved.value, Tensor):
            saved.value = self.reference(saved.value)
            if isinstance(saved.value, _Reference):
                saved.value.source.will_be_used()

    @staticmethod
    def unpack(saved: _Saved) -> Tensor:
        value = saved.value
        if isinstance(value, _Reference):
            return value.source.result(value.index, value.place)
        if value._version != saved.version:  # hooks take this check away from autograd
            raise RuntimeError(f"a tensor of shape {tuple(value.shape)} that the backward pass needs was changed in place")
        return value

    def close(self) -> None:
        """Nothing is saved any more; graphs may outlive the forward pass, and need none of this."""
        self._known.clear()
        self._watch.clear()


class _Saved:
    """What autograd holds in place of a tensor."""

    __slots__ = ("value", "version")

    def __init__(self, tensor: Tensor) -> None:
        # Without its history: a node's own result would hold the node, and the node this.
        self.value: Tensor | _Reference = tensor.detach()
        self.version = tensor._version


_ledger: ContextVar[_Ledger | None] = ContextVar("ledger", default=None)


@contextlib.contextmanager
def recomputing(level: Level) -> Iterator[None]:
    """Forward passes inside keep, for their backward passes, all ("none"), all but cheap values, or the inputs of "blocks"."""
    if level == "none" or torch.compiler.is_compiling():
        yield
        return
    ledger = _Ledger(level)
    token = _ledger.set(ledger)
    try:
        with torch.autograd.graph.saved_tensors_hooks(ledger.pack, ledger.unpack):
            yield
    finally:
        _ledger.reset(token)
        ledger.close()


def cheap(function: Callable[..., Result], *arguments: Any) -> Result:
    """``function(*arguments)``, not kept for the backward pass but computed again there.

    function   returns a new tensor, or several, whose values depend on `arguments` and on parameters alone: no dropout, no
               running statistics moved (see `normalised`)
    arguments  tensors, and whatever else the function takes; nothing changes them, or the result, in place afterwards

    Arguments that are tensors are kept, unless they are results of `cheap`.
    """
    ledger = _active()
    if ledger is None:
        return function(*arguments)
    outer, ledger.saved = ledger.saved, []
    try:
        result = function(*arguments)
    finally:
        inside, ledger.saved = ledger.saved, outer
    results: tuple[Tensor, ...] = (result,) if isinstance(result, Tensor) else result
    if any(r.requires_grad for r in results):
        given = [ledger.reference(a.detach()) if isinstance(a, Tensor) else a for a in arguments]
        addresses = {a.untyped_storage()._cdata for a in arguments if isinstance(a, Tensor)}
        if any(r.untyped_storage()._cdata in addresses for r in results):
            raise RuntimeError(f"cheap({function}) returned its argument, or a view of it: there is nothing to compute again")
        source = _Again(function, given, _same_autocast(results[0]))
        for index, value in enumerate(results):
            ledger.note(value, source, index)
    for saved in inside:
        if outer is None:
            ledger.settle(saved)
        else:
            outer.append(saved)
    return result


def segment(block: nn.Module, *arguments: Tensor) -> Tensor:
    """``block(*arguments)``; at level "blocks" the arguments alone are kept, and the block runs again in the backward pass.

    The block returns one tensor. Its random numbers are the same again. Gradients have the same bits where each forward pass has
    a backward pass of its own: several that share one are summed in another order.
    """
    ledger = _active()
    if ledger is None or ledger.level != "blocks":
        result: Tensor = block(*arguments)
        return result
    return _Segment.apply(block, len(arguments), *arguments, *_trained(block))  # type: ignore[no-any-return]


def normalised(bn: nn.Module, x: Tensor, after: Callable[..., Result] = lambda y: y, *others: Tensor) -> Result:
    """``after(bn(x), *others)`` as a cheap value: `x` is kept and normalised again with the same statistics.

    `after` may change its first argument in place. BatchNorm's running statistics move once. A normalisation over several
    processes is kept as it is: it would have to talk to them again.
    """
    if type(bn) not in (nn.BatchNorm1d, nn.BatchNorm2d):
        return after(bn(x), *others)
    first = True

    def again(bn: nn.Module, x: Tensor, *others: Tensor) -> Result:
        nonlocal first
        with contextlib.nullcontext() if first else still(bn):
            first = False
            return after(bn(x), *others)

    return cheap(again, bn, x, *others)


class _Segment(torch.autograd.Function):
    """A block whose forward pass runs again, with gradients, in the backward pass.

    Its parameters are arguments only so that autograd asks for their gradients.
    """

    @staticmethod
    def forward(ctx: Any, block: nn.Module, count: int, *tensors: Tensor) -> Tensor:
        ctx.block, ctx.as_it_was = block, _AsItWas([block])
        ctx.random, ctx.autocast = random_state(tensors[0]), _same_autocast(tensors[0])
        ctx.save_for_backward(*tensors[:count])
        result: Tensor = block(*tensors[:count])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.as_it_was.require()
        wanted = ctx.needs_input_grad[2:]
        given = [t.detach().requires_grad_(need) for t, need in zip(ctx.saved_tensors, wanted, strict=False)]
        with torch.enable_grad(), random_numbers(ctx.random), still(ctx.block), ctx.autocast, recomputing("cheap"):
            result = ctx.block(*given)
        asked = [t for t, need in zip([*given, *_trained(ctx.block)], wanted, strict=True) if need]
        found = iter(torch.autograd.grad(result, asked, gradient, allow_unused=True))
        return None, None, *(next(found) if need else None for need in wanted)


def _trained(block: nn.Module) -> list[nn.Parameter]:
    return [p for p in block.parameters() if p.requires_grad]


@contextlib.contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """Inside, BatchNorms of `module` use the statistics of the batch, as they are, and leave their running ones alone."""
    moving = [
        m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and m.track_running_stats
    ]
    for bn in moving:
        bn.track_running_stats = False
    try:
        yield
    finally:
        for bn in moving:
            bn.track_running_stats = True


def _active() -> _Ledger | None:
    return None if torch.compiler.is_compiling() or not torch.is_grad_enabled() else _ledger.get()


def _same_autocast(like: Tensor) -> Context:
    """The autocast that is on now for the device of `like`, to be entered once more in the backward pass."""
    kind = like.device.type
    if kind == "meta":  # has none
        return contextlib.nullcontext()
    if hasattr(torch, "get_autocast_dtype"):
        on, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    elif kind == "cpu":  # torch 2.3
        on, dtype = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    else:
        on, dtype = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    return torch.autocast(kind, dtype=dtype, enabled=on, cache_enabled=False)


def random_state(like: Tensor) -> tuple[torch.device, Tensor] | None:
    """That of the device of `like`, for `random_numbers`; None where it cannot be asked for."""
    if like.is_meta or (like.is_cuda and torch.cuda.is_current_stream_capturing()):  # a graph may not ask; see engine.graphs
        return None
    return like.device, torch.cuda.get_rng_state(like.device) if like.is_cuda else torch.get_rng_state()


@contextlib.contextmanager
def random_numbers(state: tuple[torch.device, Tensor] | None) -> Iterator[None]:
    """The random numbers that came after `state`; those of now go on afterwards."""
    if state is None:
        yield
        return
    device, wanted = state
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.cuda.set_rng_state(wanted, device)
        else:
            torch.set_rng_state(wanted)
        yield
