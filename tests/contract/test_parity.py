"""Every recorded case of the official code that is kept here lies within its limits: passes, gradients, training steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import models
from engine.parity import fixture
from engine.parity.judge import judge

PARITY = Path(__file__).parent.parent / "parity"
CASES = [*sorted(PARITY.glob("*.npz")), *sorted((PARITY / "trajectories").glob("*.npz"))]


def test_every_verified_model_has_cases() -> None:
    judged = {models.find_official(fixture.load(path).meta["model"], None)[0].name for path in CASES}
    assert judged == {name for name, card in models.discover(None).items() if card.status == "verified"}


@pytest.mark.parametrize("path", CASES, ids=lambda path: str(path.relative_to(PARITY)))
def test_case(path: Path) -> None:
    lines = judge(path)
    assert lines and [line.quantity for line in lines if not line.ok] == []
    if path.parent.name == "trajectories":  # where the README allows more for graphs of another last bit, ours needs none of it
        assert max(line.error for line in lines if line.quantity.startswith("float64")) < 1e-7
