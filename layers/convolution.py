"""Convolutions over time as the graph networks use them: started from a fan-out, and only a stride shortens a clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
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
        assert isinstance(convolution, nn.Conv2d)
        return conv_bn(convolution, bn, x)


def conv_bn(
    convolution: nn.Conv2d, bn: nn.Module, x: Tensor, after: Callable[..., Tensor] = lambda y: y, *others: Tensor
) -> Tensor:
    """``after(bn(convolution(x)), *others)``, of which the convolution's result alone is kept (see `normalised`)."""
    return normalised(bn, _entering(bn, [(convolution, x)])[0], after, *others)


def joined_bn(bn: nn.Module, *branches: Tensor | tuple[nn.Conv2d, Tensor]) -> Tensor:
    """``bn`` of the `branches` one below another in the channels: tensors, or convolutions with what they convolve."""
    return bn(torch.cat(_entering(bn, branches), 1))  # type: ignore[no-any-return]


def _entering(bn: nn.Module, branches: Sequence[Tensor | tuple[nn.Conv2d, Tensor]]) -> list[Tensor]:
    """The branches as `bn` gets them: in training without the biases of the convolutions.

    BatchNorm takes a bias out again, whatever it is: it moves the running mean, and has no gradient, officially the rounding
    noise of none, here zeros. On a GPU it would be a pass over the result to add it, and one over its gradient to sum that.
    """
    if (
        not (isinstance(bn, nn.BatchNorm2d) and bn.training and bn.momentum is not None and bn.momentum < 1)
        or torch.compiler.is_compiling()
    ):
        return [part if isinstance(part, Tensor) else part[0](part[1]) for part in branches]
    tensors: list[Tensor] = []
    first = 0
    for part in branches:
        if isinstance(part, Tensor):
            tensors.append(part)
        else:
            convolution, x = part
            tensors.append(_unbiased(convolution, x))
            if bn.track_running_stats and bn.running_mean is not None and convolution.bias is not None:
                # BatchNorm will forget the share `momentum` of it; `data`, as BatchNorm itself moves it behind autograd's back.
                mean = bn.running_mean.data[first : first + convolution.out_channels]
                mean.add_(convolution.bias.detach(), alpha=bn.momentum / (1 - bn.momentum))
        first += tensors[-1].shape[1]
    return tensors


def _unbiased(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    weight = convolution.weight if convolution.bias is None else _WithIdleBias.apply(convolution.weight, convolution.bias)
    result: Tensor = convolution._conv_forward(x, weight, None)
    return result


class _WithIdleBias(torch.autograd.Function):
    """The weight, and a gradient of zeros for a bias that is not used: the optimizer decays it, as it does officially."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.shape = bias.shape
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_zeros(ctx.shape)
