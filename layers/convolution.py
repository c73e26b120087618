"""What the temporal parts of the graph networks share: convolutions over time, started from a fan-out, what joins them to a
BatchNorm, and pooling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.bias import convolved, move_mean
from layers.recompute import Result, cheap, normalised

TimeAxis = Literal[2, 3]  # activations are (B, C, T, V) or (B, C, V, T)


def conv_over_time(
    c_in: int, c_out: int, kernel: int = 1, *, axis: TimeAxis, stride: int = 1, dilation: int = 1, pad: bool = True,
    fan_out: int | None = None,
) -> nn.Conv2d:  # fmt: skip
    """A convolution along `axis`, padded with zeros unless `pad` is false: T frames become ceil(T / stride).

    Weights N(0, 2 / fan_out), bias 0; `fan_out` is that of the kernel (c_out * kernel), or is given where several of the paper's
    convolutions are joined in this one.
    """

    def along(value: int, other: int) -> tuple[int, int]:
        return (value, other) if axis == 2 else (other, value)

    padding = (kernel - 1) * dilation // 2 if pad else 0
    kind = Pointwise if kernel == 1 else nn.Conv2d
    layer = kind(c_in, c_out, along(kernel, 1), along(stride, 1), along(padding, 0), along(dilation, 1))
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / (fan_out or c_out * kernel)))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Pointwise(nn.Conv2d):
    """A 1x1 convolution that a CPU leaves to oneDNN.

    For fewer than 16 samples on one thread PyTorch prefers matrix products of half that speed on some CPUs, unless there is a
    dilation, which a 1x1 kernel does not notice.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        eager = x.device.type == "cpu" and not torch.compiler.is_compiling()
        dilation = 2 if eager and x.dtype == torch.float32 and torch.backends.mkldnn.is_available() else 1
        return F.conv2d(x, weight, bias, self.stride, 0, dilation)


class Projection(nn.Sequential):
    """A residual that changes width: 1x1 convolution and BatchNorm."""

    def __init__(self, c_in: int, c_out: int, *, axis: TimeAxis, stride: int = 1) -> None:
        super().__init__(conv_over_time(c_in, c_out, axis=axis, stride=stride), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, ...) -> (B, c_out, ...), shortened by the stride along the time axis."""
        convolution, bn = self
        assert isinstance(convolution, nn.Conv2d)
        return conv_bn(convolution, bn, x)


def conv_bn(
    convolution: nn.Conv2d, bn: nn.Module, x: Tensor, after: Callable[..., Result] = lambda y: y, *others: Tensor
) -> Result:
    """``after(bn(convolution(x)), *others)``, of which nothing is kept but `x`: for 1x1 convolutions, which cost little again."""
    y = normalised(bn, cheap(convolved, convolution, x, bn), after, *others)
    move_mean(bn, convolution)
    return y


def joined_bn(bn: nn.Module, *branches: Tensor | tuple[nn.Conv2d, Tensor]) -> Tensor:
    """``bn`` of the `branches` one below another in the channels: tensors, or convolutions with what they convolve."""
    parts = [part if isinstance(part, Tensor) else convolved(*part, bn) for part in branches]
    y: Tensor = bn(torch.cat(parts, 1))
    move_mean(
        bn, *(None if isinstance(part, Tensor) else part[0] for part in branches), widths=tuple(part.shape[1] for part in parts)
    )
    return y


def peaks(x: Tensor, axis: TimeAxis, stride: int) -> tuple[Tensor, Tensor]:
    """Largest of three frames, T of them to ceil(T / stride), and where they are: 8 bytes each, better made twice than kept."""
    kernel, step, pad = ((3, 1), (stride, 1), (1, 0)) if axis == 2 else ((1, 3), (1, stride), (0, 1))
    return F.max_pool2d(x, kernel, step, pad, return_indices=True)


def relu_of_sum(x: Tensor, *more: Tensor) -> Tensor:
    """``relu(x + ...)``, in x."""
    for y in more:
        x = x.add_(y)
    return F.relu_(x)


def relu_of_parts(parts: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """ReLU of so many equal parts of the channels, each in a piece of its own: convolutions would copy what has gaps."""
    return lambda x: tuple(F.relu(part) for part in x.chunk(parts, 1))
