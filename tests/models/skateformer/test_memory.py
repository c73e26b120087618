"""What a clip needs in training, on tensors without values, and that the levels of recomputation give the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layers.recompute import Level, recomputing
from models.skateformer.network import SkateFormer
from planner.steps.kernels import FusedAttention
from planner.steps.lifetimes import Lifetimes

MIB = 2**20
KERNEL = "aten::_scaled_dot_product_efficient_attention"
LEVELS: tuple[Level, ...] = ("none", "cheap", "blocks")
SMALL = {"frames": 8, "num_heads": 8, "type_1_size": [1, 4], "type_2_size": [1, 6], "type_3_size": [1, 4], "type_4_size": [1, 6]}


@pytest.fixture
def fused() -> Iterator[None]:
    """Attention as a GPU does it, in the backward passes of segments too: they leave a `TorchFunctionMode`."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key(KERNEL, "Meta"):
        pytest.skip(f"PyTorch {torch.__version__} has no {KERNEL} without values")
    with FusedAttention(or_apart=False):
        yield


def train(network: SkateFormer, clips: torch.Tensor, level: Level) -> torch.Tensor:
    labels = torch.arange(len(clips), device=clips.device) % network.head.out_features
    with recomputing(level):
        return F.cross_entropy(network(clips), labels)


def kept_and_peak(level: Level, n: int) -> torch.Tensor:
    """MiB after the forward pass, and most in both passes, of n clips."""
    with torch.device("meta"):
        network, clips = SkateFormer(60).train(), torch.empty(n, 3, 64, 24, 2)
    with Lifetimes() as memory:
        loss = train(network, clips, level)
        kept = memory.live
        loss.backward()
    return torch.tensor([kept, memory.peak]) / MIB


@pytest.mark.parametrize(("level", "kept", "peak"), [("cheap", 21.5, 31.5), ("blocks", 8.5, 25.5)])
def test_memory_of_a_clip(fused: None, level: Level, kept: float, peak: float) -> None:
    kept_mib, peak_mib = ((kept_and_peak(level, 4) - kept_and_peak(level, 2)) / 2).tolist()
    assert 0.9 * kept < kept_mib < kept
    assert 0.9 * peak < peak_mib < peak


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("arguments", [{}, {"people": 1, "rel": False, "mlp_ratio": 1.0}, {"index_t": False, "head_drop": 0.5}])
def test_levels_give_the_same_bits(arguments: dict[str, Any], bf16: bool) -> None:
    """Dropout and drop path too: their random numbers are the same again."""
    found = []
    for level in LEVELS:
        torch.manual_seed(0)
        network = SkateFormer(4, **SMALL, **arguments).train()
        clips = torch.randn(3, 3, 8, 24, network.people, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = train(network, clips, level)
        loss.backward()
        found.append([loss, *(p.grad for p in network.parameters()), *network.buffers(), torch.rand(1)])
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
@pytest.mark.parametrize("arguments", [{}, {"index_t": False}])
def test_a_training_step_makes_no_tensor_on_the_host(level: Level, arguments: dict[str, Any]) -> None:
    with torch.device("meta"):
        network, clips = SkateFormer(4, **SMALL, **arguments).train(), torch.empty(2, 3, 8, 24, 2)
    with NothingElsewhere():
        train(network, clips, level).backward()
