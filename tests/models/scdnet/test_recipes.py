"""The recipes have the settings of the specification, section 7, and differ in nothing but their data."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import yaml

from engine import models
from engine.config import RunConfig, parse
from models.scdnet.pretraining import Disentanglement
from shared_data.pipelines import option_names
from shared_data.protocols import BENCHMARKS
from shared_data.skeletons import skeleton

CARD = models.find("scdnet")
PRETRAINING = {path.stem: path for path in sorted((CARD.folder / "pretrain").glob("*.yaml"))}
OFFICIAL = [name for name in PRETRAINING if name != "smoke" and not name.endswith("_8gb")]
DATA = ("recipe", "dataset", "split")


def settings(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(PRETRAINING[name].read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_pretraining(name: str) -> None:
    s = settings(name)
    assert (s["optimizer"], s["base_lr"], s["momentum"], s["nesterov"], s["weight_decay"]) == ("SGD", 0.01, 0.9, False, 1e-4)
    assert (s["num_epoch"], s["batch_size"], s["step"], s["lr_decay_rate"], s["warm_up_epoch"]) == (451, 64, [351], 0.1, 0)
    assert (s["pipeline"], s["train_window_size"], s["lr_schedule"], s["precision"]) == ("scdnet_pretrain", 64, "step", "fp32")
    assert f"{s['dataset']}_{s['split']}" == name
    assert s["objective_args"] == {
        "width": 2048, "heads": 8, "layers": 1, "dropout": 0.1,
        "dim": 128, "queue_size": 8192, "key_momentum": 0.999, "temperature": 0.2,
    }  # fmt: skip
    takes = inspect.signature(Disentanglement).parameters
    assert set(s["objective_args"]) == set(takes) - {"skeleton", "people", "frames"}


def test_official_pretraining_differs_in_its_data_only() -> None:
    assert len(OFFICIAL) == 4
    others = [{key: value for key, value in settings(name).items() if key not in DATA} for name in OFFICIAL]
    assert all(other == others[0] for other in others)
    small = settings("ntu60_xsub_8gb")
    assert small.pop("recompute") == "blocks" and small == settings("ntu60_xsub")


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_builds(name: str) -> None:
    s, text = settings(name), PRETRAINING[name].read_text(encoding="utf-8")
    assert text.startswith(f"# sal pretrain scdnet --recipe {name} --data ") and s["model"] == "scdnet"
    assert "representation" in option_names(s["pipeline"])  # what --stream says
    size = BENCHMARKS["ntu60" if s["dataset"] == "auto" else s["dataset"]]
    with torch.device("meta"):
        objective = Disentanglement(
            skeleton=skeleton(size.skeleton), people=size.people, frames=s["train_window_size"], **s["objective_args"]
        )
        views = torch.empty(2, 2, 3, s["train_window_size"], 25, size.people)
        assert objective.embed(views, torch.empty(2, dtype=torch.int64))["k_t"].shape == (2, s["objective_args"]["dim"])


def recipe(name: str) -> RunConfig:
    return parse(["--recipe", name], model="scdnet")


def test_fine_tuning() -> None:
    names = [name for name in CARD.recipes if name.startswith("finetune")]
    assert len({(recipe(name).dataset, recipe(name).split) for name in names}) == len(names) == 4
    others = [{k: v for k, v in recipe(name).identity().items() if k not in DATA} for name in names]
    assert all(other == others[0] for other in others)
    s = recipe(names[0])
    assert (s.optimizer, s.base_lr, s.momentum, s.nesterov, s.weight_decay) == ("SGD", 0.01, 0.9, False, 1e-4)
    assert (s.num_epoch, s.batch_size, s.step, s.warm_up_epoch) == (100, 64, [60, 80], 0)
    assert (s.train_feeder_args, s.test_feeder_args) == ({"ratio": [0.5, 1.0]}, {"test_ratio": [0.95]})
