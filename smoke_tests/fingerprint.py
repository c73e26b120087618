"""Weights and clips that are the same numbers on every machine and with every version of PyTorch.

PyTorch's own initialisers and generators may change between versions; Philox of NumPy does not. A loss computed from these is
a fingerprint of what a network computes.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 in (-1, 1) as a function of `name` and the position."""
    generator = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    return np.asarray(2.0 * generator.random(shape) - 1.0, dtype=np.float32)


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Overwrite every parameter: matrices and kernels keep the variance of their input, scales lie near 1, the rest near 0."""
    for name, parameter in model.named_parameters():
        values = numbers(name, tuple(parameter.shape))
        if parameter.dim() >= 2:
            values *= math.sqrt(3.0 / max(math.prod(parameter.shape[1:]), 1))
        elif name.endswith("weight"):
            values = 1.0 + 0.1 * values
        else:
            values *= 0.1
        parameter.copy_(torch.from_numpy(values))


@torch.no_grad()
def settle(model: nn.Module, *inputs: Tensor) -> None:
    """Give every BatchNorm the statistics of `inputs`, as training would: those of a fresh one normalise nothing."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    usual = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.momentum = None  # a plain average, of this one batch
        norm.reset_running_stats()
        norm.train()
    model(*inputs)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    model.eval()


def clips(batch: int, window: int, joints: int, people: int) -> Tensor:
    """(N, 3, T, V, M) float32 in metres: smooth motion around a standing height, the last person of every second clip absent."""
    phase = numbers("phase", (batch, 3, 1, joints, people)) * np.pi
    speed = 1.0 + numbers("speed", (batch, 3, 1, joints, people))
    time = np.linspace(0.0, 2.0 * np.pi, window, dtype=np.float64).reshape(1, 1, window, 1, 1)
    values = 0.3 * np.sin(speed * time + phase) + 0.8 * numbers("place", (batch, 3, 1, joints, people))
    if people > 1:
        values[::2, ..., -1] = 0.0
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def labels(batch: int, classes: int) -> Tensor:
    """(N,) int64."""
    return torch.arange(batch) * 7 % classes
