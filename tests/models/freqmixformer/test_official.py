"""Official constructor arguments and checkpoints of FreqMixFormer."""

from __future__ import annotations

import pytest
import torch

from engine import models
from engine.errors import WeightsError
from models.freqmixformer.network import FreqMixFormer
from shared_data.errors import UsageError
from tests.models.against_slow import assert_there_and_back
from tests.models.freqmixformer.naive import NaiveFreqMixFormer

CARD = models.find("freqmixformer")
NAMES = models.official_module(CARD)


def test_constructor() -> None:
    assert NAMES.constructor({}) == {"num_classes": 60, "skeleton": "ntu25", "people": 2}
    given = {
        "num_class": 120, "num_point": 25, "num_person": 1, "graph": "graph.ntu_rgb_d.Graph",
        "graph_args": {"labeling_mode": "distance"},  # never reaches the graph
        "in_channels": 3, "drop_out": 0, "adaptive": True, "frame_size": 16,
    }  # fmt: skip
    network = models.build(CARD, **NAMES.constructor(given))
    assert network(torch.zeros(2, 3, 16, 25, 1)).shape == (2, 120)


def test_constructor_of_another_layout() -> None:
    given = {"graph": "graph.ucla.Graph", "num_point": 20, "num_person": 1, "num_class": 10, "frame_size": 52}
    assert models.build(CARD, **NAMES.constructor(given))(torch.zeros(2, 3, 52, 20, 1)).shape == (2, 10)


@pytest.mark.parametrize("given", [{"graph": "graph.uav.Graph"}, {"num_point": 20}, {"num_clas": 10}, {"adaptive": False}])
def test_constructor_refuses(given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        NAMES.constructor(given)


def test_checkpoint_there_and_back() -> None:
    network = FreqMixFormer(10, skeleton="ucla20", people=1, frames=12)
    assert_there_and_back(network, NaiveFreqMixFormer(10, 20, 1, 12), NAMES)


def test_checkpoint_of_another_length() -> None:
    official = NaiveFreqMixFormer(10, 20, 1, 12).state_dict()
    with pytest.raises(WeightsError, match=r"l1.tem_mixf.branches.3.0.linear.weight: 12x12 in the file, 16x16 in the model"):
        NAMES.from_official(official, FreqMixFormer(10, skeleton="ucla20", people=1, frames=16))


def test_checkpoint_without_its_dead_weight() -> None:
    official = dict(NaiveFreqMixFormer(10, 20, 1, 12).state_dict())
    del official["l3.spa_mixf.alpha"]
    with pytest.raises(WeightsError, match=r"1 missing: l3.spa_mixf.alpha"):
        NAMES.from_official(official, FreqMixFormer(10, skeleton="ucla20", people=1, frames=12))
