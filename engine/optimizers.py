"""Optimizers of the published recipes, by the names their configs use.

On a GPU the update is a few kernels over all parameters ("fused", or "foreach" where torch has no fused kind); the learning
rate is a number that goes with the launch, so that changing it costs no copy and no waiting. Fused updates compute the same
formulas as the others and round differently: a multiplication and an addition are one rounding there. On a CPU all is as torch
has it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

OptimizerName = Literal["SGD", "AdamW", "Adam"]
BETAS = (0.9, 0.999)
"""Torch's own."""


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    name: OptimizerName = "SGD",
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = True,
    betas: Sequence[float] = BETAS,
    decay_vectors: bool = True,
    scales: Mapping[nn.Parameter, float] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of all `parameters` that need gradients.

    weight_decay        on everything, BatchNorm and biases included, as most official trainers have it
    decay_vectors       false: none on parameters of one dimension (biases, normalisations), as those of transformers have it
    momentum, nesterov  for SGD only
    betas               for Adam and AdamW only
    scales              parameter -> factor of its learning rate, 1 where it is not in there
    """
    trained: Any = [p for p in parameters if p.requires_grad]
    kinds = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW, "Adam": torch.optim.Adam}
    kind: Any = kinds[name]
    how = implementation(kind, trained)
    if scales or not decay_vectors:
        trained = _groups(trained, lr, weight_decay, decay_vectors, scales or {})
    if name != "SGD":
        optimizer: torch.optim.Optimizer = kind(trained, lr=lr, weight_decay=weight_decay, betas=tuple(betas), **how)
        return optimizer
    optimizer = kind(trained, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, **how)
    if how.get("fused") and momentum:
        # Torch's fused SGD takes fresh memory as momentum in the first step, and leaves it as it is where a loss scaler skips
        # that step. From zero, the first step is the same: momentum * 0 + gradient.
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _groups(
    parameters: Sequence[nn.Parameter], lr: float, decay: float, vectors: bool, scales: Mapping[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """Parameters of one learning rate and weight decay together, in the order in which they come first."""
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for p in parameters:
        found.setdefault((scales.get(p, 1.0), decay if vectors or p.dim() > 1 else 0.0), []).append(p)
    return [{"params": members, "scale": scale, "lr": lr * scale, "weight_decay": own} for (scale, own), members in found.items()]


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
    """`lr` for every group, times the factor of its parameters (`build_optimizer`, scales)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)
