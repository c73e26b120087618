"""Official constructor arguments and checkpoints of CTR-GCN."""

from __future__ import annotations

import pytest
import torch

from engine import models
from engine.errors import WeightsError
from models.ctrgcn.network import CTRGCN
from shared_data.errors import UsageError
from shared_data.skeletons import UCLA20
from tests.models.against_slow import assert_there_and_back
from tests.models.ctrgcn.naive import NaiveCTRGCN

CARD = models.find("ctrgcn")
NAMES = models.official_module(CARD)


def test_constructor() -> None:
    assert NAMES.constructor({}) == {"num_classes": 60, "skeleton": "ntu25", "people": 2}
    given = {
        "num_class": 10, "num_point": 20, "num_person": 1, "graph": "graph.ucla.Graph",
        "graph_args": {"labeling_mode": "spatial"},
        "in_channels": 3, "drop_out": 0, "adaptive": False,
    }  # fmt: skip
    network = models.build(CARD, **NAMES.constructor(given))
    assert network(torch.zeros(2, 3, 8, 20, 1)).shape == (2, 10)
    assert not any("graph" in name for name, _ in network.named_parameters())


@pytest.mark.parametrize(
    "given",
    [{"graph": "graph.kinetics.Graph"}, {"graph_args": {"labeling_mode": "distance"}}, {"num_point": 20}, {"num_clas": 10}],
)
def test_constructor_refuses(given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        NAMES.constructor(given)


def test_checkpoint_there_and_back() -> None:
    assert_there_and_back(CTRGCN(10, skeleton="ucla20", people=1), NaiveCTRGCN(10, UCLA20, 1), NAMES)


def test_checkpoint_that_does_not_fit() -> None:
    official = dict(NaiveCTRGCN(10, UCLA20, 1).state_dict())
    with pytest.raises(WeightsError, match=r"2 of another shape: fc.weight: 10x256 in the file, 60x256 in the model") as caught:
        NAMES.from_official(official, CTRGCN(60, skeleton="ucla20", people=1))
    assert caught.value.exit_code == 65
    del official["l3.gcn1.alpha"]
    official["l11.gcn1.alpha"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"1 missing: l3.gcn1.alpha; 1 unexpected: l11.gcn1.alpha"):
        NAMES.from_official(official, CTRGCN(10, skeleton="ucla20", people=1))


def test_a_learned_graph_does_not_fit_the_fixed_variant() -> None:
    with pytest.raises(WeightsError, match=r"10 unexpected: l1.gcn1.PA"):
        NAMES.from_official(NaiveCTRGCN(10, UCLA20, 1).state_dict(), CTRGCN(10, skeleton="ucla20", people=1, adaptive=False))


def test_batch_counters() -> None:
    """Files from before PyTorch 0.4.1 lack them; otherwise the joined BatchNorms take the count of their parts."""
    official = dict(NaiveCTRGCN(10, UCLA20, 1).state_dict())
    network = CTRGCN(10, skeleton="ucla20", people=1)
    counters = [key for key in official if key.endswith("num_batches_tracked")]
    for key in counters:
        official[key] = torch.tensor(7)
    assert int(NAMES.from_official(official, network)["blocks.0.tcn.bn.num_batches_tracked"]) == 7
    for key in counters:
        del official[key]
    assert int(NAMES.from_official(official, network)["blocks.0.tcn.bn.num_batches_tracked"]) == 0
