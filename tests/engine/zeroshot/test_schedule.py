"""Factors of the loss at the steps where they begin."""

from __future__ import annotations

import pytest

from engine.zeroshot.schedule import Factors, factors


@pytest.mark.parametrize("cycle", [0, 1, 2])
def test_cycles_of_1700_steps(cycle: int) -> None:
    text = cycle > 1
    assert factors(cycle, 0, steps=1700) == Factors(0.0, 0.0, 0.0)
    assert factors(cycle, 1000, steps=1700) == Factors(0.0, 0.0, 0.0)
    assert factors(cycle, 1400, steps=1700) == Factors(0.1 * 400 / 3000, 0.0, 0.0)
    assert factors(cycle, 1401, steps=1700) == Factors(0.1 * 401 / 3000, 0.1 / 3000 if text else 0.0, 1.0)
    assert factors(cycle, 1699, steps=1700) == Factors(0.1 * 699 / 3000, 0.1 * 299 / 3000 if text else 0.0, 1.0)


def test_cycles_of_1900_steps() -> None:
    assert factors(2, 1500, steps=1900) == Factors(0.1 * 500 / 3000, 0.0, 0.0)
    assert factors(2, 1501, steps=1900) == Factors(0.1 * 501 / 3000, 0.1 / 3000, 1.0)


def test_short_cycles_keep_the_proportions() -> None:
    assert factors(2, 10, steps=17) == Factors(0.0, 0.0, 0.0)
    assert factors(2, 14, steps=17).alignment == 0.0
    late = factors(2, 15, steps=17)
    assert late.skeleton > 0 and late.text > 0 and late.alignment == 1.0
