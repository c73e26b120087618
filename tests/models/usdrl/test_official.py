"""Official constructor arguments, and official checkpoints of both stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine import models
from engine.errors import WeightsError
from engine.official import from_official, to_official
from models.usdrl import official
from models.usdrl.network import Classifier, sine_code
from models.usdrl.pretraining import DenseDecorrelation
from shared_data.errors import UsageError
from tests.models.against_slow import assert_there_and_back, randomise
from tests.models.usdrl.naive import NaiveUSDRL

CARD = models.find("usdrl")
NAMES = models.official_module(CARD)
GIVEN = {
    "t_input_size": 150, "s_input_size": 192, "hidden_size": 1024, "num_head": 1, "num_layer": 2, "num_class": 60,
    "modality": "joint", "alpha": 0.5, "gap": 4, "kernel_size": 1,
}  # fmt: skip
TINY = {**GIVEN, "hidden_size": 8, "s_input_size": 12}


def test_constructor() -> None:
    assert NAMES.constructor(GIVEN) == {
        "num_classes": 60, "skeleton": "ntu25", "people": 2, "frames": 64, "width": 1024, "heads": 1, "layers": 2,
        "modality": "joint", "alpha": 0.5, "gap": 4,
    }  # fmt: skip
    other = NAMES.constructor({**GIVEN, "t_input_size": 60, "s_input_size": 96, "num_head": 4, "modality": "bone", "gap": 2})
    assert (other["skeleton"], other["people"], other["frames"], other["heads"]) == ("ucla20", 1, 32, 4)
    assert (other["modality"], other["gap"]) == ("bone", 2)
    flat = NAMES.constructor({**GIVEN, "t_input_size": 68, "s_input_size": 128})  # FoundSkelModel's poses
    assert (flat["skeleton"], flat["people"], flat["frames"], flat["in_channels"]) == ("coco17", 2, 64, 2)
    assert NAMES.constructor({})["people"] == 2
    with pytest.raises(UsageError, match="t_input_size is 151"):
        NAMES.constructor({**GIVEN, "t_input_size": 151})
    with pytest.raises(UsageError, match="did you mean gap"):
        NAMES.constructor({"gaps": 4})


def test_official_words_in_a_recipe() -> None:
    assert models.translated(CARD, {"hidden_size": 256, "num_layer": 3}) == {"width": 256, "layers": 3}


@pytest.mark.parametrize("name", ["usdrl_sttr", "usdrl_dste"])
def test_variants(name: str) -> None:
    card, variant = models.find_official(name)
    network = models.build(card, **{**NAMES.constructor(TINY), **variant})
    assert network(torch.zeros(1, 3, 4, 25, 2)).shape == (1, 60)
    assert ("backbone.t_tr1.CA.conv1.weight" in NAMES.to_official(network.state_dict(), network)) == (name == "usdrl_dste")


@pytest.mark.parametrize("backbone", ["sttr", "dste"])
@pytest.mark.parametrize("sizes", [{"frames": 5, "width": 8}, {"people": 1, "frames": 9, "width": 6, "heads": 3}], ids=str)
def test_checkpoint_there_and_back(backbone: str, sizes: dict[str, Any]) -> None:
    assert_there_and_back(Classifier(7, backbone=backbone, **sizes), NaiveUSDRL(backbone, 7, **{"people": 2, **sizes}), NAMES)


def test_joints_of_another_layout_are_told() -> None:
    theirs = NaiveUSDRL("sttr", 5, people=1, frames=4, width=8).state_dict()
    with pytest.raises(WeightsError, match=r"backbone.spe: 1x25x8 in the file, 1x20x8 in the model"):
        NAMES.from_official(theirs, Classifier(5, skeleton="ucla20", people=1, frames=4, width=8))


def test_constants() -> None:
    """The float32 computation is near the exact one and not the same; the exact one is what a fresh network has."""
    single, exact = (official.constants(GIVEN, rounded=rounded)[official.CODE] for rounded in (False, True))
    assert single.shape == exact.shape == (1, 200, 1024) and single.dtype == exact.dtype == torch.float32
    assert 1e-7 < float((single - exact).abs().max()) < 3e-5
    assert torch.equal(exact[0], sine_code(200, 1024))


def objective(backbone: str, given: dict[str, Any] = TINY) -> DenseDecorrelation:
    return DenseDecorrelation(**{**official.pretraining_arguments(given, {}), "backbone": backbone})


@pytest.mark.parametrize("backbone", ["sttr", "dste"])
def test_pretraining_checkpoint(backbone: str) -> None:
    """There and back, and its encoder in a classifier: only the head is new."""
    torch.manual_seed(0)
    ours = objective(backbone)
    randomise(ours)
    theirs = {key: value.clone() for key, value in to_official(official.pretraining_table(ours), ours.state_dict()).items()}
    assert not official.PRETRAINING_OURS and all(key.startswith(("backbone.", "i_proj.", "s_proj.", "t_proj.")) for key in theirs)
    assert theirs["i_proj.6.weight"].shape == (32, 16) and theirs["t_proj.0.weight"].shape == (16, 8)
    back = from_official(official.pretraining_table(ours), {f"module.{k}": v for k, v in theirs.items()}, objective(backbone))
    assert back.keys() == ours.state_dict().keys() and all(torch.equal(back[k], v) for k, v in ours.state_dict().items())

    classifier = Classifier(60, backbone=backbone, width=8, frames=4)
    entries = official.encoder_entries(theirs)
    missing = {row.official for row in official.table(classifier)} - entries.keys()
    assert missing == {"fc.weight", "fc.bias"}
    head = {f"fc.{key}": value for key, value in classifier.fc.state_dict().items()}
    classifier.load_state_dict(NAMES.from_official({**entries, **head}, classifier))
    clips = torch.randn(2, 3, 4, 25, 2)
    assert torch.equal(classifier.eval().encoder(clips), ours.eval().encoder(clips))


def test_pretraining_arguments() -> None:
    hyper = {"optimizer": "Adam", "weights": {"sim": 5, "vac": 1.0, "xcorr": 0.002}}
    found = official.pretraining_arguments({**GIVEN, "modality": "motion"}, hyper)
    assert (found["frames"], found["people"], found["width"], found["modality"]) == (64, 2, 1024, "motion")
    assert (found["sim_weight"], found["vac_weight"], found["xcorr_weight"]) == (5.0, 1.0, 0.002)
    assert "num_classes" not in found
