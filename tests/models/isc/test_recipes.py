"""Pretraining recipes: the official settings of the specification, section 7, and objectives that can be built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from models.isc.pretraining import MoCo
from shared_data.protocols import BENCHMARKS
from shared_data.skeletons import skeleton

FOLDER = Path(__file__).resolve().parents[3] / "models" / "isc"
RECIPES = {path.stem: path for path in sorted((FOLDER / "pretrain").glob("*.yaml"))}
OFFICIAL = ["ntu60_xsub", "ntu60_xview", "ntu120_xsub", "ntu120_xset"]


def settings(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(RECIPES[name].read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", RECIPES)
def test_each_says_how_to_run_it_and_is_in_the_readme(name: str) -> None:
    assert RECIPES[name].read_text(encoding="utf-8").startswith(f"# sal pretrain isc --recipe {name} --data ")
    assert f"`{name}`" in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["ntu60_xview", "nw_ucla", "nw_ucla_cpu", "smoke"])
def test_each_objective_can_be_built_and_takes_the_clips(name: str) -> None:
    given = settings(name)
    data = BENCHMARKS["ntu60" if given["dataset"] == "auto" else given["dataset"]]
    layout, window = skeleton(data.skeleton), given["train_window_size"]
    with torch.device("meta"):
        objective = MoCo(skeleton=layout, people=data.people, frames=window, **given["objective_args"])
        embedded = objective.embed(torch.empty(2, 2, 3, window, layout.joints, data.people), torch.empty(2, dtype=torch.int64))
        assert objective.loss(embedded)[0].shape == ()


@pytest.mark.parametrize("name", [*OFFICIAL, "ntu60_xview_8gb"])
def test_official_settings(name: str) -> None:
    given = settings(name)
    assert given.items() >= {
        "pipeline": "isc_pretrain", "train_window_size": 64, "batch_size": 64, "precision": "fp32", "optimizer": "SGD",
        "base_lr": 0.01, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4, "lr_schedule": "step", "lr_decay_rate": 0.1,
        "warm_up_epoch": 0,
    }.items()  # fmt: skip
    assert given["objective_args"] == {
        "representations": ["seq", "graph"], "moco_k": 16384, "moco_m": 0.999, "moco_t": 0.07, "mlp": True, "dim": 128,
    }  # fmt: skip
    assert (given["num_epoch"], given["step"]) == ((451, [351]) if given["dataset"] == "ntu60" else (351, [251]))


def test_the_small_one_differs_in_no_number() -> None:
    small = settings("ntu60_xview_8gb")
    assert small.pop("recompute") == "blocks" and small == settings("ntu60_xview")
