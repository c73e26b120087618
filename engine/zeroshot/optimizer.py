"""Adam for networks this small, where the calls cost more than the arithmetic."""

from __future__ import annotations

import torch
from torch import nn


def adam(network: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Adam with torch's own constants: one kernel for all parameters where this torch has it for their device.

    Both kinds compute the same formulas; the fused one rounds a multiplication and an addition once.
    """
    parameters = list(network.parameters())
    if any(parameter.is_meta for parameter in parameters):  # a prediction (`planner.zeroshot`): refused at the first step only
        return torch.optim.Adam(parameters, lr=lr, foreach=True)
    try:
        return torch.optim.Adam(parameters, lr=lr, fused=True)
    except RuntimeError:  # torch before 2.4 fuses on a GPU alone
        return torch.optim.Adam(parameters, lr=lr, foreach=True)
