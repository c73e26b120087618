"""Optimizers of the published recipes, by the names their configs use.

On a GPU the update is a few kernels over all parameters ("fused", or "foreach" where torch has no fused kind); the learning
rate is a number that goes with the launch, so that changing it costs no copy and no waiting. Fused updates compute the same
formulas as the others and round differently: a multiplication and an addition are one rounding there. On a CPU all is as torch
has it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, Literal

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
    kinds = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW, "Adam": torch.optim.Adam}
    kind: Any = kinds[name]
    how = implementation(kind, trained)
    if name != "SGD":
        optimizer: torch.optim.Optimizer = kind(trained, lr=lr, weight_decay=weight_decay, **how)
        return optimizer
    optimizer = kind(trained, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, **how)
    if how.get("fused") and momentum:
        # Torch's fused SGD takes fresh memory as momentum in the first step, and leaves it as it is where a loss scaler skips
        # that step. From zero, the first step is the same: momentum * 0 + gradient.
        for parameter in trained:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def implementation(kind: type[torch.optim.Optimizer], parameters: Sequence[nn.Parameter]) -> dict[str, bool]:
    """The keyword that chooses the update of `kind` for `parameters`; none on a CPU."""
    if not on_gpu(parameters):
        return {}
    return {"fused" if "fused" in inspect.signature(kind).parameters else "foreach": True}


def on_gpu(parameters: Sequence[nn.Parameter]) -> bool:
    return bool(parameters) and all(p.is_cuda for p in parameters)


def kept_tensors(group: dict[str, Any]) -> int:
    """How many tensors of a parameter's size the optimizer keeps for each parameter of `group`: momentum, or Adam's two."""
    return 2 if "betas" in group else int(bool(group.get("momentum")))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same learning rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
