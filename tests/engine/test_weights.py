"""Weights of a user: ours, official, foreign, and hostile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine import models
from engine.checkpoint import save_weights
from engine.errors import WeightsError
from engine.weights import load_weights
from shared_data.errors import MissingInputError
from shared_data.skeletons import NTU25


def network(classes: int = 7) -> nn.Module:
    return models.build(models.find("ctrgcn"), num_classes=classes, skeleton=NTU25, people=2)


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_ours(tmp_path: Path) -> None:
    source, target = randomised(network()), network()
    save_weights(tmp_path / "w.safetensors", source, {})
    assert load_weights(tmp_path / "w.safetensors", target, "ctrgcn") == "ours"
    assert same(source, target)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_names(tmp_path: Path, prefix: str) -> None:
    source, target = randomised(network()), network()
    official = models.official_module(models.find("ctrgcn")).to_official(source.state_dict(), source)
    official = {prefix + name: value.contiguous().clone() for name, value in official.items()}
    save_file(official, tmp_path / "w.safetensors")
    assert load_weights(tmp_path / "w.safetensors", target, "ctrgcn") == "official"
    assert same(source, target)
    torch.save(official, tmp_path / "w.pt")
    target = network()
    assert load_weights(tmp_path / "w.pt", target, "ctrgcn", trust_pickle=True) == "official"
    assert same(source, target)


def test_another_class_count(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", network(60), {})
    with pytest.raises(WeightsError, match="class count") as caught:
        load_weights(tmp_path / "w.safetensors", network(7), "ctrgcn")
    assert "(60," in str(caught.value) and "(7," in str(caught.value)


def test_another_model(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", nn.Linear(3, 3), {})
    with pytest.raises(WeightsError):
        load_weights(tmp_path / "w.safetensors", network(), "ctrgcn")


@pytest.mark.parametrize("kind", ["numbers for names", "sparse", "integers"])
def test_odd_tensors_are_refused(tmp_path: Path, kind: str) -> None:
    state = {name: value.clone() for name, value in network().state_dict().items()}
    if kind == "numbers for names":
        odd = {1: torch.zeros(2)}
    elif kind == "sparse":
        odd = {"fc.bias": torch.zeros(7).to_sparse()}
    else:
        odd = {name: value.to(torch.int64) for name, value in state.items()}
    torch.save(odd, tmp_path / "w.pt")
    with pytest.raises(WeightsError):
        load_weights(tmp_path / "w.pt", network(), "ctrgcn", trust_pickle=True)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        load_weights(tmp_path / "w.safetensors", network(), "ctrgcn")


class Trap:
    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.sprung),)


@pytest.mark.parametrize("trust", [False, True])
def test_a_booby_trapped_pickle_does_nothing(tmp_path: Path, trust: bool) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"l1.gcn1.PA": torch.zeros(1), "x": Trap(sprung)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(tmp_path / "w.pt", network(), "ctrgcn", trust_pickle=trust)
    assert not sprung.exists()
    if not trust:
        assert "CVE-2025-32434" in str(caught.value) and "--trust-pickle" in str(caught.value)
