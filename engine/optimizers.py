"""Optimizers of the published recipes, by the names their configs use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

OptimizerName = Literal["SGD", "AdamW", "Adam"]


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    name: OptimizerName = "SGD",
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = True,
) -> torch.optim.Optimizer:
    """One group over all `parameters`; weight decay on everything, BatchNorm and biases included, as the official trainers do.

    `momentum` and `nesterov` are for SGD only.
    """
    trained = [p for p in parameters if p.requires_grad]
    if name == "SGD":
        return torch.optim.SGD(trained, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    if name == "AdamW":
        return torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
    return torch.optim.Adam(trained, lr=lr, weight_decay=weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same learning rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
