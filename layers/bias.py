"""Biases in front of a BatchNorm: in training they move its running mean and nothing else, so no kernel adds them.

BatchNorm takes the mean of the batch away, and every bias before it with the mean: the result does not feel it, and it has no
gradient, officially the rounding noise of none, here zeros. To add it, and to sum the gradient that cancels, would be two more
passes over each activation on a GPU. With frozen statistics and in evaluation a bias is felt, and is added as usual.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def before(bn: nn.Module | None, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias for a product whose result goes through `bn`: where it does not feel the bias, none (see `move_mean`)."""
    if bias is None or bn is None or not _unfelt(bn):
        return weight, bias
    return _WithUnfelt.apply(weight, bias), None


def convolved(convolution: nn.Conv2d, x: Tensor, bn: nn.Module) -> Tensor:
    """``convolution(x)``, for `bn`."""
    if _hooked(convolution):
        plain: Tensor = convolution(x)
        return plain
    result: Tensor = convolution._conv_forward(x, *before(bn, convolution.weight, convolution.bias))
    return result


def move_mean(bn: nn.Module, *branches: nn.Conv2d | Tensor | None, widths: tuple[int, ...] = ()) -> None:
    """Let the running mean move by what the biases that were left out would have moved it by.

    branches   that `bn` sees one below another: what was `convolved`, or a bias that went through `before`, or None
    widths     channels of the branches, where they are not equal

    Called once after `bn` has seen a batch. A block that is computed again moves nothing.
    """
    if not (isinstance(bn, nn.modules.batchnorm._BatchNorm) and _unfelt(bn) and bn.track_running_stats):
        return
    assert bn.running_mean is not None and bn.momentum is not None
    rows = bn.running_mean.data  # BatchNorm moves it behind autograd's back, too: in training no backward pass reads it
    biases = [branch if branch is None or isinstance(branch, Tensor) else _left_out(branch) for branch in branches]
    parts = rows.split(widths) if widths else rows.chunk(len(biases))
    pairs = [(mean, bias.detach()) for mean, bias in zip(parts, biases, strict=True) if bias is not None]
    if pairs:
        torch._foreach_add_([mean for mean, _ in pairs], [bias for _, bias in pairs], alpha=bn.momentum)


def _hooked(module: nn.Module) -> bool:
    """Whether somebody wants to see the module called: then it is, bias and all."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def _left_out(convolution: nn.Conv2d) -> Tensor | None:
    return None if _hooked(convolution) else convolution.bias


def _unfelt(bn: nn.Module) -> bool:
    """A mean of all batches (momentum None) would have to ask the device how many there were; a compiler misses `data`."""
    plain = isinstance(bn, (nn.BatchNorm1d, nn.BatchNorm2d)) and bn.training and bn.momentum is not None
    return plain and not torch.compiler.is_compiling()


class _WithUnfelt(torch.autograd.Function):
    """The weight, and a gradient of zeros for the bias: weight decay, and processes that average gradients, want one."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.bias = bias
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, torch.zeros_like(ctx.bias)
