"""Official constructor arguments and checkpoints of LaSA, and what official numbers tell of DeST."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import models
from engine.errors import WeightsError
from engine.parity import fixture as fixtures
from models.lasa.layouts import LARA19, tree
from models.lasa.network import LaSA
from shared_data.errors import UsageError
from shared_data.skeletons import NTU25
from shared_data.skeletons.hops import disentangled_adjacency

CARD = models.find("lasa", "segmenter")
NAMES = models.official_module(CARD)
FIXTURE = fixtures.load(CARD.folder.parents[1] / "tests" / "parity" / "lasa_pku.npz")
SMALL = {"skeleton": "ucla20", "people": 1, "width": 8, "layers": 4, "refine_layers": 3, "scales": 4}


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.npy"
    np.save(file, np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32))
    return str(file)


def test_constructor() -> None:
    assert NAMES.constructor({}) == {"num_classes": 52, "skeleton": NTU25, "people": 2, "in_channels": 6}
    given: dict[str, Any] = {
        "in_channel": 12, "n_features": 16, "n_classes": 8, "n_stages": 4, "n_layers": 5, "n_refine_layers": 3, "n_stages_asb": 3,
        "n_stages_brb": 2, "SFI_layer": [1, 3], "dataset": "LARA",
    }  # fmt: skip
    with torch.device("meta"):
        network = models.build(CARD, **NAMES.constructor(given))
    scores = network(torch.empty(1, 12, 19, 4, device="meta"), torch.empty(1, 1, 4, dtype=torch.bool, device="meta"))
    assert [tuple(one.shape) for one in scores.classes] == [(1, 8, 4)] * 3 and len(scores.boundaries) == 2
    assert network.fusion.focus == (1, 3)


@pytest.mark.parametrize("given", [{"dataset": "MCFS-22"}, {"n_feature": 64}])
def test_constructor_refuses(given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        NAMES.constructor(given)


def test_the_published_sizes() -> None:
    texts = {"PKU-subject": (52, 25, 1_638_079), "PKU-view": (52, 25, 1_638_079), "LARA": (8, 19, 1_622_271)}
    for dataset, (classes, joints, parameters) in texts.items():
        with torch.device("meta"):
            network = LaSA(**NAMES.constructor({"dataset": dataset, "n_classes": classes}))
        assert sum(p.numel() for p in network.parameters()) == parameters + joints * 512  # ours learns its text


def test_the_graph_has_the_recorded_bits() -> None:
    assert np.array_equal(disentangled_adjacency(tree(NTU25), 13), FIXTURE["graph/A_powers"])


def test_entries_have_official_names_and_shapes(tmp_path: Path) -> None:
    file = tmp_path / "text.npy"
    np.save(file, FIXTURE["input_text"].astype(np.float32))
    network = LaSA(**NAMES.constructor(FIXTURE.need("constructor_args")), joint_text=str(file))
    official = NAMES.to_official(network.state_dict(), network)
    recorded = {name: tuple(shape) for name, shape, *_ in FIXTURE.need("entries")}
    assert {name: tuple(value.shape) for name, value in official.items()} == recorded
    assert "STI.embeddding_weight" in official


def test_there_and_back(text: str) -> None:
    """No two numbers are alike, so that none can be exchanged unnoticed."""
    network = LaSA(5, **SMALL, joint_text=text, action_stages=3, boundary_stages=2)
    shapes = NAMES.to_official(network.state_dict(), network)
    official = {name: torch.randn_like(value) if value.dim() else torch.tensor(3) for name, value in shapes.items()}
    network.load_state_dict(NAMES.from_official(official, network))
    back = NAMES.to_official(network.state_dict(), network)
    assert list(back) == list(official) and all(torch.equal(back[name], value) for name, value in official.items())


def test_a_checkpoint_with_more_or_less_is_refused(text: str) -> None:
    network = LaSA(5, **SMALL, joint_text=text)
    state = NAMES.to_official(network.state_dict(), network)
    for wrong, named in (
        (
            {name: value for name, value in state.items() if name != "joint_att.key_conv.bias"},
            "1 missing: joint_att.key_conv.bias",
        ),
        ({**state, "STI.more": torch.zeros(1)}, "1 unexpected: STI.more"),
        ({**state, "conv_cls.bias": torch.zeros(6)}, "1 of another shape: conv_cls.bias"),
    ):
        with pytest.raises(WeightsError) as caught:
            NAMES.from_official(wrong, network)
        assert named in str(caught.value.where)


def test_what_no_official_checkpoint_is_of() -> None:
    for given, named in (({}, "joint_text"), ({"architecture": "dest_tcn"}, "architecture lasa")):
        network = LaSA(5, **SMALL, **given)  # type: ignore[arg-type]
        with pytest.raises(WeightsError) as caught:
            NAMES.from_official({}, network)
        assert named in f"{caught.value.expected}"


def test_the_joints_of_lara_hang_on_one_tree() -> None:
    parts = [joint for part in LARA19.parts.values() for joint in part]
    assert sorted(parts) == sorted(LARA19.mirror) == list(range(19))
    edges = {frozenset(pair) for pair in LARA19.edges}
    assert {frozenset((LARA19.mirror[a], LARA19.mirror[b])) for a, b in LARA19.edges} == edges
    spec = "1-0 2-1 3-2 4-3 5-0 6-5 7-6 8-7 9-0 10-9 11-9 12-10 13-12 14-13 15-9 16-15 17-16 18-17"
    assert edges == {frozenset(map(int, pair.split("-"))) for pair in spec.split()}
