"""Clips that a network is not made for."""

from __future__ import annotations

import pytest
import torch

from shared_data.batches.shape import require_clips
from shared_data.errors import LabError

GOOD = (3, 8, 25, 2)


@pytest.mark.parametrize("size", [GOOD, (3, None, 25, 2), (3, 8, 25, None), (None, None, None, None)])
def test_clips_of_the_size_are_let_through(size: tuple[int | None, int | None, int | None, int | None]) -> None:
    require_clips("X", torch.empty(5, *GOOD), size)


@pytest.mark.parametrize("given", [(2, 8, 25, 2), (3, 9, 25, 2), (3, 8, 24, 2), (3, 8, 25, 1), (3, 8, 25), (*GOOD, 1), (60, 8)])
def test_others_are_refused_by_name(given: tuple[int, ...]) -> None:
    with pytest.raises(LabError) as caught:
        require_clips("X", torch.empty(5, *given), GOOD, next_step="look")
    assert caught.value.what == f"X was given clips of shape {(5, *given)}"
    assert caught.value.expected == "(N, 3, 8, 25, 2): coordinates, frames, joints, people" and caught.value.next_step == "look"


def test_any_number_has_the_letter_of_its_axis() -> None:
    with pytest.raises(LabError, match="skeleton, the people and the window") as caught:
        require_clips("X", torch.empty(5, 3, 8, 25, 3), (3, None, 20, None))
    assert caught.value.expected.startswith("(N, 3, T, 20, M): ")
