"""The recipes for learning without labels have the settings of the specification, section 3, and differ in their data alone."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from engine import models
from models.usdrl.pretraining import DenseDecorrelation

FOLDER = models.find("usdrl").folder / "pretrain"
SMALLER = ("smoke", "nw_ucla_cpu", "nw_ucla_32_cpu", "synthetic_cpu", "sttr_ntu60_xsub_8gb", "dste_ntu60_xsub_8gb")
OFFICIAL = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in SMALLER)


def text(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def settings(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text(name))
    return found


def test_there_is_one_for_each_backbone_and_protocol() -> None:
    kinds = {(s["objective_args"]["backbone"], s["dataset"], s["split"]) for s in map(settings, OFFICIAL)}
    protocols = (("ntu60", "xsub"), ("ntu60", "xview"), ("ntu120", "xsub"), ("ntu120", "xset"), ("pku_mmd", "xsub"))
    assert len(OFFICIAL) == len(kinds) == 10
    assert kinds == {(backbone, *protocol) for backbone in ("sttr", "dste") for protocol in protocols}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official(name: str) -> None:
    s = settings(name)
    assert (s["pipeline"], s["train_window_size"]) == ("usdrl_pretrain", 64)
    assert (s["optimizer"], s["base_lr"], s["weight_decay"], s["precision"]) == ("Adam", 5e-4, 1e-5, "fp16")
    long = s["dataset"] == "pku_mmd"
    assert (s["num_epoch"], s["step"], s["batch_size"]) == ((1201, [801], 512) if long else (451, [351], 356))
    assert (s["lr_schedule"], s["lr_decay_rate"], s["warm_up_epoch"]) == ("step", 0.1, 0)
    objective = DenseDecorrelation(**{**s["objective_args"], "width": 8}, frames=s["train_window_size"])
    assert objective.weights == {"sim": 5.0, "vac": 1.0, "xcorr": 1e-3}


@pytest.mark.parametrize("name", ["sttr_ntu60_xsub_8gb", "dste_ntu60_xsub_8gb"])
def test_on_8gb_only_the_pieces_differ(name: str) -> None:
    small, official = settings(name), settings(name.removesuffix("_8gb"))
    assert 0 < small.pop("forward_batch_size") < official["batch_size"] and small == official


@pytest.mark.parametrize("name", [*OFFICIAL, *SMALLER])
def test_every_recipe_makes_an_objective_and_says_how_to_run_it(name: str) -> None:
    s = settings(name)
    assert f"sal pretrain usdrl --recipe {name} " in text(name).split("model:")[0] and s["model"] == "usdrl"
    small = {"width": 8} if name != "smoke" else {}
    DenseDecorrelation(**{**s["objective_args"], **small}, frames=s["train_window_size"])
