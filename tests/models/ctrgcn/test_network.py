"""CTR-GCN against the specification: its graphs, its sizes, its start values, and a slow network that fuses nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from engine import models
from layers.recompute import Level, recomputing
from models.ctrgcn.network import CTRGCN
from planner.steps.lifetimes import Lifetimes
from shared_data.skeletons import NTU25, UCLA20, Skeleton
from shared_data.skeletons.spatial import spatial_adjacency
from tests.models.against_slow import assert_same_training, randomise
from tests.models.ctrgcn.naive import NaiveCTRGCN

NAMES = models.official_module(models.find("ctrgcn"))


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
    naive = randomise(NaiveCTRGCN(classes, skeleton, people, adaptive))
    ours = CTRGCN(classes, skeleton=skeleton, people=people, adaptive=adaptive)
    clips = torch.randn(3, 3, frames, skeleton.joints, people, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    clips[1, ..., -1] = 0.0
    assert_same_training(ours, naive, NAMES, clips)


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


@pytest.mark.parametrize(("classes", "skeleton", "people"), [(60, NTU25, 2), (10, UCLA20, 1)])
def test_official_entries(classes: int, skeleton: Skeleton, people: int) -> None:
    network = CTRGCN(classes, skeleton=skeleton, people=people)
    official = NAMES.to_official(network.state_dict(), network)
    assert len(official) == 822
    naive = NaiveCTRGCN(classes, skeleton, people)
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


def test_a_fixed_graph_is_not_saved() -> None:
    assert not any(key.endswith("graph") for key in CTRGCN(4, adaptive=False).state_dict())


def test_dropout() -> None:
    network = CTRGCN(4, skeleton="ucla20", people=1, dropout=0.9).train()
    clips = torch.randn(2, 3, 8, 20, 1)
    assert not torch.equal(network(clips), network(clips))


def trained(level: Level, *, adaptive: bool) -> list[torch.Tensor]:
    """Loss, gradients and statistics of one training step of a small clip, the graph branch switched on."""
    torch.manual_seed(0)
    network = CTRGCN(5, skeleton="ucla20", people=1, adaptive=adaptive, dropout=0.5).train()
    for block in network.blocks:
        nn.init.constant_(block.gcn.alpha, 0.7)
        nn.init.constant_(block.gcn.bn.weight, 1.0)
    clips = torch.randn(2, 3, 9, 20, 1)
    with recomputing(level):
        loss = nn.functional.cross_entropy(network(clips), torch.tensor([0, 1]))
    loss.backward()
    return [loss.detach(), *(p.grad for p in network.parameters()), *network.buffers()]


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("level", ["cheap", "blocks"])
def test_levels_have_the_same_bits(level: Level, adaptive: bool) -> None:
    ours, kept = trained(level, adaptive=adaptive), trained("none", adaptive=adaptive)
    assert len(ours) == len(kept) and all(map(torch.equal, ours, kept))


@pytest.mark.parametrize(("level", "kept", "peak"), [("none", 92, 96), ("cheap", 26, 36), ("blocks", 8, 25)])
def test_memory(level: Level, kept: float, peak: float) -> None:
    """MiB per clip of 64 frames and two people, between forward and backward and at most; officially 131.7."""

    def measured(clips: int) -> tuple[float, float]:
        with torch.device("meta"):
            network = CTRGCN(60).train()
            with Lifetimes() as memory:
                with recomputing(level):
                    loss = nn.functional.cross_entropy(
                        network(torch.empty(clips, 3, 64, 25, 2)), torch.empty(clips, dtype=torch.int64)
                    )
                between = memory.live
                loss.backward()
            return between / 2**20, memory.peak / 2**20

    few, many = measured(2), measured(4)
    assert (many[0] - few[0]) / 2 < kept
    assert (many[1] - few[1]) / 2 < peak
