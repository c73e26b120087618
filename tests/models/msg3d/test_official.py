"""Official constructor arguments and checkpoints of MS-G3D, and the numbers recorded from the official code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from engine import models
from engine.assembly import clip_shape
from engine.config import parse
from engine.errors import WeightsError
from engine.parity import fixture as fixtures
from engine.parity import forward
from engine.parity.limits import FLOAT64
from models.msg3d import official as names_module
from models.msg3d.network import MSG3D
from shared_data.errors import UsageError
from shared_data.protocols import BENCHMARKS
from shared_data.skeletons import UCLA20, skeleton
from tests.models.against_slow import assert_there_and_back
from tests.models.msg3d.naive import NaiveMSG3D

CARD = models.find("msg3d")
NAMES = models.official_module(CARD)
PARITY = CARD.folder.parents[1] / "tests" / "parity"
SMALL = {"skeleton": "ucla20", "people": 1, "gcn_scales": 4, "g3d_scales": 3, "width": 12}


def small(classes: int = 10) -> tuple[NaiveMSG3D, MSG3D]:
    return NaiveMSG3D(classes, UCLA20, 1, (4, 3), width=12), MSG3D(classes, **SMALL)


def test_constructor() -> None:
    assert NAMES.constructor({}) == {"num_classes": 60, "skeleton": "ntu25", "people": 2, "gcn_scales": 13, "g3d_scales": 6}
    given = {
        "num_class": 400, "num_point": 18, "num_person": 3, "num_gcn_scales": 8, "num_g3d_scales": 7, "in_channels": 2,
        "graph": "graph.kinetics.AdjMatrixGraph",
    }  # fmt: skip
    with torch.device("meta"):
        network = models.build(CARD, **NAMES.constructor(given))
        assert network(torch.empty(2, 2, 8, 18, 3)).shape == (2, 400)
    stage = network.stages[0]
    assert (stage.factorised[0].scales, stage.windows[1].graph.scales) == (8, 7)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"graph": "graph.ucla.AdjMatrixGraph"}, "graph.kinetics.AdjMatrixGraph"),
        ({"num_point": 18}, "25, the joints of graph.ntu_rgb_d"),
        ({"num_clas": 10}, "num_class"),
    ],
)
def test_constructor_refuses(given: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        NAMES.constructor(given)
    assert named in f"{caught.value} {caught.value.expected}"


def test_checkpoint_there_and_back() -> None:
    naive, network = small()
    assert_there_and_back(network, naive, NAMES)


def test_checkpoint_that_does_not_fit() -> None:
    official = dict(small()[0].state_dict())
    with pytest.raises(WeightsError, match=r"2 of another shape: fc.weight: 10x48 in the file, 60x48 in the model"):
        NAMES.from_official(official, small(60)[1])
    del official["sgcn1.0.A_res"]
    official["A_powers"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"1 missing: sgcn1.0.A_res; 1 unexpected: A_powers"):
        NAMES.from_official(official, small()[1])


def test_weights_for_other_scales_do_not_fit() -> None:
    with pytest.raises(WeightsError, match="A_res: 80x20 in the file, 100x20 in the model"):
        NAMES.from_official(small()[0].state_dict(), MSG3D(10, **{**SMALL, "gcn_scales": 5}))


@pytest.mark.slow
def test_recorded_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the general limits, tighter than those that a table off by a last bit is allowed."""
    monkeypatch.setattr(names_module, "allowance", lambda official: None)
    lines = forward.judge(fixtures.load(PARITY / "msg3d_ntu60.npz"))
    assert len(lines) == 29 and not [line for line in lines if not line.error <= line.limit]
    exact = next(line for line in lines if line.quantity == "float64 logits, evaluation")
    assert exact.limit == FLOAT64.output


OFFICIAL = {  # classes, rate, decay, epochs, drops, batch, scales
    "ntu60_xsub": (60, 0.05, 5e-4, 50, [30, 40], 32, (13, 6)),
    "ntu60_xview": (60, 0.05, 5e-4, 50, [30, 40], 32, (13, 6)),
    "ntu120_xsub": (120, 0.05, 5e-4, 60, [30, 50], 32, (13, 6)),
    "ntu120_xset": (120, 0.05, 5e-4, 60, [30, 50], 32, (13, 6)),
    "kinetics": (400, 0.1, 3e-4, 65, [45, 55], 128, (8, 8)),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_recipes(name: str) -> None:
    classes, rate, decay, epochs, drops, batch, scales = OFFICIAL[name]
    recipe = yaml.safe_load(Path(CARD.recipes[name]).read_text(encoding="utf-8"))
    assert BENCHMARKS[recipe["dataset"]].classes == classes
    assert (recipe["base_lr"], recipe["weight_decay"], recipe["num_epoch"], recipe["step"]) == (rate, decay, epochs, drops)
    assert (recipe["batch_size"], recipe["forward_batch_size"], recipe["warm_up_epoch"]) == (batch, 16, 0)
    assert recipe["model_args"] == {"gcn_scales": scales[0], "g3d_scales": scales[1]}
    assert (recipe["train_window_size"], recipe["test_window_size"], recipe["pipeline"]) == (-1, -1, "msg3d_ntu")
    assert (recipe["optimizer"], recipe["momentum"], recipe["nesterov"], recipe["loss_type"]) == ("SGD", 0.9, True, "CE")


@pytest.mark.parametrize(
    ("name", "frames"), [*((name, 300) for name in OFFICIAL), ("lowmem", 64), ("smoke", 64), ("nw_ucla", 52), ("tiny_cpu", 16)]
)
def test_every_recipe_shows_frames(name: str, frames: int) -> None:
    """A window of -1 is the whole clip of 300 frames, and a shorter one is really shorter, in training and evaluation."""
    config = parse(["--config", str(CARD.recipes[name])], model="msg3d")
    layout = skeleton(BENCHMARKS[config.dataset].skeleton if config.dataset != "auto" else "ntu25")
    assert {clip_shape(config, layout, 2, train=train)[1] for train in (True, False)} == {frames}
