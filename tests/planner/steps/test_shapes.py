"""Operations that are not run again return what they would have returned."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from planner.steps import shapes
from planner.steps.shapes import KnownShapes


def fake_mode(*, fake: bool) -> FakeTensorMode | None:
    mode = FakeTensorMode() if fake else None
    if mode is not None:
        mode.cache_enabled = False  # torch 2.3's own shrinks the storage behind a view
    return mode


def described(result: Any) -> list[object]:
    return [
        (leaf.shape, leaf.stride(), leaf.storage_offset(), leaf.dtype, leaf.device, leaf.untyped_storage().nbytes())
        if isinstance(leaf, Tensor)
        else leaf
        for leaf in tree_leaves(result)
    ]


OPERATIONS: dict[str, Callable[[Tensor], Any]] = {
    "broadcast": lambda x: x + x[0],
    "division of whole numbers": lambda x: x.long() / 2,
    "addition of a whole number": lambda x: x.long() + 1,
    "addition of a fraction": lambda x: x.long() + 1.0,
    "addition of a truth": lambda x: x.long() + True,
    "views": lambda x: (x[1:, 2], x.t(), x.split(2), x.unbind(), x.expand(3, *x.shape)),
    "reductions": lambda x: (x.sum(0), x.max(1), torch.var_mean(x, 0), x.argmax()),
    "in place": lambda x: x.clone().add_(1).mul_(x),
    "turned in place": lambda x: x.clone().t_(),
    "resized in place": lambda x: x.clone().resize_(7, 9),
    "product": lambda x: x @ x.t(),
    "lists": lambda x: torch._foreach_add([x, x[0]], 1.0),
    "nothing": lambda x: torch._foreach_mul_([x.clone()], 2.0),
    "pool": lambda x: torch.nn.functional.max_pool1d(x[None], 2, return_indices=True),
    "new": lambda x: (x.new_zeros(3), torch.zeros_like(x, dtype=torch.int8), torch.ones(2, device=x.device)),
}


@pytest.mark.parametrize("fake", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_known_answer_is_the_same(name: str, fake: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_answers", {})
    mode = fake_mode(fake=fake)
    with mode or contextlib.nullcontext(), torch.device("cpu" if fake else "meta"):
        x = torch.empty(4, 6)
        expected = described(OPERATIONS[name](x))
        with KnownShapes(mode):
            first, second = (described(OPERATIONS[name](x)) for _ in range(2))
        other = torch.empty(2, 8)
        wanted = described(OPERATIONS[name](other))
        with KnownShapes(mode):
            assert described(OPERATIONS[name](other)) == wanted
    assert first == second == expected
    assert shapes._answers


@pytest.mark.parametrize("fake", [False, True])
def test_views_share_their_memory_and_changes_in_place_return_what_they_were_given(fake: bool) -> None:
    mode = fake_mode(fake=fake)
    with mode or contextlib.nullcontext(), KnownShapes(mode), torch.device("cpu" if fake else "meta"):
        for _ in range(2):
            x = torch.empty(4, 6, requires_grad=True)
            y = x * 2
            view = y.view(24)
            assert view.untyped_storage()._cdata == y.untyped_storage()._cdata
            assert (y[1, 2] + y.t()[0, 0]).shape == () and y.untyped_storage().nbytes() == 4 * 6 * 4
            assert y.view(torch.int32).dtype == torch.int32
            assert y.add_(1) is y
            with torch.no_grad():
                assert (y + 1).untyped_storage()._cdata != y.untyped_storage()._cdata
            view.sum().backward()
            assert x.grad is not None and x.grad.shape == x.shape


def test_real_tensors_are_left_alone() -> None:
    with KnownShapes():
        assert [(torch.tensor(2.0) + number).item() for number in (1.0, 3.0, 1.0)] == [3.0, 5.0, 3.0]


def test_answers_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_answers", {})
    monkeypatch.setattr(shapes, "MOST", 5)
    with KnownShapes():
        for size in range(50):
            assert (torch.empty(size, device="meta") + 1).shape == (size,)
    assert len(shapes._answers) <= 5
