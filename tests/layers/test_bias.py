"""Biases that a BatchNorm takes out again: where they are felt, and where they move the running mean alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layers.bias import convolved, move_mean


@pytest.mark.parametrize("frozen", [False, True])
def test_a_bias_before_a_batch_norm(frozen: bool) -> None:
    """In training it is not added, has a gradient of zero and moves the running mean; with frozen statistics it is felt."""
    torch.manual_seed(0)
    conv, bn, plain = nn.Conv2d(3, 4, 1).double(), nn.BatchNorm2d(4).double(), nn.BatchNorm2d(4).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    for norm in (bn, plain):
        norm.train(not frozen)
    expected = plain(conv(x))
    y = convolved(conv, x, bn)
    assert torch.equal(y, conv(x)) == frozen
    y = bn(y)
    move_mean(bn, conv.bias)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(bn.running_mean, plain.running_mean)
    y.pow(3).sum().backward()
    assert bool(conv.bias.grad.any()) == frozen


def test_branches_without_a_bias_do_not_move() -> None:
    bn, plain = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
    bias = torch.tensor([1.0, 1.0, 0.0, 0.0, 2.0, 2.0])
    for _ in range(3):
        x = torch.randn(2, 6, 3, 4)
        bn(x), plain(x + bias.view(-1, 1, 1))
        move_mean(bn, bias[:2], None, bias[4:])
        torch.testing.assert_close(bn.running_mean, plain.running_mean)


def test_who_watches_a_convolution_sees_it_called() -> None:
    """Hooks run, and what they did to the weight trains; then the bias is added and moves the running mean once."""
    torch.manual_seed(0)
    conv, bn, plain = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    nn.utils.spectral_norm(conv)
    x = torch.randn(2, 3, 5, 6)
    y = bn(convolved(conv, x, bn))
    move_mean(bn, conv)
    y.pow(3).sum().backward()
    assert conv.weight_orig.grad is not None and bool(conv.weight_orig.grad.any())
    conv.eval()  # the power iteration stops
    plain(conv(x))
    torch.testing.assert_close(bn.running_mean, plain.running_mean, rtol=1e-3, atol=1e-3)
