"""Training losses by the names the recipes use; each maps logits (N, K) and labels (N,) to a mean over the batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch.nn import functional

LossName = Literal["CE", "LSCE"]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def build_loss(name: LossName = "CE", *, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy ("CE"), with label smoothing where the recipe asks for it; "LSCE", SkateFormer's word, smooths by 0.1."""
    smoothing = label_smoothing or {"CE": 0.0, "LSCE": 0.1}[name]
    return partial(functional.cross_entropy, label_smoothing=smoothing)
