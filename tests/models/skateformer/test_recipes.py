"""The official recipes have the settings of the specification, section 6, and differ in nothing but their data."""

from __future__ import annotations

import pytest

from engine import models
from engine.config import RunConfig, parse

CARD = models.find("skateformer")
OFFICIAL = [name for name in CARD.recipes if name.startswith("ntu") and not name.endswith(("lowmem", "tiny"))]


def settings(name: str) -> RunConfig:
    return parse(["--recipe", name], model="skateformer")


@pytest.mark.parametrize("name", [*OFFICIAL, "nw_ucla"])
def test_official_training(name: str) -> None:
    s = settings(name)
    assert (s.optimizer, s.base_lr, s.weight_decay, s.clip_grad, s.label_smoothing) == ("AdamW", 1e-3, 0.1, 1.0, 0.1)
    assert (s.lr_schedule, s.warm_up_epoch, s.warm_up_lr, s.min_lr) == ("cosine_iteration", 25, 1e-7, 1e-5)
    assert (s.num_epoch, s.eval_from, s.batch_size, s.test_batch_size) == (500, 450, 128, 128)
    assert (s.train_window_size, s.test_window_size, s.model_args["num_heads"], s.model_args["drop_path"]) == (64, 64, 32, 0.2)
    assert s.repeat == (10 if name == "nw_ucla" else 1)


def test_ntu_recipes_differ_in_their_data_only() -> None:
    assert len(OFFICIAL) == 8
    assert len({(settings(name).dataset, settings(name).split) for name in OFFICIAL}) == 8
    data = ("recipe", "dataset", "split")
    others = [{k: v for k, v in settings(name).identity().items() if k not in data} for name in OFFICIAL]
    assert all(other == others[0] for other in others)
    assert others[0]["train_feeder_args"] == {
        "p_interval": [0.5, 1.0], "thres": 64, "uniform": True, "partition": True,
        "aug_method": "a123489", "intra_p": 0.5, "inter_p": 0.2,
    }  # fmt: skip
    assert others[0]["test_feeder_args"] == {"p_interval": [0.95], "thres": 64, "uniform": True, "partition": True}
