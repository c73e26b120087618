from __future__ import annotations
import torch
from torch import nn


def optimizer_of(network: nn.Module, *, lr: float) -> torch.optim.Optimizer:
    """Adam over all parameters of `network`."""
    return torch.optim.Adam(network.parameters(), lr=lr, fused=True)
