"""Official constructor arguments and checkpoints of Skeleton-Contrastive, of classifiers and of pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine import models
from engine.errors import WeightsError
from engine.official import from_official, to_official
from engine.weights import load_encoder
from models.isc import official
from models.isc.network import Classifier
from models.isc.pretraining import MoCo
from shared_data.errors import UsageError
from shared_data.skeletons import NTU25, UCLA20
from tests.models.against_slow import assert_there_and_back, randomise
from tests.models.isc.naive import NaiveAGCN, NaiveBiGRU, NaiveHCN

CARD = models.find("isc")
NAMES = models.official_module(CARD)
HCN = {"in_channel": 3, "out_channel": 8, "window_size": 32, "num_joint": 25, "num_person": 2, "num_class": 10}
AGCN = {"num_class": 10, "num_point": 25, "num_person": 2, "graph_args": {"labeling_mode": "spatial"}}
GRU = {"en_input_size": 150, "en_hidden_size": 12, "en_num_layers": 2, "num_class": 10}


@pytest.mark.parametrize(
    ("given", "expected", "frames"),
    [
        (HCN, {"representation": "image", "width": 8, "frames": 32, "skeleton": "ntu25", "people": 2}, 32),
        ({**HCN, "num_joint": 20, "num_person": 1}, {"representation": "image", "skeleton": "ucla20", "people": 1}, 32),
        (AGCN, {"representation": "graph", "skeleton": "ntu25", "people": 2}, 9),
        ({**AGCN, "num_person": 3}, {"representation": "graph", "people": 3}, 9),
        (GRU, {"representation": "seq", "width": 12, "layers": 2, "skeleton": "ntu25", "people": 2}, 9),
        ({**GRU, "en_input_size": 75}, {"skeleton": "ntu25", "people": 1}, 9),
        ({**GRU, "en_input_size": 60}, {"skeleton": "ucla20", "people": 1}, 9),
        ({**GRU, "en_input_size": 225}, {"skeleton": "ntu25", "people": 3}, 9),
    ],
)
def test_constructor(given: dict[str, Any], expected: dict[str, Any], frames: int) -> None:
    arguments = NAMES.constructor(given)
    assert arguments.items() >= expected.items() and arguments["num_classes"] == 10
    network = models.build(CARD, **arguments)
    joints, people = network.encoder.size.joints, network.encoder.size.people
    assert network(torch.zeros(2, 3, frames, joints, people)).shape == (2, 10)


@pytest.mark.parametrize(
    "given",
    [
        {"num_clas": 10}, {**AGCN, "num_point": 20}, {**AGCN, "graph_args": {"labeling_mode": "distance"}},
        {**HCN, "num_joint": 31}, {**GRU, "en_input_size": 151}, {**HCN, "window_size": 8},
    ],
)  # fmt: skip
def test_constructor_refuses(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        models.build(CARD, **NAMES.constructor(given))


@pytest.mark.parametrize(
    ("given", "slow"),
    [
        (HCN, NaiveHCN(10, NTU25, 2, width=8, frames=32)),
        ({**HCN, "num_joint": 20, "num_person": 1, "out_channel": 4}, NaiveHCN(10, UCLA20, 1, width=4, frames=32)),
        (AGCN, NaiveAGCN(10, NTU25, 2)),
        (GRU, NaiveBiGRU(10, NTU25, 2, hidden=12, layers=2)),
    ],
    ids=["image", "image-ucla", "graph", "seq"],
)
def test_checkpoint_there_and_back(given: dict[str, Any], slow: nn.Module) -> None:
    network = models.build(CARD, **NAMES.constructor(given))
    assert_there_and_back(network, slow, NAMES)


def test_checkpoint_of_another_encoder() -> None:
    state = NaiveHCN(10, NTU25, 2, width=8, frames=32).state_dict()
    with pytest.raises(WeightsError, match=r"(?s)missing: encoder\.gru.*unexpected: conv1\.0\.weight"):
        NAMES.from_official(state, models.build(CARD, **NAMES.constructor(GRU)))


def test_a_recorded_sequence_is_read_as_clips() -> None:
    network = Classifier(3, representation="seq", width=4)
    clips = torch.randn(2, 3, 5, 25, 2)
    recorded = clips.permute(0, 2, 3, 1, 4).reshape(2, 5, 150)  # frames, then joint, coordinate, person
    assert torch.equal(official.recorded_clips(recorded, network), clips)
    assert torch.equal(official.recorded_clips(clips, network), clips)


def naive(representation: str, dim: int) -> nn.Module:
    """An official encoder with its projection head."""
    slow: nn.Module = {
        "seq": lambda: NaiveBiGRU(1, NTU25, 2, hidden=6, layers=2),
        "image": lambda: NaiveHCN(1, NTU25, 2, width=4, frames=32),
        "graph": lambda: NaiveAGCN(1, NTU25, 2, width=8),
    }[representation]()
    width = slow.fc.in_features
    slow.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))
    return slow


SIZES = {"seq": {"width": 6, "layers": 2}, "image": {"width": 4}, "graph": {"width": 8}}
PAIRS = {
    "seq-based_and_graph-based": {"seq": "encoder_q", "graph": "encoder_r"},
    "seq-based_and_image-based": {"seq": "encoder_q", "image": "encoder_r"},
    "graph-based_and_image-based": {"graph": "encoder_q", "image": "encoder_r"},
    "seq-based": {"seq": "encoder_q"},
    "graph-based": {"graph": "encoder_q"},
    "image-based": {"image": "encoder_q"},
}
"""Section 6 of the specification."""


def official_state(pair: dict[str, str], dim: int = 5, size: int = 7) -> dict[str, Tensor]:
    """A file of the official pretraining, no two numbers alike."""
    state: dict[str, Tensor] = {}
    for name, query in pair.items():
        for role in (query, {"encoder_q": "encoder_k", "encoder_r": "encoder_l"}[query]):
            state |= {f"module.{role}.{k}": v for k, v in randomise(naive(name, dim)).state_dict().items()}
            state[f"module.{role}.fc.0.bias"] = torch.randn_like(state[f"module.{role}.fc.0.bias"])
    queues = [("queue", "queue_ptr")] if len(pair) == 1 else [(f"Queue_S{i}", f"queue_ptr_S{i}") for i in (1, 2)]
    for queue, pointer in queues:
        state |= {f"module.{queue}": torch.randn(dim, size), f"module.{pointer}": torch.tensor([3])}
    return state


def objective_for(names: tuple[str, ...]) -> MoCo:
    return MoCo(
        skeleton=NTU25, people=2, frames=32, representations=names, moco_k=7, dim=5, encoders={n: SIZES[n] for n in names}
    )


@pytest.mark.parametrize("pair", PAIRS)
def test_pretraining_checkpoints_there_and_back(pair: str) -> None:
    assert official.representations(pair) == tuple(PAIRS[pair])
    objective, state = objective_for(official.representations(pair)), official_state(PAIRS[pair])
    table = official.pretraining_table(objective)
    own = {row.ours for row in table} ^ set(objective.state_dict())
    assert own == {f"queue.{name}.ids" for name in PAIRS[pair]} and official.PRETRAINING_OURS == ("queue.*.ids",)
    rows = [*table, *(official.Entry(key, key) for key in own)]
    objective.load_state_dict(from_official(rows, {**state, **{k: objective.state_dict()[k] for k in own}}, objective))
    back = to_official(table, objective.state_dict())
    assert back.keys() == {key.removeprefix("module.") for key in state}
    assert all(torch.equal(back[key.removeprefix("module.")], value) for key, value in state.items())


@pytest.mark.parametrize("pair", PAIRS)
def test_a_classifier_takes_the_query_encoder_and_only_its_head_is_new(pair: str) -> None:
    state = official_state(PAIRS[pair])
    for name, query in PAIRS[pair].items():
        network = Classifier(4, representation=name, **SIZES[name], frames=32)
        entries = official.encoder_entries(state, name)
        assert all(torch.equal(value, state[f"module.{query}.{key}"]) for key, value in entries.items())
        assert {row.official for row in NAMES.table(network)} - set(entries) == {"fc.weight", "fc.bias"}
        assert set(entries) <= {row.official for row in NAMES.table(network)}
        head = {"fc.weight": network.fc.weight, "fc.bias": network.fc.bias}
        network.load_state_dict(NAMES.from_official({**entries, **head}, network))
        objective = objective_for(tuple(PAIRS[pair]))
        assert network.encoder.state_dict().keys() == objective.query[name].encoder.state_dict().keys()
        assert official.encoder_entries(state, {v: k for k, v in official.NAMES.items()}[name]).keys() == entries.keys()


def test_which_encoder_has_to_be_said_where_there_are_two() -> None:
    one, two = official_state(PAIRS["image-based"]), official_state(PAIRS["seq-based_and_graph-based"])
    assert official.encoder_entries(one).keys() == official.encoder_entries(one, "image").keys()
    with pytest.raises(WeightsError, match="not said"):
        official.encoder_entries(two)
    with pytest.raises(WeightsError, match="no query encoder 'image'"):
        official.encoder_entries(two, "image")


def test_init_takes_the_encoder_of_the_classifier_where_a_file_has_two(tmp_path: Path) -> None:
    state = official_state(PAIRS["seq-based_and_graph-based"])
    torch.save(state, tmp_path / "checkpoint_0450.pth.tar")
    for name, query in PAIRS["seq-based_and_graph-based"].items():
        network = Classifier(4, representation=name, **SIZES[name], frames=32)
        head = network.fc.weight.clone()
        assert load_encoder(tmp_path / "checkpoint_0450.pth.tar", network, "isc", trust_pickle=True) == "official"
        assert torch.equal(network.fc.weight, head)
        back = NAMES.to_official(network.state_dict(), network)
        theirs = {key.removeprefix(f"module.{query}."): value for key, value in state.items()}
        assert all(torch.equal(back[key], theirs[key]) for key in back if not key.startswith("fc."))
    with pytest.raises(WeightsError, match="no query encoder 'image'"):
        network = Classifier(4, representation="image", width=4, frames=32)
        load_encoder(tmp_path / "checkpoint_0450.pth.tar", network, "isc", trust_pickle=True)


def test_arguments_of_a_pair() -> None:
    hyper = {"queue_size": 64, "temperature": 0.1, "key_momentum": 0.9, "mlp": False, "dim": 16, "base_lr": 0.01}
    arguments = official.pretraining_arguments({"encoder_q": GRU, "encoder_r": HCN}, hyper)
    objective = MoCo(**arguments)
    assert objective.representations == ("seq", "image") and (objective.momentum, objective.temperature) == (0.9, 0.1)
    assert objective.queue["seq"].features.shape == (16, 64) and isinstance(objective.query["image"].fc, nn.Linear)
    assert objective.embed(torch.randn(2, 2, 3, 32, 25, 2), torch.arange(2))["query image"].shape == (2, 16)
    plain = official.pretraining_arguments({**AGCN, "num_class": 24}, {})
    assert (plain["dim"], plain["representations"], plain["people"], plain["skeleton"]) == (24, ["graph"], 2, NTU25)


@pytest.mark.parametrize("given", ["seq", "seq-based_and_depth-based", "seq-based_and_graph-based_and_image-based"])
def test_unknown_representations_are_refused(given: str) -> None:
    with pytest.raises(UsageError):
        official.representations(given)
