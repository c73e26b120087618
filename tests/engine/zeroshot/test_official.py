"""Official checkpoints: every entry is used or refused, and no file is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import WeightsError
from engine.parity import fixture
from engine.zeroshot import official
from engine.zeroshot.network import LatentClassifier, Sizes
from shared_data.errors import MissingInputError, UsageError
from tests.engine.zeroshot.systems import SYSTEMS

PARITY = Path(__file__).parent.parent.parent / "parity"


def theirs(name: str) -> dict[str, Tensor]:
    """The official state of the four files, from the fixture's names and shapes."""
    values = fixture.weights(fixture.load(PARITY / f"{name}_ntu60.npz"))
    return {key: value for key, value in values.items() if not key.startswith("cls.")}


def written(folder: Path, state: dict[str, Tensor], epoch: int = 1700, *, wrapped: str = "") -> None:
    """The four files as the official trainers write them."""
    for prefix in official.PARTS:
        inner = {f"{wrapped}{k[3:]}": v for k, v in state.items() if k.startswith(f"{prefix}.")}
        torch.save({"state_dict": inner, "epoch": epoch}, folder / f"{prefix}_{epoch}.pth.tar")


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("wrapped", ["", "module."])
def test_files_there_and_back(tmp_path: Path, name: str, wrapped: str) -> None:
    system, state = SYSTEMS[name], theirs(name)
    written(tmp_path, state, wrapped=wrapped)
    network = official.load(system, official.read(tmp_path, 1700, trust_pickle=True))
    assert network.sizes == Sizes(256, 1536, 100) and not network.training
    back = official.to_official(system, network.state_dict(), network)
    learned = {k: v for k, v in state.items() if k not in official.constants(system, network)}
    assert list(back) == list(learned) and all(torch.equal(back[k], learned[k]) for k in learned)


def test_pickles_are_not_opened_unasked(tmp_path: Path) -> None:
    written(tmp_path, theirs("fsvae"))
    with pytest.raises(WeightsError, match="will not open a pickled checkpoint"):
        official.read(tmp_path, 1700)
    for prefix in official.PARTS:
        inner = {k[3:]: v.contiguous() for k, v in theirs("fsvae").items() if k.startswith(f"{prefix}.")}
        save_file(inner, tmp_path / f"{prefix}_1700.safetensors")
    official.load(SYSTEMS["fsvae"], official.read(tmp_path, 1700))


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)  # type: ignore[return-value]

    (tmp_path / "se_1.pth.tar").write_bytes(pickle.dumps({"state_dict": Hostile()}, protocol=2))
    with pytest.raises(WeightsError, match="cannot be read"):
        official.read(tmp_path, 1, trust_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    written(tmp_path, theirs("msf_gzssar"))
    (tmp_path / "td_1700.pth.tar").unlink()
    with pytest.raises(MissingInputError, match=r"td_1700\.pth\.tar"):
        official.read(tmp_path, 1700, trust_pickle=True)


def refused(name: str, state: dict[str, Tensor], message: str, **options: object) -> None:
    with pytest.raises(WeightsError, match=message):
        official.load(SYSTEMS[name], state, **options)


def test_entries_that_do_not_fit() -> None:
    state = theirs("fsvae")
    refused("fsvae", {k: v for k, v in state.items() if k != "te.k"}, "1 missing: te.k")
    refused("fsvae", {**state, "te.extra": torch.zeros(1)}, "1 unexpected: te.extra")
    refused("fsvae", {**state, "sd.m": torch.tensor(1.0)}, r"1 unexpected: sd\.m")  # a decoder has no such constant
    refused("fsvae", {**state, "se.freq_weights": torch.zeros(20)}, "se.freq_weights: 20 in the file, 30 in the model")
    refused("fsvae", {k: v for k, v in state.items() if not k.startswith("td")}, "no weights of a zero-shot system")
    refused("msf_gzssar", state, "unexpected")
    refused("fsvae", theirs("msf_gzssar"), "missing")


def test_constants_must_be_those_that_the_networks_are_built_with() -> None:
    state = theirs("fsvae")
    refused("fsvae", {**state, "te.split_freq": torch.tensor(20.0)}, r"te.split_freq is 20.0, not 30")
    refused("fsvae", {k: v for k, v in state.items() if k != "se.m"}, "se.m is missing")


def test_the_ablation_without_frequencies() -> None:
    state = {k: v for k, v in theirs("fsvae").items() if "transformation" in k or "model" in k}
    assert official.load(SYSTEMS["fsvae"], state, enhance=False).text_encoder.enhance is None
    refused("fsvae", theirs("fsvae"), "12 unexpected", enhance=False)


def test_classifier_there_and_back(tmp_path: Path) -> None:
    state = {"model.0.weight": torch.randn(5, 8), "model.0.bias": torch.randn(5)}
    torch.save({"state_dict": state}, tmp_path / "classifier.pth.tar")
    classifier = LatentClassifier(8, 5)
    found = official.read_classifier(tmp_path, trust_pickle=True)
    classifier.load_state_dict(official.classifier_from_official(found, classifier))
    back = official.classifier_to_official(classifier.state_dict())
    assert list(back) == list(state) and all(torch.equal(back[k], state[k]) for k in state)
    with pytest.raises(WeightsError, match="5x8 in the file, 4x8 in the model"):
        official.classifier_from_official(state, LatentClassifier(8, 4))


def test_sizes() -> None:
    given = {"se": [256, 200], "sd": [200, 256], "te": [512, 200], "td": [200, 512], "cls": [200, 24]}
    assert official.sizes_of(given) == Sizes(256, 512, 200)
    for wrong in ({**given, "td": [200, 500]}, {**given, "te": [512]}, {"se": [256, 200]}):
        with pytest.raises(UsageError):
            official.sizes_of(wrong)
