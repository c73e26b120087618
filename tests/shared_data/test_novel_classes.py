"""Novel classes of NTU RGB+D 120 and its one-shot exemplars, by made-up lists of names."""

from __future__ import annotations

import numpy as np
import pytest

from shared_data.errors import DataError
from shared_data.novel_classes import SEEN_BY_NTU60, novel, one_shot_parts

NAMES = np.array([
    f"S{setup:03d}C{camera:03d}P{person:03d}R001A{action:03d}"
    for setup, actions, people in ((1, range(1, 61), (3, 8)), (18, range(61, 121), (8, 41, 45, 51)))
    for action in actions for person in people for camera in (2, 3)
])  # fmt: skip
LABELS = np.array([int(name[-3:]) - 1 for name in NAMES])


def test_novel_clips_are_those_of_the_sixty_later_actions() -> None:
    found = novel(NAMES, LABELS)
    assert (found.sum(), len(NAMES)) == (60 * 8, 60 * 4 + 60 * 8)
    assert {name[-3:] for name in NAMES[found]} == {f"{action:03d}" for action in range(61, 121)}
    np.testing.assert_array_equal(novel(np.array([f"train_{n}" for n in range(len(NAMES))]), LABELS), found)
    np.testing.assert_array_equal(novel(NAMES, LABELS % 60), found)
    with pytest.raises(DataError, match="1 of 720 clips have no name of NTU"):
        novel(np.where(np.arange(len(NAMES)) == 5, "x", NAMES), LABELS)


def test_one_shot_exemplars() -> None:
    parts = one_shot_parts(NAMES)
    exemplars = sorted(NAMES[parts == "exemplar"])
    old, new = ([f"S{setup:03d}C003P008R001A{action:03d}" for action in actions] for setup, actions in
                ((1, range(1, 61, 6)), (18, range(61, 121, 6))))  # fmt: skip
    assert exemplars == old + new
    assert len(old) == len(new) == SEEN_BY_NTU60 == 10
    assert (parts == "auxiliary").sum() == 50 * 4 + 50 * 8
    assert (parts == "evaluation").sum() == 10 * 3 + 10 * 7


def test_one_shot_needs_names_and_every_exemplar_once() -> None:
    one = "S001C003P008R001A007"
    with pytest.raises(DataError, match="19 exemplars, none of A007"):
        one_shot_parts(NAMES[one != NAMES])
    with pytest.raises(DataError, match="some of them twice"):
        one_shot_parts(np.append(NAMES, one))
    with pytest.raises(DataError, match="names like S001C002P003R002A013"):
        one_shot_parts(np.array(["train_0", one]))
