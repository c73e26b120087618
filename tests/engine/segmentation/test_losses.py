"""The loss against loops over clips and frames in plain Python, from the specification's formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.segmentation.losses import Smoothing, gstmse, segmentation_loss
from engine.segmentation.scores import FrameScores

LENGTHS, CLASSES = (9, 14, 1, 5), 3
SMOOTHING: tuple[Smoothing, ...] = ("time", "class")


def batch(
    lengths: tuple[int, ...] = LENGTHS, scale: float = 3.0, dtype: torch.dtype = torch.float64
) -> tuple[FrameScores, dict[str, Tensor]]:
    """Scores, two stages of classes and three of boundaries, large at padded frames; and what they are compared with."""
    torch.manual_seed(0)
    count, longest = len(lengths), max(lengths)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None])[:, None]
    labels = torch.randint(0, CLASSES, (count, longest)).masked_fill(~mask[:, 0], 255)
    labels[0, 3:4] = 255  # a frame of unknown class inside a clip
    features = 0.1 * torch.randn(count, 4, 5, longest, dtype=dtype).masked_fill(~mask[:, None], 0)
    boundary = (torch.rand(count, 1, longest) < 0.2).to(dtype).masked_fill(~mask, 0)
    classes = [scale * torch.randn(count, CLASSES, longest, dtype=dtype) for _ in range(2)]
    bounds = [torch.randn(count, 1, longest, dtype=dtype) for _ in range(3)]
    padded = [each.masked_fill(~mask, 70.0).requires_grad_() for each in (*classes, *bounds)]
    scores = FrameScores(tuple(padded[:2]), tuple(padded[2:]))
    return scores, {"features": features, "labels": labels, "boundary": boundary, "mask": mask}


def log_softmax(values: list[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in values))
    return [value - total for value in values]


def naive_gstmse(scores: Tensor, features: Tensor, mask: Tensor, smoothing: str) -> float:
    of_clips = []
    for clip, feature, valid in zip(scores.tolist(), features, mask[:, 0], strict=True):
        frames = int(valid.sum())
        if frames == 1:
            of_clips.append(0.0)
            continue
        rows = [row[:frames] for row in clip]
        if smoothing == "time":
            after, before = [log_softmax(row[1:]) for row in rows], [log_softmax(row[:-1]) for row in rows]
        else:
            columns = [log_softmax([row[t] for row in rows]) for t in range(frames)]
            after = [[columns[t][k] for t in range(1, frames)] for k in range(CLASSES)]
            before = [[columns[t][k] for t in range(frames - 1)] for k in range(CLASSES)]
        total = 0.0
        for t in range(frames - 1):
            distance = math.sqrt(
                sum((a - b) ** 2 for a, b in zip(*(feature[..., t + s].flatten().tolist() for s in (1, 0)), strict=True))
            )
            for k in range(CLASSES):
                total += math.exp(-distance / 2) * min(max((after[k][t] - before[k][t]) ** 2, 0), 16)
        of_clips.append(total / (CLASSES * (frames - 1)))
    return sum(of_clips) / len(of_clips)


def naive_cross_entropy(scores: Tensor, labels: Tensor) -> float:
    each = [
        -log_softmax(scores[b, :, t].tolist())[label]
        for b, row in enumerate(labels.tolist())
        for t, label in enumerate(row)
        if label != 255
    ]
    return sum(each) / len(each)


def naive_boundary(scores: Tensor, boundary: Tensor, mask: Tensor, pos_weight: float) -> float:
    of_clips = []
    for b in range(len(scores)):
        each = []
        for t in range(int(mask[b].sum())):
            probability = 1 / (1 + math.exp(-scores[b, 0, t].item()))
            each.append(-pos_weight * math.log(probability) if boundary[b, 0, t] else -math.log(1 - probability))
        of_clips.append(sum(each) / len(each))
    return sum(of_clips) / len(of_clips)


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_against_loops(smoothing: Smoothing) -> None:
    scores, target = batch()
    total, terms = segmentation_loss(scores, **target, smoothing=smoothing, pos_weight=6.5)
    features, labels, boundary, mask = target.values()
    expected = {
        "class": sum(naive_cross_entropy(each, labels) for each in scores.classes) / 2,
        "smoothing": sum(naive_gstmse(each, features, mask, smoothing) for each in scores.classes) / 2,
        "boundary": sum(naive_boundary(each, boundary, mask, 6.5) for each in scores.boundaries) / 3,
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-12)
    assert total.item() == pytest.approx(expected["class"] + expected["smoothing"] + 0.1 * expected["boundary"], rel=1e-12)
    assert min(expected.values()) > 0.1
    assert not any(term.requires_grad for term in terms.values())


def test_weights_of_the_terms() -> None:
    scores, target = batch()
    how: dict[str, Any] = {**target, "smoothing": "class", "pos_weight": 2.0}
    total, terms = segmentation_loss(scores, **how, smoothing_weight=0.3, boundary_weight=7.0)
    assert total.item() == pytest.approx((terms["class"] + 0.3 * terms["smoothing"] + 7 * terms["boundary"]).item())


def test_large_steps_count_for_16() -> None:
    scores, alike = torch.tensor([[[0.0, 100, 0, 100], [0, 0, 0, 0]]], dtype=torch.float64), torch.ones(1, 1, 1, 4)
    mask = torch.ones(1, 1, 4, dtype=torch.bool)
    # three steps of class 0 from about -log 2 or -100 to about 0 and back: of class 1, too, for it loses what 0 wins
    found = gstmse(scores, alike, mask, "class").item()
    assert found == pytest.approx((3 * math.log(2) ** 2 + 3 * 16) / 6)


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_padding_changes_nothing(smoothing: Smoothing) -> None:
    scores, target = batch()
    whole = [gstmse(each, target["features"], target["mask"], smoothing) for each in scores.classes]
    _, terms = segmentation_loss(scores, **target, smoothing=smoothing, pos_weight=3.0)
    alone, boundary, weights = [], [], []
    for b, frames in enumerate(LENGTHS):
        cut = FrameScores(
            tuple(each[b : b + 1, :, :frames] for each in scores.classes),
            tuple(each[b : b + 1, :, :frames] for each in scores.boundaries),
        )
        parts = {name: each[b : b + 1, ..., :frames] for name, each in target.items()}
        _, single = segmentation_loss(cut, **parts, smoothing=smoothing, pos_weight=3.0)
        alone.append(single["smoothing"])
        boundary.append(single["boundary"])
        weights.append((single["class"], (parts["labels"] != 255).sum()))
    assert torch.allclose(torch.stack(alone).mean(), torch.stack(whole).mean(), rtol=1e-12)
    assert torch.allclose(torch.stack(boundary).mean(), terms["boundary"], rtol=1e-12)
    known = sum(count for _, count in weights)
    assert torch.allclose(sum(term * count for term, count in weights) / known, terms["class"], rtol=1e-12)


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_gradients_reach_every_stage_at_valid_frames_alone(smoothing: Smoothing) -> None:
    scores, target = batch(scale=0.5)  # so small that no step is clamped
    target["features"].requires_grad_()
    total, _ = segmentation_loss(scores, **target, smoothing=smoothing, pos_weight=3.0)
    total.backward()
    assert target["features"].grad is None
    mask = target["mask"]
    for stage in (*scores.classes, *scores.boundaries):
        assert stage.grad is not None
        assert torch.isfinite(stage.grad).all()
        assert (stage.grad.masked_select(~mask) == 0).all()
        assert (stage.grad.abs().sum(1, keepdim=True).masked_select(mask) > 0).all()


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_gradients_are_those_of_differences(smoothing: Smoothing) -> None:
    scores, target = batch((6, 1, 4))
    flat = [*scores.classes[:1], *scores.boundaries[:1]]

    def loss(classes: Tensor, bounds: Tensor) -> Tensor:
        return segmentation_loss(FrameScores((classes,), (bounds,)), **target, smoothing=smoothing, pos_weight=2.0)[0]

    assert torch.autograd.gradcheck(loss, flat)


def test_nothing_is_read_back_from_the_device() -> None:
    """The meta device has shapes alone: whatever would wait for a value fails on it."""
    scores, target = batch()
    classes, boundaries = ([each.detach().to("meta").requires_grad_() for each in x] for x in (scores.classes, scores.boundaries))
    on_meta = FrameScores(tuple(classes), tuple(boundaries))
    for smoothing in SMOOTHING:
        total, _ = segmentation_loss(
            on_meta, **{name: each.to("meta") for name, each in target.items()}, smoothing=smoothing, pos_weight=3.0
        )
        total.backward()
        assert total.shape == ()


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_clips_of_one_frame_and_unknown_labels_leave_finite_numbers(smoothing: Smoothing) -> None:
    scores, target = batch((1, 1))
    target["labels"].fill_(255)
    total, terms = segmentation_loss(scores, **target, smoothing=smoothing, pos_weight=3.0)
    total.backward()
    assert (terms["class"], terms["smoothing"]) == (0, 0)
    assert terms["boundary"] > 0
    assert all(torch.isfinite(each.grad).all() for each in (*scores.classes, *scores.boundaries) if each.grad is not None)


def test_without_a_boundary_branch() -> None:
    scores, target = batch()
    total, terms = segmentation_loss(FrameScores(scores.classes, ()), **target, smoothing="class", pos_weight=3.0)
    assert set(terms) == {"class", "smoothing"}
    assert torch.equal(total, terms["class"] + terms["smoothing"])


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_half_precision_scores_are_summed_in_float32(smoothing: Smoothing) -> None:
    scores, target = batch(dtype=torch.float32)
    half = FrameScores(tuple(each.bfloat16() for each in scores.classes), tuple(each.bfloat16() for each in scores.boundaries))
    same = FrameScores(tuple(each.float() for each in half.classes), tuple(each.float() for each in half.boundaries))
    found, expected = (segmentation_loss(each, **target, smoothing=smoothing, pos_weight=3.0)[0] for each in (half, same))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(segmentation_loss(same, **target, smoothing=smoothing, pos_weight=3.0)[0], expected)
