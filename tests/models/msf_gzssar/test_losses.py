"""The crossed reconstruction."""

from __future__ import annotations

import pytest
import torch

from engine.zeroshot.losses import Crossed
from models.msf_gzssar.losses import alignment, weight


def test_formula() -> None:
    s, sf, t, tf = torch.randn(4, 6), torch.randn(4, 6), torch.randn(4, 9), torch.randn(4, 9)
    text, skeleton = alignment(Crossed(s, sf, t, tf, None))
    assert float(text) == pytest.approx(float(((t - tf) ** 2).sum()) / 36)
    assert float(skeleton) == pytest.approx(float(((s - sf) ** 2).sum()) / 24)
    assert weight(60) == weight(120) == 1.0
