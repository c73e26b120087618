"""Official constructor arguments, and checkpoints of MAMP and STARS."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine import models
from engine.errors import WeightsError
from engine.official import from_official, to_official
from engine.parity.fixture import Fixture
from engine.parity.network import build
from models.mamp import official
from models.mamp.network import MAMP
from models.mamp.pretraining import MaskedMotion
from models.mamp.tuning import Neighbours
from shared_data.errors import UsageError
from tests.models.against_slow import randomise

CARD = models.find("mamp")
NAMES = models.official_module(CARD)
OFFICIAL = {
    "dim_in": 3, "num_classes": 7, "dim_feat": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2.5, "num_frames": 16,
    "num_joints": 20, "patch_size": 1, "t_patch_size": 2, "qkv_bias": True, "qk_scale": None, "drop_rate": 0.0,
    "attn_drop_rate": 0.0, "drop_path_rate": 0.1, "protocol": "linprobe",
}  # fmt: skip
MASKED = {key: value for key, value in OFFICIAL.items() if key not in ("num_classes", "protocol", "drop_path_rate")} | {
    "decoder_dim_feat": 12, "decoder_depth": 1, "norm_skes_loss": False,
}  # fmt: skip
ENCODER = {"skeleton": "ucla20", "frames": 16, "width": 24, "depth": 2, "heads": 3, "mlp_ratio": 2.5, "patch": 2}


def test_constructor():
    assert official.constructor({}) == {"num_classes": 60, "people": 2, "skeleton": "ntu25"}
    network = models.build(CARD, **NAMES.constructor(OFFICIAL))
    assert network(torch.zeros(2, 3, 16, 20, 2)).shape == (2, 7)
    assert [block.drop_path.drop_prob for block in network.encoder.blocks] == [0.0, 0.1]
    assert network.encoder.blocks[0].mlp.fc1.weight.shape == (60, 24)


@pytest.mark.parametrize(
    "given", [{"num_joints": 21}, {"patch_size": 5}, {"qkv_bias": False}, {"attn_drop_rate": 0.1}, {"dim": 3}, {"drop_rate": 0.5}]
)
def test_constructor_refuses(given):
    with pytest.raises(UsageError):
        official.constructor(given)


def test_words_of_both_vocabularies():
    assert models.translated(CARD, {"dim_feat": 32, "depth": 2, "num_heads": 4}) == {"width": 32, "depth": 2, "heads": 4}
    assert models.translated(CARD, {"width": 32, "depth": 2}) == {"width": 32, "depth": 2}


def test_pretraining_arguments():
    given = official.pretraining_arguments(
        MASKED, {"mask_ratio": 0.8, "motion_stride": 2, "motion_aware_tau": 0.75, "base_lr": 1e-3}
    )
    objective = models.build_objective(CARD, "pretrain", **given)
    assert isinstance(objective, MaskedMotion)
    assert (objective.keep, objective.stride, objective.tau, objective.norm_target) == (31, 2, 0.75, False)
    found = objective.predicted(torch.randn(2, 3, 16, 20, 1))  # officially any number of people goes
    assert found.predicted.shape == (2, 160, 6) and found.encoded.shape == (2, 31, 24)
    with pytest.raises(UsageError):
        official.pretraining_arguments({"drop_path_rate": 0.1}, {})
    assert official.pretraining_arguments({}, {}) == {"people": 2, "skeleton": "ntu25"}


@pytest.mark.parametrize("people", [1, 3])
def test_a_fixture_tells_the_people(people):
    """The official class takes any number of them; a network of ours has one."""
    weights = NAMES.to_official(MAMP(7, **ENCODER, protocol="linprobe").state_dict(), MAMP(7, **ENCODER, protocol="linprobe"))
    clips = torch.zeros(2, 3, 16, 20, people)
    meta = {"model": "mamp_finetune", "constructor_args": OFFICIAL}
    network, _ = build(Fixture(Path("made up"), meta, {"input": clips.numpy()}), weights)
    assert network(clips).shape == (2, 7)
    meta |= {"steps": 1, "batch": {"N": 2, "C": 3, "T": 16, "V": 20, "M": people}}
    network, _ = build(Fixture(Path("made up"), meta, {}), weights)
    assert network(clips).shape == (2, 7)


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("given", "head"),
    [
        ({"protocol": "finetune"}, {
            "head.bn.weight": (2048,), "head.bn.bias": (2048,), "head.bn.running_mean": (2048,), "head.bn.running_var": (2048,),
            "head.bn.num_batches_tracked": (), "head.fc1.weight": (2048, 480), "head.fc1.bias": (2048,),
            "head.fc2.weight": (7, 2048), "head.fc2.bias": (7,),
        }),
        ({"protocol": "linprobe"}, {"head.fc.weight": (7, 24), "head.fc.bias": (7,)}),
        ({"protocol": "linprobe", "probe_norm": True}, {
            "head.fc.0.running_mean": (24,), "head.fc.0.running_var": (24,), "head.fc.0.num_batches_tracked": (),
            "head.fc.1.weight": (7, 24), "head.fc.1.bias": (7,),
        }),
    ],
)  # fmt: skip
def test_checkpoints_there_and_back(given, head):
    network = randomise(MAMP(7, **ENCODER, **given))
    theirs = NAMES.to_official(network.state_dict(), network)
    assert {name: shape for name, shape in shapes(theirs).items() if name.startswith("head.")} == head
    assert shapes(theirs)["temp_embed"] == (1, 8, 1, 24) and shapes(theirs)["pos_embed"] == (1, 1, 20, 24)
    assert shapes(theirs)["joints_embed.proj.weight"] == (24, 3, 2, 1)
    back = NAMES.from_official({f"module.{name}": value for name, value in theirs.items()}, network)
    assert back.keys() == network.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in network.state_dict().items())


def objectives() -> dict[str, nn.Module]:
    return {
        "mamp": MaskedMotion(**official.pretraining_arguments(MASKED, {})),
        "stars": Neighbours(**ENCODER, hidden=10, queue_size=6),
    }


@pytest.mark.parametrize("name", ["mamp", "stars"])
def test_pretraining_checkpoints_there_and_back(name):
    objective = randomise(objectives()[name])
    table = official.pretraining_table(objective)
    theirs = to_official(table, objective.state_dict())
    back = from_official(table, theirs, objective)
    assert back.keys() == objective.state_dict().keys() and not official.PRETRAINING_OURS
    assert all(torch.equal(back[key], value) for key, value in objective.state_dict().items())
    if name == "stars":
        heads = {key.removeprefix("encoder_student.head."): shape for key, shape in shapes(theirs).items() if ".head." in key}
        assert heads["predictor.0.weight"] == (10, 24) and heads["predictor.3.weight"] == (24, 10)
        assert {key.rsplit(".", 1)[0] for key in heads} == {"projector.0", "predictor.0", "predictor.1", "predictor.3"}
        assert {key: shapes(theirs)[key] for key in theirs if key.startswith("queue")} == {
            "queue": (24, 6), "queue_ptr": (1,), "queue_id": (6,),
        }  # fmt: skip


@pytest.mark.parametrize("file", ["mamp", "mamp whole", "stars", "probe"])
def test_the_encoder_of_every_kind_of_file(file):
    """With it exactly the head is missing, and it is the encoder that was trained."""
    objective = randomise(objectives().get(file.split(maxsplit=1)[0], MAMP(7, **ENCODER, protocol="linprobe")))
    table = NAMES.table(objective) if file == "probe" else official.pretraining_table(objective)
    state = {f"module.{name}": value for name, value in to_official(table, objective.state_dict()).items()}
    entries = official.encoder_entries({"model": state, "epoch": 3} if file == "mamp whole" else state)
    classifier = MAMP(7, **ENCODER)
    with pytest.raises(WeightsError) as caught:
        NAMES.from_official(entries, classifier)
    assert "8 missing: head.bn.weight" in caught.value.where and "unexpected" not in caught.value.where
    loaded = NAMES.encoder_from_official(state, classifier)
    ours = objective.encoder.state_dict()
    assert {name.removeprefix("encoder.") for name in loaded} == ours.keys()
    assert all(torch.equal(loaded[f"encoder.{name}"], value) for name, value in ours.items())
    assert classifier.encoder.arguments == objective.encoder.arguments
    assert file == "probe" or objective.classifier("") == {**objective.encoder.arguments}
