"""Convolutions over time as the graph networks use them: started from a fan-out, and only a stride shortens a clip."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from layers.recompute import normalised

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
    layer = nn.Conv2d(c_in, c_out, along(kernel, 1), along(stride, 1), along(padding, 0), along(dilation, 1))
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / (fan_out or c_out * kernel)))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Projection(nn.Sequential):
    """A residual that changes width: 1x1 convolution and BatchNorm, of which the convolution's result alone is kept."""

    def __init__(self, c_in: int, c_out: int, *, axis: TimeAxis, stride: int = 1) -> None:
        super().__init__(conv_over_time(c_in, c_out, axis=axis, stride=stride), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, ...) -> (B, c_out, ...), shortened by the stride along the time axis."""
        convolution, bn = self
        return normalised(bn, convolution(x))
