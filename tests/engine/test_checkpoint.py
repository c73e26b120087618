import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.checkpoint import load_state, read, save_state, save_weights
from engine.errors import WeightsError
from engine.optimizers import build_optimizer

POSITION = {"epoch": 1, "step": 0, "data": 7, "log_size": 0, "best": None, "loss": 0.1}


def parts(name: str, seed: int) -> tuple[nn.Module, torch.optim.Optimizer, torch.amp.GradScaler]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    return model, build_optimizer(model.parameters(), name=name, lr=0.1, weight_decay=0.01), torch.amp.GradScaler("cpu")  # type: ignore[arg-type]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(6, 5, generator=generator)).square().mean().backward()
        optimizer.step()


def test_the_optimizers_own_settings_are_kept(tmp_path: Path) -> None:
    model, optimizer, scaler = parts("SGD", 0)
    train(model, optimizer, 2)
    save_state(tmp_path / "last.safetensors", model, optimizer, scaler, POSITION)
    other = build_optimizer(model.parameters(), lr=0.1, weight_decay=0.5, momentum=0.3)
    load_state(tmp_path / "last.safetensors", model, other, scaler)
    assert (other.param_groups[0]["weight_decay"], other.param_groups[0]["momentum"]) == (0.5, 0.3)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adam"])
def test_a_restored_state_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    model, optimizer, _ = parts(name, 0)
    scaler = torch.amp.GradScaler("cpu", init_scale=7.0)
    train(model, optimizer, 3)
    save_state(tmp_path / "last.safetensors", model, optimizer, scaler, POSITION)
    train(model, optimizer, 4)
    again, other, other_scaler = parts(name, 9)
    position = load_state(tmp_path / "last.safetensors", again, other, other_scaler)
    assert other_scaler.state_dict() == scaler.state_dict()
    train(again, other, 4)
    assert position == POSITION
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_state_without_its_position_is_refused(tmp_path: Path) -> None:
    model, optimizer, scaler = parts("SGD", 0)
    save_state(tmp_path / "last.safetensors", model, optimizer, scaler, {"epoch": 1})
    with pytest.raises(WeightsError, match="log_size"):
        load_state(tmp_path / "last.safetensors", model, optimizer, scaler)


def test_another_network_is_refused(tmp_path: Path) -> None:
    model, optimizer, scaler = parts("SGD", 0)
    save_state(tmp_path / "last.safetensors", model, optimizer, scaler, {})
    other = nn.Linear(2, 2)
    with pytest.raises(WeightsError):
        load_state(tmp_path / "last.safetensors", other, build_optimizer(other.parameters(), lr=1.0), scaler)


def damaged(content: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "header cut": content[:12],
        "lying header length": struct.pack("<Q", 2**60) + content[8:],
        "header longer than the file": struct.pack("<Q", len(content) * 2) + content[8:],
        "header is a list": struct.pack("<Q", 2) + b"[]",
        "not safetensors": b"PK\x03\x04" + content,
        "text": b"weights" * 100,
    }


@pytest.mark.parametrize("kind", list(damaged(b"x" * 99)))
def test_damage_is_refused_with_the_path(tmp_path: Path, kind: str) -> None:
    model, *_ = parts("SGD", 0)
    file = tmp_path / "w.safetensors"
    save_weights(file, model, {"model": "x"})
    file.write_bytes(damaged(file.read_bytes())[kind])
    with pytest.raises(WeightsError) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert caught.value.exit_code == 65
