"""What a clip needs in training, on tensors without values, and that the levels of recomputation give the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layers.recompute import Level, recomputing
from models.freqmixformer.network import FreqMixFormer
from planner.steps.lifetimes import Lifetimes

MIB = 2**20
LEVELS: tuple[Level, ...] = ("none", "cheap", "blocks")


def train(network: FreqMixFormer, clips: torch.Tensor, level: Level) -> torch.Tensor:
    labels = torch.arange(len(clips), device=clips.device) % network.fc.out_features
    with recomputing(level):
        return F.cross_entropy(network(clips), labels)


def kept_and_peak(level: Level, n: int) -> torch.Tensor:
    """MiB after the forward pass, and most in both passes, of n clips."""
    with torch.device("meta"):
        network, clips = FreqMixFormer(60).train(), torch.empty(n, 3, 64, 25, 2)
    with Lifetimes() as memory:
        loss = train(network, clips, level)
        kept = memory.live
        loss.backward()
    return torch.tensor([kept, memory.peak]) / MIB


@pytest.mark.parametrize(("level", "kept", "peak"), [("cheap", 28.0, 43.0), ("blocks", 9.5, 29.0)])
def test_memory_of_a_clip(level: Level, kept: float, peak: float) -> None:
    kept_mib, peak_mib = ((kept_and_peak(level, 8) - kept_and_peak(level, 4)) / 4).tolist()
    assert 0.9 * kept < kept_mib < kept
    assert 0.9 * peak < peak_mib < peak


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "arguments", [{"frames": 8}, {"skeleton": "ucla20", "people": 1, "frames": 12, "hop": 2, "dropout": 0.5}], ids=["ntu", "ucla"]
)
def test_levels_give_the_same_bits(arguments: dict[str, Any], bf16: bool) -> None:
    """Gradients, running statistics and the random numbers that come next."""
    found = []
    for level in LEVELS:
        torch.manual_seed(0)
        network = FreqMixFormer(4, **arguments).train()
        size = (3, 3, network.frames, network.joints, network.people)
        clips = torch.randn(size, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = train(network, clips, level)
        loss.backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        found.append([loss, *gradients, *network.buffers(), torch.rand(1)])
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


class NothingElsewhere(TorchDispatchMode):
    """Refuses tensors that are on another device than meta: in a CUDA graph they would be copies from the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, result)):
            assert not isinstance(tensor, torch.Tensor) or tensor.is_meta, f"{func} on {tensor.device}"
        return result


@pytest.mark.parametrize("level", LEVELS)
def test_a_training_step_makes_no_tensor_on_the_host(level: Level) -> None:
    with torch.device("meta"):
        network, clips = FreqMixFormer(4, frames=8, hop=1).train(), torch.empty(2, 3, 8, 25, 2)
    with NothingElsewhere():
        train(network, clips, level).backward()
