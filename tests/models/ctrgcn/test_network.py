"""CTR-GCN against the specification: its graphs, its sizes, its start values, and a slow network that fuses nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from engine import models
from models.ctrgcn.graph import spatial_adjacency
from models.ctrgcn.network import CTRGCN
from shared_data.errors import LabError
from shared_data.skeletons import NTU25, UCLA20, Skeleton
from tests.models.ctrgcn.naive import NaiveCTRGCN

NAMES = models.official_module(models.find("ctrgcn"))


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Trained-like values everywhere: a fresh CTR-GCN hides mistakes, its graph branch is scaled by 1e-6 and alpha is 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var") or value.dim() == 1:
                value.copy_(0.5 + noise)
            else:
                value.copy_((noise - 0.5) * 2.0 / math.sqrt(max(value[0].numel(), 1)))
    return network


def pair(classes: int, skeleton: Skeleton, people: int, adaptive: bool) -> tuple[NaiveCTRGCN, CTRGCN]:
    """The slow network with random values, and ours with the same ones, in float64."""
    naive = NaiveCTRGCN(classes, skeleton, people, adaptive)
    randomise(naive)
    ours = CTRGCN(classes, skeleton=skeleton, people=people, adaptive=adaptive)
    ours.load_state_dict(NAMES.from_official(naive.state_dict(), ours))
    return naive.double(), ours.double()


CASES = {
    "ucla": (10, UCLA20, 1, True, 52),
    "ntu120": (120, NTU25, 2, True, 16),
    "fixed-graph": (60, NTU25, 2, False, 12),
    "odd-length": (7, NTU25, 2, True, 17),
    "fixed-ucla": (3, UCLA20, 2, False, 9),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_slow_network(case: tuple[int, Skeleton, int, bool, int]) -> None:
    classes, skeleton, people, adaptive, frames = case
    naive, ours = pair(classes, skeleton, people, adaptive)
    clips = torch.randn(3, 3, frames, skeleton.joints, people, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    clips[1, ..., -1] = 0.0
    labels = torch.tensor([0, 1, 2])
    for network in (naive.eval(), ours.eval()):
        network.requires_grad_(True)
    torch.testing.assert_close(ours(clips), naive(clips), rtol=1e-10, atol=1e-10)

    logits = {}
    for name, network in (("naive", naive.train()), ("ours", ours.train())):
        logits[name] = network(clips)
        nn.functional.cross_entropy(logits[name], labels).backward()
    torch.testing.assert_close(logits["ours"], logits["naive"], rtol=1e-9, atol=1e-9)
    gradients = NAMES.to_official({k: p.grad for k, p in ours.named_parameters() if p.grad is not None}, ours)
    expected = {k: p.grad for k, p in naive.named_parameters()}
    assert list(gradients) == list(expected)
    largest = max(float(g.norm()) for g in expected.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-9 * largest, msg=lambda m, n=name: f"{n}: {m}")
    state = NAMES.to_official(ours.state_dict(), ours)
    for name, value in naive.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_graphs() -> None:
    ntu = spatial_adjacency(NTU25)
    assert ntu.dtype == np.float32 and ntu.shape == (3, 25, 25)
    assert ntu.sum((1, 2)) == pytest.approx([25, 24, 20])
    assert not ntu[1][:, 20].any()  # the centre is nobody's child
    children = [child for child, parent in NTU25.edges if parent == 20]
    assert ntu[2][children, 20] == pytest.approx([0.25] * 4)
    ucla = spatial_adjacency(UCLA20)
    assert sorted(set(ucla[2].ravel().tolist())) == [0.0, 0.25, 0.5, 1.0]
    assert set(ucla[1].ravel().tolist()) == {0.0, 1.0} and ucla[1].sum() == 19


@pytest.mark.parametrize(
    ("classes", "skeleton", "people", "parameters"),
    [(60, "ntu25", 2, 1_446_672), (120, "ntu25", 2, 1_462_092), (10, "ucla20", 1, 1_426_892)],
)
def test_sizes(classes: int, skeleton: str, people: int, parameters: int) -> None:
    network = CTRGCN(classes, skeleton=skeleton, people=people)
    assert sum(p.numel() for p in network.parameters()) == parameters
    official = NAMES.to_official(network.state_dict(), network)
    assert len(official) == 822
    naive = NaiveCTRGCN(classes, UCLA20 if skeleton == "ucla20" else NTU25, people)
    assert {k: v.shape for k, v in official.items()} == {k: v.shape for k, v in naive.state_dict().items()}


def test_start_values() -> None:
    torch.manual_seed(0)
    network = CTRGCN(60)
    state = NAMES.to_official(network.state_dict(), network)
    assert torch.equal(state["l4.gcn1.PA"], torch.from_numpy(spatial_adjacency(NTU25)))
    for name, value in state.items():
        last = name.rsplit(".", 1)[-1]
        if name.endswith("alpha") or (last == "bias" and name != "fc.bias") or last in ("running_mean", "num_batches_tracked"):
            assert not value.any(), name
        elif name.endswith("gcn1.bn.weight"):
            assert torch.equal(value, torch.full_like(value, 1e-6)), name
        elif last == "weight" and value.dim() == 1:
            spread = 0.02 if ".tcn1." in name else 0.0
            assert abs(float(value.mean()) - 1.0) <= 6 * spread / math.sqrt(len(value)), name
            assert float(value.std()) == pytest.approx(spread, rel=0.6), name
        elif last == "weight":
            fan_out = len(value) * math.prod(value.shape[2:])
            assert float(value.std()) == pytest.approx(math.sqrt(2.0 / fan_out), rel=6 / math.sqrt(2 * value.numel())), name
            assert abs(float(value.mean())) < 6 * math.sqrt(2.0 / fan_out / value.numel()), name


def test_alpha_zero_switches_the_refinement_off() -> None:
    network = CTRGCN(5, skeleton="ucla20", people=1)
    clips = torch.randn(2, 3, 8, 20, 1)
    nn.functional.cross_entropy(network(clips), torch.tensor([0, 1])).backward()
    gradients = NAMES.to_official({k: p.grad for k, p in network.named_parameters()}, network)
    refinement = [name for name in gradients if name.split(".")[-2] in ("conv1", "conv2", "conv4")]
    assert len(refinement) == 10 * 3 * 3 * 2
    assert not any(gradients[name].any() for name in refinement)
    assert all(gradients[f"l{i}.gcn1.alpha"].any() for i in range(1, 11))
    network.eval()
    before = network(clips)
    for block in network.blocks:
        for parameter in (*block.gcn.relate.parameters(), block.gcn.refine, block.gcn.refine_bias):
            nn.init.normal_(parameter)
    assert torch.equal(network(clips), before)
    for block in network.blocks:  # and with alpha and the graph branch switched on they matter
        nn.init.constant_(block.gcn.alpha, 0.7)
        nn.init.constant_(block.gcn.bn.weight, 1.0)
    assert not torch.allclose(network(clips), before)


def test_one_person_as_a_table() -> None:
    network = CTRGCN(4, skeleton="ucla20", people=1).eval()
    clips = torch.randn(2, 3, 10, 20, 1)
    table = clips.squeeze(-1).permute(0, 2, 3, 1).reshape(2, 10, 60)
    assert torch.equal(network(table), network(clips))


@pytest.mark.parametrize("shape", [(2, 3, 8, 25, 2), (2, 3, 8, 20, 2), (2, 2, 8, 20, 1)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(LabError, match="shape"):
        CTRGCN(4, skeleton="ucla20", people=1)(torch.zeros(shape))


def test_meta_device_and_fixed_graph() -> None:
    with torch.device("meta"):
        network = CTRGCN(4, adaptive=False)
    assert all(p.is_meta for p in (*network.parameters(), *network.buffers()))
    assert network(torch.empty(2, 3, 8, 25, 2, device="meta")).shape == (2, 4)
    assert not any(key.endswith("graph") for key in network.state_dict())


def test_dropout() -> None:
    network = CTRGCN(4, skeleton="ucla20", people=1, dropout=0.9).train()
    clips = torch.randn(2, 3, 8, 20, 1)
    assert not torch.equal(network(clips), network(clips))
