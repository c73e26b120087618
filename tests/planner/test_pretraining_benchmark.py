"""benchmarks/pretraining_step.py: the plain forms compute what ours do, keep more, and a wrong one is found out."""

from __future__ import annotations

import dataclasses
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks are not installed with the packages

from benchmarks import plain_objectives, pretraining_step
from benchmarks.pretraining_step import ALLOWED, STEPS, Pair, held_together, pair, predicted
from shared_data.errors import LabError

SMALL: dict[str, dict[str, Any]] = {
    "isc": {"encoders": {"seq": {"width": 16}, "graph": {"width": 8}}, "moco_k": 12, "dim": 8},
    "scdnet": {"width": 16, "heads": 2, "dim": 8, "queue_size": 12},
    "mamp": {"frames": 12, "width": 16, "depth": 2, "heads": 2, "decoder_width": 8, "decoder_depth": 1},
    "stars": {"frames": 8, "width": 16, "depth": 4, "heads": 2, "hidden": 24, "queue_size": 192},
    "usdrl": {"width": 16, "hidden": 12},
}
FRAMES = {"isc": 16, "scdnet": 16, "mamp": 12, "stars": 8, "usdrl": 8}


def small(name: str, batch: int = 4) -> Pair:
    """The row's recipe with a narrow network."""
    whole = pair(name, Namespace(device="meta"))
    config = dataclasses.replace(
        whole.config, objective_args=whole.config.objective_args | SMALL[name], batch_size=batch,
        train_window_size=FRAMES.get(name, whole.config.train_window_size),
    )  # fmt: skip
    clip = (*whole.clip[:-3], config.train_window_size, *whole.clip[-2:])
    return dataclasses.replace(whole, config=config, clip=clip)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "scdnet")) for name in STEPS])
def test_both_forms_are_the_same_step(name: str) -> None:
    assert max(held_together(small(name))) < ALLOWED / 1000


@pytest.mark.parametrize("name", ["mamp", "usdrl"])
def test_another_step_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    form = {"mamp": plain_objectives.PlainMaskedMotion, "usdrl": plain_objectives.PlainDecorrelation}[name]
    usual = form.embed

    def embed(self: Any, views: torch.Tensor, ids: torch.Tensor) -> Any:
        return usual(self, views * 1.001, ids)

    monkeypatch.setattr(form, "embed", embed)
    assert max(held_together(small(name))) > ALLOWED


def test_what_the_plain_form_wastes_is_seen() -> None:
    """Of STARS: stored maps of attention, a second view, and gradients of what does not learn."""
    row = predicted(small("stars", 192))
    assert row["gib_blocks"] <= row["gib_cheap"] <= row["gib_none"] < row["gib_plain"] / 2  # in hundredths of a GiB, so few here
    assert row["gib_blocks"] < row["gib_none"]
    assert 2 * row["launches"] < row["launches_plain"] and 2 * row["gb_moved"] < row["gb_moved_plain"]


def test_an_unknown_row_is_refused() -> None:
    with pytest.raises(LabError, match="no step"):
        pair("byol", Namespace(device="meta"))


def test_a_row_of_times_has_all_columns() -> None:
    row = pretraining_step.timed(small("mamp"), torch.device("cpu"), 2, 2)
    assert set(row) == set(pretraining_step.TIMES) - {"step", "recipe", "clip", "loss_difference", "gradient_difference"}
    assert row["ms"] > 0 and row["ms_plain"] > 0
