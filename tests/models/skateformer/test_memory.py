"""What a clip leaves for the backward pass, on tensors without values, with the fused attention that a GPU has."""

from __future__ import annotations

import pytest
import torch

from models.skateformer.network import SkateFormer
from planner.peak import FusedAttention

MIB = 2**20
KERNEL = "aten::_scaled_dot_product_efficient_attention"


def saved_mib(n: int) -> float:
    """Of n clips, parameters not counted."""
    with torch.device("meta"):
        network, clips = SkateFormer(60).train(), torch.empty(n, 3, 64, 24, 2)
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that no number is given twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = network(clips)
    logits.sum().backward()
    return sum(storage.nbytes() for storage in storages.values()) / MIB


@pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key(KERNEL, "Meta"),
    reason=f"PyTorch {torch.__version__} has no {KERNEL} without values",
)
def test_a_clip_leaves_as_much_as_the_readme_says() -> None:
    explicit = (saved_mib(4) - saved_mib(2)) / 2
    with FusedAttention():
        assert (saved_mib(4) - saved_mib(2)) / 2 == pytest.approx(81.3, rel=0.01)
    assert explicit > 200
