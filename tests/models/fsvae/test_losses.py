"""The calibrated alignment against its formula, number by number."""

from __future__ import annotations

import math

import pytest
import torch

from engine.zeroshot.losses import Crossed
from models.fsvae.losses import alignment, weight


def test_formula() -> None:
    s, sf, t, tf = (3 * torch.randn(4, 6, dtype=torch.float64) for _ in range(4))
    pairing = torch.tensor([2, 0, 3, 1])
    text, skeleton = alignment(Crossed(s, sf, t, tf, pairing))
    expected_text = expected_skeleton = 0.0
    for n in range(4):
        own = sum((float(t[n, d]) - float(tf[n, d])) ** 2 for d in range(6))
        other = sum((float(t[n, d]) - float(tf[pairing[n], d])) ** 2 for d in range(6))
        expected_text += 1 / (1 + math.exp((other - own) / 100)) / 4
        pull = sum((float(s[n, d]) - float(sf[n, d])) ** 2 for d in range(6))
        expected_skeleton += 1 / (1 + math.exp(-pull / 100)) / 4
    assert float(text) == pytest.approx(expected_text) and float(skeleton) == pytest.approx(expected_skeleton)


def test_a_perfect_reconstruction_leaves_a_half() -> None:
    x = torch.randn(5, 8)
    text, skeleton = alignment(Crossed(x, x, x, x, torch.arange(5)))
    assert float(text) == float(skeleton) == 0.5


def test_published_weights() -> None:
    assert (weight(60), weight(120), weight(10)) == (50.0, 10.0, 50.0)
