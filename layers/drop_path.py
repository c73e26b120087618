"""Stochastic depth: a branch that is left out of some samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """A branch that is left out of a share `drop_prob` of the samples in training, and scaled up in the others."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, residual: Tensor, branch: Tensor) -> Tensor:
        """residual + branch, both (N, ...)."""
        if not self.training or self.drop_prob == 0.0:
            return residual + branch
        keep = 1.0 - self.drop_prob
        kept = residual.new_empty(len(branch), *[1] * (branch.dim() - 1)).bernoulli_(keep).div_(keep)
        return torch.addcmul(residual, branch, kept)
