"""SCD-Net against the specification: the sizes of its parts, what its tokens know, its start values, and a slow network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine import models
from layers.recompute import Level, recomputing
from models.scdnet.network import Classifier, Encoder
from planner.steps.kernels import FusedAttention
from planner.steps.lifetimes import Lifetimes
from shared_data.errors import LabError, UsageError
from shared_data.skeletons import NTU25, UCLA20, Skeleton
from tests.models.against_slow import assert_same_training, randomise
from tests.models.scdnet.naive import NaiveClassifier, uniform_bound

NAMES = models.official_module(models.find("scdnet"))
SMALL = {"frames": 8, "width": 16, "heads": 4}
CASES = {  # classes, skeleton, people, frames, width, heads, layers
    "two-people": (5, NTU25, 2, 12, 24, 4, 1),
    "one-person": (3, UCLA20, 1, 9, 16, 2, 2),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_slow_network(case: tuple[int, Skeleton, int, int, int, int, int]) -> None:
    classes, skeleton, people, frames, width, heads, layers = case
    naive = randomise(NaiveClassifier(classes, *case[1:]))
    size = {"frames": frames, "width": width, "heads": heads, "layers": layers}
    ours = Classifier(classes, skeleton=skeleton, people=people, dropout=0.0, **size)
    clips = torch.randn(3, 3, frames, skeleton.joints, people, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    clips[1, ..., -1] = 0.0
    assert_same_training(ours, naive, NAMES, clips)


def test_shapes_and_sizes_of_the_parts() -> None:
    """Every row of the specification's table, with two clips."""
    with torch.device("meta"):
        encoder, clips = Encoder(), torch.empty(2, 3, 64, 25, 2)
        parts: list[tuple[nn.Module, float]] = []
        for path, tokens, token, embedding in ((encoder.temporal, 64, 3200, 10.76e6), (encoder.spatial, 50, 4096, 12.59e6)):
            assert path.tokens(torch.empty(4, 64, 25, 64)).shape == (2, tokens, token)
            assert path.embedded(clips).shape == (2, tokens, 2048) and path(clips).shape == (2, 2048)
            stem = nn.ModuleList([path.data_bn, path.blocks])
            parts += [(stem, 0.364e6), (path.embed, embedding), (path.layers, 25.19e6)]
        assert encoder(clips).shape == (2, 4096)
    for part, expected in [*parts, (encoder, 74.45e6)]:
        assert sum(p.numel() for p in part.parameters()) == pytest.approx(expected, rel=1.5e-3)  # as it is rounded there


def test_features_do_not_depend_on_the_order_of_the_tokens() -> None:
    """No code of place anywhere; nor on how often a token is there, as the largest counts."""
    encoder = Encoder(**SMALL, layers=2).eval().double()
    for path in (encoder.temporal, encoder.spatial):
        tokens = path.embedded(torch.randn(2, 3, 8, 25, 2, dtype=torch.float64))
        shuffled = tokens[:, torch.randperm(tokens.shape[1])]
        torch.testing.assert_close(path.pooled(shuffled), path.pooled(tokens), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(path.pooled(tokens[:, :4]), path.pooled(tokens))


def test_the_first_half_of_the_features_is_temporal() -> None:
    encoder = Encoder(**SMALL).eval()
    clips = torch.randn(2, 3, 8, 25, 2)
    features = encoder(clips)
    assert torch.equal(features[:, :16], encoder.temporal(clips)) and torch.equal(features[:, 16:], encoder.spatial(clips))


def test_start_values() -> None:
    torch.manual_seed(0)
    classifier = Classifier(60, frames=16, width=64, heads=4)
    state = NAMES.to_official(classifier.state_dict(), classifier)
    for name, value in state.items():
        if value.dim() == 2 and name != "fc.weight":
            bound = uniform_bound(value)
            assert 0.98 * bound < float(value.abs().max()) <= bound, name
            assert abs(float(value.mean())) < bound / 10, name
        elif name.endswith(("alpha", "in_proj_bias", "out_proj.bias", "fc.bias")):
            assert not value.any(), name
        elif name.endswith("PA"):
            assert float(value.sum()) == pytest.approx(69.0) and int(value.count_nonzero()) == 73
        elif name.endswith("gcn1.bn.weight"):
            assert torch.equal(value, torch.full_like(value, 1e-6)), name
        elif name.startswith("encoder.channel") and name.endswith("0.bias"):
            assert value.any(), name
    assert float(state["fc.weight"].std()) == pytest.approx(0.01, rel=0.1)
    stems = [state[f"encoder.gcn_{kind}.l2.gcn1.convs.0.conv3.weight"] for kind in "ts"]
    assert not torch.equal(*stems)


@pytest.mark.parametrize("wrong", [{"width": 30}, {"frames": 0}, {"layers": 0}, {"heads": 0}])
def test_sizes_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)) if "heads" not in wrong else "width"):
        Encoder(**{**SMALL, **wrong})


def test_clips_of_another_length_are_refused() -> None:
    with pytest.raises(LabError, match=r"\(2, 3, 9, 25, 2\)") as caught:
        Encoder(**SMALL)(torch.zeros(2, 3, 9, 25, 2))
    assert caught.value.expected.startswith("(N, 3, 8, 25, 2)")


def test_dropout_is_for_training() -> None:
    encoder, clips = Encoder(**SMALL, dropout=0.5), torch.randn(2, 3, 8, 25, 2)
    assert not torch.equal(encoder.train()(clips), encoder(clips))
    assert torch.equal(encoder.eval()(clips), encoder(clips))


@pytest.mark.parametrize(("level", "kept"), [("none", 120), ("cheap", 41), ("blocks", 11)])
def test_memory(level: Level, kept: float) -> None:
    """MiB per clip of 64 frames and two people between forward and backward, with a GPU's fused attention."""

    def measured(clips: int) -> float:
        with torch.device("meta"):
            network = Classifier(60).train()
            with Lifetimes() as memory, FusedAttention(), recomputing(level):
                loss = nn.functional.cross_entropy(
                    network(torch.empty(clips, 3, 64, 25, 2)), torch.empty(clips, dtype=torch.int64)
                )
                between = memory.live
            del loss
            return between / 2**20

    found = (measured(4) - measured(2)) / 2
    assert 0.9 * kept < found < kept


def gradients(level: Level) -> list[Tensor]:
    torch.manual_seed(0)
    network = Classifier(4, **SMALL, people=1).train()
    for module in network.modules():
        if hasattr(module, "alpha"):
            nn.init.constant_(module.alpha, 0.7)
            nn.init.constant_(module.bn.weight, 1.0)
    with recomputing(level):
        loss = nn.functional.cross_entropy(network(torch.randn(2, 3, 8, 25, 1)), torch.tensor([0, 1]))
    loss.backward()
    return [loss.detach(), *(p.grad for p in network.parameters()), *network.buffers()]


@pytest.mark.parametrize("level", ["cheap", "blocks"])
def test_levels_have_the_same_bits(level: Level) -> None:
    """One person, whose layouts are contiguous by chance, and dropout, drawn once more."""
    assert all(map(torch.equal, gradients(level), gradients("none")))
