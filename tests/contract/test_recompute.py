"""What every model owes the levels of `layers.recompute`: the same bits at each, and less memory from one to the next."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import models
from engine.assembly import expected_shape
from layers.recompute import Level, recomputing
from planner.steps.kernels import FusedAttention
from planner.steps.lifetimes import Lifetimes
from smoke_tests.fingerprint import fill

CARDS = models.discover()
LEVELS: tuple[Level, ...] = ("none", "cheap", "blocks")


def sample(name: str, clips: int) -> tuple[nn.Module, Tensor]:
    """The network of the first expected size, in training, and clips for it, short ones if it takes them."""
    row = CARDS[name].toml["expect"][0]
    torch.manual_seed(0)
    network = models.build(
        CARDS[name], num_classes=row["classes"], skeleton=row["skeleton"], people=row["people"], **row.get("model_args", {})
    )
    shape = expected_shape(CARDS[name], row, min(row["window"], CARDS[name].toml["smoke"]["window"]))
    generator = None if torch.get_default_device().type == "meta" else torch.Generator().manual_seed(1)
    return network.train(), torch.randn(clips, *shape, generator=generator)


@functools.cache
def trained(name: str, level: Level, precision: str, steps: int) -> dict[str, Tensor]:
    """Losses, last gradients, weights and statistics of a few steps on two clips."""
    network, clips = sample(name, 2)
    fill(network)
    optimizer = torch.optim.SGD((p for p in network.parameters() if p.requires_grad), lr=1e-3)
    found: dict[str, Any] = {}
    for step in range(steps):
        torch.manual_seed(step)  # dropout
        optimizer.zero_grad()
        with recomputing(level), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(network(clips).float(), torch.tensor([0, 1]))
        loss.backward()
        optimizer.step()
        found[f"loss {step}"] = loss.detach()
    found |= {f"gradient {key}": p.grad for key, p in network.named_parameters() if p.grad is not None}
    return found | {key: value.detach().clone() for key, value in network.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [key for key, value in one.items() if not torch.equal(value, other[key])]
    assert not different, different[:10]


@pytest.mark.parametrize(
    ("level", "precision"),
    [
        ("cheap", "fp32"), ("blocks", "bf16"), pytest.param("cheap", "bf16", marks=pytest.mark.slow),
        pytest.param("blocks", "fp32", marks=pytest.mark.slow),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", sorted(CARDS))
def test_levels_have_the_same_bits(name: str, level: Level, precision: str) -> None:
    assert_same(trained(name, level, precision, 1), trained(name, "none", precision, 1))


@pytest.mark.parametrize(
    "level", [pytest.param("none", marks=pytest.mark.slow), pytest.param("cheap", marks=pytest.mark.slow), "blocks"]
)
@pytest.mark.parametrize("name", sorted(CARDS))
def test_one_clip_of_one_person(name: str, level: Level) -> None:
    """The last piece of a batch may be so small; layouts that happen to be contiguous must not confuse anything."""
    rows = [row for row in CARDS[name].toml["expect"] if row["people"] == 1]
    if not rows:
        pytest.skip(f"{name} expects no size for one person")
    row = rows[0]
    network = models.build(
        CARDS[name], num_classes=row["classes"], skeleton=row["skeleton"], people=1, **row.get("model_args", {})
    ).train()
    with recomputing(level):
        loss = network(torch.randn(1, *expected_shape(CARDS[name], row))).square().sum()
    loss.backward()


@pytest.mark.slow
@pytest.mark.parametrize("level", ["cheap", "blocks"])
@pytest.mark.parametrize("name", sorted(CARDS))
def test_twenty_steps_have_the_same_bits(name: str, level: Level) -> None:
    assert_same(trained(name, level, "fp32", 20), trained(name, "none", "fp32", 20))


def kept(name: str, level: Level) -> int:
    """Bytes alive between forward and backward, beyond those before, of four clips on the meta device."""
    with torch.device("meta"):
        network, clips = sample(name, 4)
        with Lifetimes() as memory, FusedAttention(), recomputing(level):
            loss = F.cross_entropy(network(clips), torch.empty(4, dtype=torch.int64))
            left = memory.live
        del loss
        return left


@pytest.mark.parametrize("name", sorted(CARDS))
def test_each_level_keeps_less(name: str) -> None:
    everything, cheaply, blocks = (kept(name, level) for level in LEVELS)
    assert blocks <= cheaply <= everything
    if CARDS[name].status == "verified":
        most = {"cheap": 0.5, "blocks": 0.6} | CARDS[name].toml.get("levels", {})  # shares of what the level above keeps
        assert cheaply < most["cheap"] * everything and blocks < most["blocks"] * cheaply
