"""Official constructor arguments, checkpoints, recipes and weights of Hyper-GCN."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import models
from engine.config import RunConfig, parse
from engine.errors import WeightsError
from engine.parity.judge import judge
from engine.schedules import epoch_learning_rate
from models.hypergcn.network import HyperGCN
from shared_data.errors import UsageError
from shared_data.skeletons import UCLA20
from tests.models.against_slow import assert_there_and_back
from tests.models.hypergcn.naive import NaiveHyperGCN

CARD = models.find("hypergcn")
NAMES = models.official_module(CARD)
PARITY = Path(__file__).resolve().parents[2] / "parity"
SHIPPED = [name for name in CARD.recipes if name.endswith(("xsub", "xview", "xset"))]


@pytest.mark.slow
@pytest.mark.parametrize("size", ["base", "large"])
def test_recorded_passes(size: str) -> None:
    """Much closer than the allowance for inexact official distances requires."""
    error = {line.quantity: line.error for line in judge(PARITY / f"hypergcn_{size}_ntu60.npz")}
    assert error["float64 logits, training"] < 1e-8 and error["float64 divergence"] < 1e-12


def test_one_step_without_data() -> None:
    script = CARD.folder / "smoke_test_kaggle.py"
    command = [sys.executable, str(script), "--device", "cpu", "--batch-size", "2", "--window-size"]
    done = subprocess.run([*command, "8"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "clips (2, 3, 8, 25, 2): loss" in done.stdout, done.stderr
    refused = subprocess.run([*command, "0"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "0 frames" in refused.stderr


def test_constructor() -> None:
    assert NAMES.constructor({}) == {"num_classes": 60, "skeleton": "ntu25", "people": 2, "hyper_joints": 0}
    given = {
        "num_class": 10, "num_point": 20, "num_person": 1, "hyper_joints": 0, "graph": "graph.ucla.Graph",
        "graph_args": {"labeling_mode": "spatial_ensemble"}, "in_channels": 3, "drop_out": 0, "adaptive": True,
    }  # fmt: skip
    network = models.build(CARD, **NAMES.constructor(given), size="large")
    assert network(torch.zeros(2, 3, 8, 20, 1)).shape == (2, 10)
    assert network.blocks[0].gcn.adjacency.shape == (8, 20, 20)


@pytest.mark.parametrize(
    "given",
    [
        {"graph": "graph.kinetics.Graph"}, {"graph_args": {"labeling_mode": "spatial"}}, {"num_point": 20}, {"num_clas": 10},
        {"graph_args": {"labeling_mode": "virtual_ensemble", "hyper_joints": 2}}, {"adaptive": False},
        {"graph_args": {"labeling_mode": "spatial_ensemble", "hyper_joints": 3}, "hyper_joints": 3},
        {"graph_args": {"labeling_mode": "spatial_ensemble"}, "hyper_joints": 3},
    ],
)  # fmt: skip
def test_constructor_refuses(given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        NAMES.constructor(given)


@pytest.mark.parametrize("labeling", ["virtual_ensemble", "spatial_ensemble"])
def test_virtual_joints_that_are_not_said_are_none(labeling: str) -> None:
    assert NAMES.constructor({"graph_args": {"labeling_mode": labeling}})["hyper_joints"] == 0


def test_official_classes_are_sizes() -> None:
    for name, size, keys in (("hypergcn_base", "base", 607), ("hypergcn_large", "large", 614)):
        card, variant = models.find_official(name)
        assert (card.name, variant) == ("hypergcn", {"size": size})
        network = models.build(card, **NAMES.constructor({"hyper_joints": 3}), **variant)
        assert len(NAMES.to_official(network.state_dict(), network)) == keys


def test_only_inexact_distances_get_an_allowance() -> None:
    assert NAMES.allowance({"hyper_joints": 3}) is not None  # 28 nodes
    assert NAMES.allowance({}) is None  # 25
    assert NAMES.allowance({"graph": "graph.ucla.Graph", "hyper_joints": 3}) is None  # 23


@pytest.mark.parametrize(("size", "h"), [("base", 3), ("large", 0)])
def test_checkpoint_there_and_back(size: str, h: int) -> None:
    network = HyperGCN(10, skeleton="ucla20", people=1, size=size, hyper_joints=h)
    assert_there_and_back(network, NaiveHyperGCN(10, UCLA20, 1, size, h), NAMES)


def test_checkpoint_that_does_not_fit() -> None:
    official = dict(NaiveHyperGCN(10, UCLA20, 1).state_dict())
    with pytest.raises(WeightsError, match=r"6 missing: l7.gcn1.down") as caught:
        NAMES.from_official(official, HyperGCN(10, skeleton="ucla20", people=1, size="large"))
    assert caught.value.exit_code == 65
    with pytest.raises(WeightsError, match=r"l1.gcn1.hyper_joint: 3x128 in the file, 0x128 in the model"):
        NAMES.from_official(official, HyperGCN(10, skeleton="ucla20", people=1, hyper_joints=0))


def config(recipe: str) -> RunConfig:
    return parse(["--config", str(CARD.recipes[recipe])], model="hypergcn")


def test_learning_rates() -> None:
    for name in SHIPPED:
        settings, (size, *protocol) = config(name), name.split("_")
        rates = [
            epoch_learning_rate(
                epoch, base_lr=settings.base_lr, warm_up_epoch=settings.warm_up_epoch, step=settings.step,
                lr_decay_rate=settings.lr_decay_rate,
            )
            for epoch in range(settings.num_epoch)
        ]  # fmt: skip
        factor = 0.5 if size == "large" and protocol != ["ntu60", "xsub"] else 1.0
        wanted = [0.01, 0.02, 0.03, 0.04, *[0.05] * 106, *[0.005] * 10, *[0.0005] * 20]
        assert rates == pytest.approx([factor * rate for rate in wanted], rel=1e-12), name
    assert len(SHIPPED) == 8


def test_recipes_train_with_virtual_joints_and_their_penalty() -> None:
    """Two official configurations forget the virtual joints, and their loss is NaN."""
    for name in CARD.recipes:
        settings = config(name)
        assert settings.model_args["hyper_joints"] == 3 and settings.penalty_weight == 1.0, name
        assert settings.model_args["size"] in name or name in ("smoke", "tiny_cpu"), name
        spread = settings.train_feeder_args.get("frame_sample") == "clips"
        assert spread == bool(settings.train_feeder_args.get("align")) == ("xview" in name), name


WEIGHTS = {
    "base_ntu60_xsub": (1, 1.4, 1.1, 0.3), "base_ntu60_xview": (1, 1.4, 1.1, 0.6),
    "base_ntu120_xsub": (1, 1.5, 0.7, 0.3), "base_ntu120_xset": (1, 1.5, 0.7, 0.3),
    "large_ntu60_xsub": (1, 1.4, 1, 0.5), "large_ntu60_xview": (1, 1.4, 1, 0.5),
    "large_ntu120_xsub": (1, 1.5, 0.7, 0.3), "large_ntu120_xset": (1, 1.5, 0.6, 0.6),
}  # fmt: skip


def test_ensemble_weights() -> None:
    rows = [row for row in CARD.toml["ensemble"] if len(row["streams"]) == 4]
    found = {f"{row['variant']}_{row['dataset']}_{row['protocol']}": tuple(row["weights"]) for row in rows}
    assert found == WEIGHTS and set(found) == set(SHIPPED) and len(rows) == len(found)
    assert all(row["streams"] == ["j", "b", "jm", "bm"] for row in rows)
