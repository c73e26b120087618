"""What every network that segments sequences must do, whatever it is. A new one under models/ is covered by being there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine import models
from engine.segmentation.scores import FrameScores
from shared_data.skeletons import skeleton
from smoke_tests import segmenter

CARDS = models.discover("segmenter")
ROWS = [(name, row) for name, card in sorted(CARDS.items()) for row in card.toml["expect"]]
CLASSES = 7
CHANNELS = segmenter.CHANNELS

every_row = pytest.mark.parametrize(("name", "row"), ROWS, ids=lambda value: value if isinstance(value, str) else "")


def built(name: str, row: dict[str, Any], classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(0)
    layout = {"skeleton": row["skeleton"], "people": row["people"]}
    return models.build(CARDS[name], num_classes=classes, **layout, **row.get("model_args", {}))


def batch(row: dict[str, Any], *lengths: int) -> tuple[Tensor, Tensor]:
    """Sequences of these lengths, padded."""
    frames, joints = max(lengths), skeleton(row["skeleton"]).joints
    mask = (torch.arange(frames) < torch.tensor(lengths)[:, None])[:, None]
    features = torch.randn(len(lengths), CHANNELS * row["people"], joints, frames, generator=torch.Generator().manual_seed(1))
    return features * mask.unsqueeze(2), mask


def stages(scores: FrameScores) -> tuple[Tensor, ...]:
    return scores.classes + scores.boundaries


def test_there_are_segmenters() -> None:
    assert CARDS and not CARDS.keys() & models.discover().keys()


@pytest.mark.parametrize("name", sorted(CARDS))
def test_card_is_complete(name: str) -> None:
    card = CARDS[name]
    assert card.status in ("verified", "experimental") and card.toml["summary"] and card.toml["provenance"]
    assert {"title", "venue", "year", "url"} <= set(card.toml["paper"])
    for row in card.toml["published"]:
        assert {"dataset", "protocol", "source"} <= set(row) and len(row["f1"]) == 3 and row["by"] == "segmentation"
        assert row["f1"] == sorted(row["f1"], reverse=True) and all(0 < one < 100 for one in (row["accuracy"], row["edit"]))


@every_row
def test_parameters_and_operations(name: str, row: dict[str, Any]) -> None:
    network = built(name, row, row["classes"]).eval()
    assert sum(p.numel() for p in network.parameters()) == row["parameters"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*batch(row, row["window"]))
    assert counter.get_total_flops() / 1e9 == pytest.approx(row["gflops"], rel=5e-3)


@every_row
@pytest.mark.parametrize("lengths", [(1,), (7,), (300,), (9, 4, 1)], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_every_frame_of_any_sequence_gets_finite_scores(
    name: str, row: dict[str, Any], lengths: tuple[int, ...], training: bool
) -> None:
    network = built(name, row).train(training)
    features, mask = batch(row, *lengths)
    with torch.no_grad():
        scores = network(features, mask)
    assert isinstance(scores, FrameScores) and scores.classes
    b, frames = len(lengths), max(lengths)
    assert {one.shape for one in scores.classes} == {(b, CLASSES, frames)}
    assert {one.shape for one in scores.boundaries} <= {(b, 1, frames)}
    assert all(bool(one.isfinite().all()) for one in stages(scores))


@every_row
def test_what_padded_frames_hold_is_not_looked_at_in_evaluation(name: str, row: dict[str, Any]) -> None:
    network = built(name, row).eval()
    features, mask = batch(row, 9, 4)
    with torch.no_grad():
        before = network(features, mask)
        after = network(torch.where(mask.unsqueeze(2), features, torch.tensor(3.0)), mask)
    for one, other in zip(stages(before), stages(after), strict=True):
        assert torch.equal(one.masked_select(mask), other.masked_select(mask))


@every_row
def test_every_parameter_learns_but_those_that_are_said_not_to(name: str, row: dict[str, Any]) -> None:
    network = built(name, row)
    features, mask = batch(row, 9, 9)
    total = torch.stack([one.square().mean() for one in stages(network(features, mask))]).sum()
    total.backward()
    parameters = dict(network.named_parameters())
    without = {key for key, p in parameters.items() if p.grad is None}
    assert without == CARDS[name].unused_parameters(parameters)


@every_row
def test_it_works_on_tensors_without_values(name: str, row: dict[str, Any]) -> None:
    """So that memory can be predicted, and nothing waits for a GPU."""
    with torch.device("meta"):
        network = built(name, row)
    features, mask = (one.to("meta") for one in batch(row, 9, 4))
    scores = network(features, mask)
    assert scores.classes[-1].shape == (2, CLASSES, 9) and scores.classes[-1].is_meta


@every_row
def test_bfloat16_gives_finite_gradients(name: str, row: dict[str, Any]) -> None:
    network = built(name, row)
    with torch.autocast("cpu", torch.bfloat16):
        scores = network(*batch(row, 9, 4))
        total = torch.stack([one.float().square().mean() for one in stages(scores)]).sum()
    total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
