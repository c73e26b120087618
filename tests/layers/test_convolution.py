"""Convolutions in front of a BatchNorm: what leaving out their bias may change, and what it must not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from layers.convolution import Projection, conv_bn, conv_over_time, joined_bn

Forward = Callable[["Pair", Tensor], Tensor]


class Pair(nn.Module):
    """Two convolutions and what lies between them, one BatchNorm over all."""

    def __init__(self, axis: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = conv_over_time(4, 3, 5, axis=axis, stride=2)
        self.two = conv_over_time(4, 2, axis=axis, stride=2)
        self.bn = nn.BatchNorm2d(9)
        self.first_bn = nn.BatchNorm2d(3)
        for value in (self.one.bias, self.two.bias, self.bn.weight, self.bn.bias, self.first_bn.weight):
            nn.init.uniform_(value, 0.5, 1.5)
        self.double()


def steps(forward: Callable[[Pair, Tensor], Tensor], net: Pair) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs and the state after three steps; the gradients of the last."""
    outputs = []
    for seed in range(3):
        x = torch.randn(5, 4, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        net.zero_grad()
        y = forward(net, x)
        outputs.append(y.detach())
        (y.square().sum() if y.dim() else y).backward()
    return outputs, {**net.state_dict(), **{f"{k}.grad": p.grad for k, p in net.named_parameters() if p.grad is not None}}


def lean(net: Pair, x: Tensor) -> Tensor:
    return joined_bn(net.bn, (net.one, x), x[..., ::2], (net.two, x)).tanh()


def plain(net: Pair, x: Tensor) -> Tensor:
    return net.bn(torch.cat([net.one(x), x[..., ::2], net.two(x)], 1)).tanh()


def single(net: Pair, x: Tensor) -> Tensor:
    return conv_bn(net.one, net.first_bn, x, torch.tanh)


def single_plainly(net: Pair, x: Tensor) -> Tensor:
    return net.first_bn(net.one(x)).tanh()


@pytest.mark.parametrize("momentum", [0.1, 0.9, 1.0, None])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("ours", "theirs"), [(lean, plain), (single, single_plainly)])
def test_the_same_as_with_the_bias(ours: Forward, theirs: Forward, training: bool, momentum: float | None) -> None:
    """Outputs, gradients and running statistics; a bias in front of a BatchNorm in training has no gradient."""
    nets = Pair(), Pair()
    for net in nets:
        net.bn.momentum = net.first_bn.momentum = momentum
        net.train(training)
    (got, state), (expected, wanted) = steps(ours, nets[0]), steps(theirs, nets[1])
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert state.keys() == wanted.keys()
    torch.testing.assert_close(state, wanted, rtol=1e-10, atol=1e-12)
    if training and momentum is not None:
        assert not state["one.bias.grad"].any()
    else:
        assert state["one.bias.grad"].any()


def test_the_bias_costs_no_pass() -> None:
    """In training no kernel adds it or sums its gradient."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Biases(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is torch.ops.aten.convolution.default:
                self.found += args[2] is not None
            if func is torch.ops.aten.convolution_backward.default:
                self.found += args[-1][2]
            return func(*args, **(kwargs or {}))

    net, x = Pair(), torch.randn(2, 4, 6, 8, dtype=torch.float64)
    with Biases() as counted:
        lean(net, x).sum().backward()
        single(net, x).sum().backward()
    assert counted.found == 0
    with Biases() as counted:
        plain(net, x).sum().backward()
    assert counted.found == 4


def test_two_forward_passes_before_a_backward_pass() -> None:
    net, x = Pair(), torch.randn(2, 4, 6, 8, dtype=torch.float64)
    (lean(net, x).sum() + lean(net, 2 * x).sum()).backward()


@pytest.mark.parametrize("axis", [2, 3])
def test_only_the_stride_shortens_a_clip(axis: int) -> None:
    x = torch.randn(2, 4, 9, 9)
    shape = conv_over_time(4, 6, 5, axis=axis, stride=2, dilation=2)(x).shape
    assert shape == ((2, 6, 5, 9) if axis == 2 else (2, 6, 9, 5))
    assert Projection(4, 6, axis=axis, stride=2)(x).shape == shape


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("clips", [3, 16])  # on either side of where PyTorch changes its mind
def test_pointwise_is_a_convolution(stride: int, clips: int) -> None:
    layer = conv_over_time(6, 10, axis=3, stride=stride)
    nn.init.normal_(layer.bias)
    plain = nn.Conv2d(6, 10, 1, (1, stride))
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(clips, 6, 5, 9)
    torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(
        torch.autograd.grad(layer(x).square().sum(), list(layer.parameters())),
        torch.autograd.grad(plain(x).square().sum(), list(plain.parameters())),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
