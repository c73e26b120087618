"""What a training pass keeps: the bits are those of a pass that keeps everything, and a clip stays under a number of MiB."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from layers.recompute import Level, recomputing
from models.msg3d.network import MSG3D
from planner.steps.lifetimes import Lifetimes
from tests.models.against_slow import randomise

X = torch.randn(3, 3, 9, 20, 1, generator=torch.Generator().manual_seed(0))
MIB = 2**20


def trained(level: Level, precision: torch.dtype | None, training: bool, width: int = 12) -> tuple[MSG3D, Tensor]:
    """A small network after two forward and backward passes, and its last logits."""
    torch.manual_seed(0)
    network = MSG3D(4, skeleton="ucla20", people=1, width=width)
    randomise(network)
    network.train(training)
    for _ in range(2):
        with recomputing(level), torch.autocast("cpu", precision) if precision else nullcontext():
            logits = network(X)
        F.cross_entropy(logits.float(), torch.tensor([0, 1, 2])).backward()
    return network, logits


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False], ids=["training", "frozen-statistics"])
@pytest.mark.parametrize(("precision", "width"), [(None, 12), (torch.bfloat16, 12), (None, 60)], ids=["fp32", "bf16", "widens"])
def test_levels_give_the_same_bits(precision: torch.dtype | None, width: int, training: bool) -> None:
    """Logits, gradients and running statistics; with a width of 60 the first stage's graphs widen and are computed again."""
    plain, expected = trained("none", precision, training, width)
    assert plain.stages[0].factorised[0].widens == (width == 60)
    for level in ("cheap", "blocks"):
        network, logits = trained(level, precision, training, width)
        assert torch.equal(logits, expected)
        for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad), f"{level}: gradient of {name}"
        for (name, ours), theirs in zip(network.named_buffers(), plain.buffers(), strict=True):
            assert torch.equal(ours, theirs), f"{level}: {name}"


@pytest.mark.parametrize(("level", "kept", "peak"), [("none", 165, 168), ("cheap", 33, 53), ("blocks", 4, 36)])
def test_memory_of_a_clip_of_64_frames(level: Level, kept: float, peak: float) -> None:
    """MiB alive after the forward pass and at the worst moment of the backward pass, per clip of two people in float32."""

    def alive(clips: int) -> tuple[float, float]:
        with torch.device("meta"):
            network, x = MSG3D(60), torch.empty(clips, 3, 64, 25, 2)
        with Lifetimes() as meter:
            with recomputing(level):
                loss = network(x).sum()
            held = meter.live
            loss.backward()
        return held / MIB, meter.peak / MIB

    for limit, less, more in zip((kept, peak), alive(2), alive(4), strict=True):
        assert more - less < 2 * limit
