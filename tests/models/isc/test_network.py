"""Skeleton-Contrastive's encoders against the specification: slow networks that fuse nothing, sizes, start values, levels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine import models
from layers.recompute import Level, recomputing
from models.isc.graph import adjacency
from models.isc.image import motion
from models.isc.network import Classifier
from planner.steps.lifetimes import Lifetimes
from shared_data.errors import LabError, UsageError
from shared_data.skeletons import NTU25, UCLA20, Skeleton
from tests.models.against_slow import assert_same_training, randomise
from tests.models.isc.naive import NaiveAGCN, NaiveBiGRU, NaiveHCN, naive_adjacency

CARD = models.find("isc")
NAMES = models.official_module(CARD)
SMALL: dict[str, dict[str, Any]] = {
    "seq": {"width": 6, "layers": 2},
    "image": {"width": 8, "frames": 32, "dropout": 0.0},
    "graph": {"width": 8},
}
CASES = {
    "seq": (NaiveBiGRU(7, NTU25, 2, hidden=5, layers=3), "seq", NTU25, 2, {"width": 5}, 9),
    "seq-ucla": (NaiveBiGRU(4, UCLA20, 1, hidden=6, layers=1), "seq", UCLA20, 1, {"width": 6, "layers": 1}, 5),
    "image": (NaiveHCN(7, NTU25, 2, width=8, frames=32), "image", NTU25, 2, SMALL["image"], 32),
    "image-ucla": (
        NaiveHCN(3, UCLA20, 1, width=4, frames=20),
        "image",
        UCLA20,
        1,
        {"width": 4, "frames": 20, "dropout": 0.0},
        20,
    ),
    "graph": (NaiveAGCN(7, NTU25, 2, width=8), "graph", NTU25, 2, SMALL["graph"], 16),
    "graph-odd": (NaiveAGCN(4, UCLA20, 1, width=4), "graph", UCLA20, 1, {"width": 4}, 11),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_slow_network(case: tuple[nn.Module, str, Skeleton, int, dict[str, Any], int]) -> None:
    slow, representation, skeleton, people, sizes, frames = case
    ours = Classifier(slow.fc.out_features, skeleton=skeleton, people=people, representation=representation, **sizes)
    clips = torch.randn(3, 3, frames, skeleton.joints, people, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    clips[1, ..., -1] = 0.0
    assert_same_training(ours, randomise(slow), NAMES, clips)


def test_the_second_gru_of_a_pair_runs_forward() -> None:
    """What the last frame changes: all of the last layer, but nothing a layer has said before."""
    encoder = Classifier(3, representation="seq", width=4, layers=1).encoder
    clips = torch.randn(1, 3, 6, 25, 2)
    other = clips.clone()
    other[:, :, -1] += 1.0
    one, two = (encoder.layers[0](x.permute(2, 0, 3, 1, 4).flatten(2)) for x in (clips, other))
    assert torch.equal(one[:-1], two[:-1]) and not torch.isclose(one[-1], two[-1]).any()


@pytest.mark.parametrize("skeleton", [NTU25, UCLA20])
def test_graphs(skeleton: Skeleton) -> None:
    assert torch.equal(adjacency(skeleton), naive_adjacency(skeleton))
    assert set(adjacency(skeleton).sum(1).unique().tolist()) == {0.0, 1.0}


def test_motion_is_the_difference_of_neighbours_stretched_to_the_window() -> None:
    clips = torch.randn(2, 3, 20, 5, 2, dtype=torch.float64)
    for t, moved in enumerate(motion(clips).unbind(2)):
        place = max((t + 0.5) * 19 / 20 - 0.5, 0.0)
        before, share = int(place), place - int(place)
        steps = [clips[:, :, min(i, 18) + 1] - clips[:, :, min(i, 18)] for i in (before, before + 1)]
        torch.testing.assert_close(moved, (1 - share) * steps[0] + share * steps[1])


def test_start_values() -> None:
    torch.manual_seed(0)
    for representation, sizes in SMALL.items():
        network = Classifier(60, representation=representation, **{**sizes, "width": 16})
        state = NAMES.to_official(network.state_dict(), network)
        for name, value in state.items():
            last = name.rsplit(".", 1)[-1]
            if name.endswith("PA") or name.endswith("gcn1.bn.weight"):
                assert torch.equal(value, torch.full_like(value, 1e-6)), name
            elif representation == "graph" and name.startswith("l") and last == "weight" and value.dim() == 4:
                spread = math.sqrt(2.0 / (len(value) * value.shape[2] * (3 if "conv_d" in name else 1)))
                assert float(value.std()) == pytest.approx(spread, rel=6 / math.sqrt(2 * value.numel())), name
            elif last.startswith("weight") and value.dim() >= 2:  # Xavier-uniform
                area = math.prod(value.shape[2:])
                bound = math.sqrt(6.0 / (area * (value.shape[0] + value.shape[1])))
                assert float(value.abs().max()) <= bound, name
                assert float(value.std()) == pytest.approx(bound / math.sqrt(3.0), rel=4 / math.sqrt(value.numel())), name
            elif last == "bias" and not name.startswith("encoder.gru"):
                assert not value.any(), name


def step(representation: str, level: Level, dropout: float = 0.5) -> list[torch.Tensor]:
    """Loss, gradients and statistics of one training step."""
    torch.manual_seed(0)
    network = Classifier(5, representation=representation, **{**SMALL[representation], "dropout": dropout}).train()
    for block in getattr(network.encoder, "blocks", ()):
        nn.init.ones_(block.gcn.bn.weight)
    clips = torch.randn(2, 3, 32, 25, 2)
    with recomputing(level):
        loss = F.cross_entropy(network(clips), torch.tensor([0, 1]))
    loss.backward()
    return [loss.detach(), *(p.grad for p in network.parameters()), *network.buffers()]


@pytest.mark.parametrize("representation", SMALL)
@pytest.mark.parametrize("level", ["cheap", "blocks"])
def test_levels_have_the_same_bits(representation: str, level: Level) -> None:
    ours, kept = step(representation, level), step(representation, "none")
    assert len(ours) == len(kept) and all(map(torch.equal, ours, kept))


@pytest.mark.parametrize(
    ("representation", "level", "kept"),
    [("graph", "none", 76), ("graph", "cheap", 26), ("graph", "blocks", 8), ("image", "none", 10), ("image", "cheap", 6),
     ("image", "blocks", 1), ("seq", "blocks", 2)],
)  # fmt: skip
def test_memory(representation: str, level: Level, kept: float) -> None:
    """MiB per clip of 64 frames and two people that the official sizes keep between the passes."""

    def measured(clips: int) -> float:
        with torch.device("meta"):
            network = Classifier(60, representation=representation).train()
            with Lifetimes() as memory, recomputing(level):
                loss = F.cross_entropy(network(torch.empty(clips, 3, 64, 25, 2)), torch.empty(clips, dtype=torch.int64))
                live = memory.live
            del loss
        return live / 2**20

    assert (measured(4) - measured(2)) / 2 < kept


def test_dropout_is_of_whole_maps_and_in_training_alone() -> None:
    network = Classifier(4, representation="image", width=8, frames=32, dropout=0.9)
    clips = torch.randn(2, 3, 32, 25, 2)
    assert not torch.equal(network.train()(clips), network(clips)) and torch.equal(network.eval()(clips), network(clips))
    stage, maps = network.train().encoder.conv5, torch.randn(3, 16, 8, 8)
    torch.manual_seed(1)
    ours = stage(maps)
    torch.manual_seed(1)  # as specified: dropped before the largest are taken
    assert torch.equal(ours, F.max_pool2d(F.dropout2d(F.relu(stage.conv(maps)), 0.9), 2))
    assert 0.7 < (ours == 0).flatten(2).all(2).float().mean() < 1.0


@pytest.mark.parametrize("representation", SMALL)
def test_half_precision(representation: str) -> None:
    """bf16, as autocast and in the weights themselves, stays near."""
    network = randomise(Classifier(5, representation=representation, **SMALL[representation])).eval()
    clips = torch.randn(2, 3, 32, 25, 2)
    with torch.no_grad():
        exact = network(clips)
        with torch.autocast("cpu", torch.bfloat16):
            cast = network(clips)
        rounded = network.bfloat16()(clips.bfloat16())
    for other in (cast, rounded):
        assert float((other.float() - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("representation", SMALL)
def test_features(representation: str) -> None:
    network = Classifier(5, representation=representation, **SMALL[representation]).eval()
    clips = torch.randn(2, 3, 32, 25, 2)
    features = network.encoder(clips)
    assert features.shape == (2, network.encoder.features) == (2, network.fc.in_features)
    assert torch.equal(network.fc(features), network(clips))


def test_the_image_encoder_has_its_window_built_in() -> None:
    with torch.device("meta"):
        network = Classifier(4, representation="image", frames=48)
        assert network(torch.empty(2, 3, 48, 25, 2)).shape == (2, 4)
        with pytest.raises(LabError, match=r"64, 25, 2\)") as caught:
            network(torch.empty(2, 3, 64, 25, 2))
        assert caught.value.expected.startswith("(N, 3, 48, 25, 2)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"representation": "sequence"}, "representation is 'sequence'"),
        ({"representation": "image", "frames": 15}, "frames is 15"),
        ({"representation": "image", "width": 7}, "width is 7"),
        ({"representation": "graph", "width": 6}, "width is 6"),
        ({"width": 0}, "width is 0"),
        ({"layers": 0}, "layers is 0"),
    ],
)
def test_sizes_that_cannot_work_are_refused(arguments: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=message):
        Classifier(4, **arguments)
