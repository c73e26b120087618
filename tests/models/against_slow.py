"""Judging a lean network by a slow one with the official names: trained-like values, one pass, a checkpoint there and back."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.official import OfficialNames

SCALES = ("running_var", "alpha")


def randomise(network: nn.Module) -> nn.Module:
    """Trained-like values everywhere, in place: a fresh network hides mistakes behind its zeros, ones and small gates.

    Scales and variances lie between 0.5 and 1.5, all else on both sides of zero, by fan-in.
    """
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
            if name.endswith(SCALES) or (value.dim() == 1 and name.endswith("weight")):
                value.copy_(0.5 + noise)
            else:
                value.copy_((2.0 * noise - 1.0) / math.sqrt(math.prod(value.shape[1:]) or 1))
    return network


def assert_same_training(
    ours: nn.Module,
    slow: nn.Module,
    names: OfficialNames,
    *given: Tensor,
    penalties: tuple[Callable[[], Tensor], Callable[[], Tensor]] | None = None,
) -> None:
    """With the weights of `slow`, in float64, both evaluate, train and move their statistics alike on the float64 clips `given`.

    `given` is what forward takes; `penalties` are extra terms of the loss, ours and the slow one.
    """
    ours.load_state_dict(names.from_official(slow.state_dict(), ours))
    ours.double(), slow.double()
    with torch.no_grad():
        _assert_close("evaluation", ours.eval()(*given), slow.eval()(*given), 1e-11)
    logits, expected_logits = ours.train()(*given), slow.train()(*given)
    _assert_close("training", logits, expected_logits, 1e-10)
    losses = [nn.functional.cross_entropy(y, torch.arange(len(y))) for y in (logits, expected_logits)]
    if penalties:
        terms = [penalty() for penalty in penalties]
        _assert_close("penalty", *terms, 1e-10)
        losses = [loss + term for loss, term in zip(losses, terms, strict=True)]
    torch.autograd.backward(losses)
    gradients = names.to_official({k: p.grad for k, p in ours.named_parameters() if p.grad is not None}, ours)
    every = slow.named_parameters(remove_duplicate=False)  # a shared parameter has several official names
    expected = {k: p.grad for k, p in every if p.grad is not None}
    assert list(gradients) == list(expected)
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in gradients.items():
        _assert_close(f"gradient of {name}", gradient, expected[name], 1e-7, 1e-9 * largest)
    state = names.to_official(ours.state_dict(), ours)
    for name, value in slow.state_dict().items():
        _assert_close(name, state[name], value, 1e-9, 1e-9)


def _assert_close(name: str, ours: Tensor, slow: Tensor, relative: float, absolute: float | None = None) -> None:
    """`absolute` is a share of the largest value unless it is told."""
    if absolute is None:
        absolute = relative * float(slow.detach().abs().max())
    torch.testing.assert_close(ours, slow, rtol=relative, atol=absolute, msg=lambda message: f"{name}: {message}")


def assert_there_and_back(ours: nn.Module, slow: nn.Module, names: OfficialNames) -> None:
    """A checkpoint of `slow`, no two numbers alike so that none can be exchanged unnoticed, comes out of `ours` as it went in."""
    official = randomise(slow).state_dict()
    ours.load_state_dict(names.from_official(official, ours))
    back = names.to_official(ours.state_dict(), ours)
    assert list(back) == list(official)
    for name, value in official.items():
        assert torch.equal(back[name], value), name


class NaiveTemporalConv(nn.Module):
    """The one part that four slow networks share: a convolution over the frames of (B, C, T, V), then BatchNorm."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, dilation: int = 1, mode: str = "zeros") -> None:
        super().__init__()
        padding = ((kernel - 1) * dilation // 2, 0)
        self.conv = nn.Conv2d(c_in, c_out, (kernel, 1), (stride, 1), padding, (dilation, 1), padding_mode=mode)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))
