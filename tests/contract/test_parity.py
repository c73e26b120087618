"""Every recorded case of the official code that is kept here lies within its limits: passes, gradients, training steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import models
from engine.parity import fixture, pretraining
from engine.parity.judge import judge

PARITY = Path(__file__).parent.parent / "parity"
CASES = [*sorted(PARITY.glob("*.npz")), *sorted((PARITY / "trajectories").glob("*.npz"))]


def test_every_verified_model_has_cases() -> None:
    judged = {models.find_official(fixture.load(path).meta["model"], None)[0].name for path in CASES}
    assert judged == {name for name, card in models.discover(None).items() if card.status == "verified"}


HEAVY = {"scdnet.npz": 1, "usdrl_sttr_pretrain.npz": 1, "isc_hcn.npz": 2, "isc_agcn.npz": 1, "mamp_pretrain.npz": 2}
LONG = {*HEAVY, "mamp_finetune.npz", "freqmixformer.npz", "hypergcn.npz", "msg3d.npz", "skateformer.npz"}
"""Training runs of a minute and more in float64: of those without labels the quick tests judge the first steps, of those with
labels one whole run, CTR-GCN's, and every network's forward and backward pass."""


@pytest.mark.parametrize("name", HEAVY)
def test_first_steps_of_a_heavy_run(name: str) -> None:
    lines = pretraining.judge(fixture.load(PARITY / "trajectories" / name), steps=HEAVY[name])
    assert len(lines) > 4 and [line.quantity for line in lines if not line.ok] == []


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.name in LONG and path.parent.name == "trajectories" else [])
        for path in CASES
    ],
    ids=lambda path: str(path.relative_to(PARITY)),
)
def test_case(path: Path) -> None:
    lines = judge(path)
    assert lines and [line.quantity for line in lines if not line.ok] == []
    if path.parent.name == "trajectories":  # where the README allows more for graphs of another last bit, ours needs none of it
        assert max(line.error for line in lines if line.quantity.startswith("float64")) < 1e-7
