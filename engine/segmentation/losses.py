"""The loss of a network that segments: classes, smoothness of their probabilities, boundaries.

Source: the USDRL segmentation specification, section 6.3 (the loss of DeST and LaSA without LaSA's text terms). Everything is a
masked sum over whole batches: no frame or clip is picked out, so nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from engine.segmentation.scores import FrameScores
from shared_data.sequences import PADDING

Smoothing = Literal["time", "class"]
SPREAD = 1.0  # of the Gaussian of the similarity, its standard deviation
LARGEST = 16.0  # a squared step of log probabilities counts for no more


def segmentation_loss(
    scores: FrameScores,
    features: Tensor,
    labels: Tensor,
    boundary: Tensor,
    mask: Tensor,
    *,
    smoothing: Smoothing,
    pos_weight: float,
    smoothing_weight: float = 1.0,
    boundary_weight: float = 0.1,
    class_share: Tensor | float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over stages of [cross-entropy + GSTMSE], plus a tenth of the mean over stages of the boundaries' cross-entropy.

    features    (B, C, V, T), what the network was shown; nothing flows back to them
    labels      (B, T) int64; frames of label 255 have no part in the classes' term, a mean over the frames of all clips
    boundary    (B, 1, T), 1 at boundaries
    mask        (B, 1, T) bool, True at the frames of a clip, from its first one on. The other two terms are means over these
                frames of a clip, then over clips
    smoothing   what log probabilities are normalised over, see `gstmse`. There is no default: "time" repeats published training,
                "class" is what was meant
    pos_weight  of frames that are boundaries: frames by boundaries of the training set
    class_share factor of the classes' term: for a piece of a batch, its share of the known frames by its share of the clips
    Returns the total and its terms before their weights, detached: "class", "smoothing" and, if the network has a boundary
    branch, "boundary". A batch without a known label has 0 for "class".
    """
    similarity = _similarity(features)
    by_class = class_share * _mean_of([_cross_entropy(stage, labels) for stage in scores.classes])
    by_step = _mean_of([_gstmse(stage, similarity, mask, smoothing) for stage in scores.classes])
    total, terms = by_class + smoothing_weight * by_step, {"class": by_class, "smoothing": by_step}
    if scores.boundaries:
        terms["boundary"] = _mean_of([_boundary_loss(stage, boundary, mask, pos_weight) for stage in scores.boundaries])
        total = total + boundary_weight * terms["boundary"]
    return total, {name: term.detach() for name, term in terms.items()}


def gstmse(scores: Tensor, features: Tensor, mask: Tensor, smoothing: Smoothing) -> Tensor:
    """Squared steps of log probabilities between neighbouring frames, where these look alike (Gaussian similarity weighted).

    The mean over classes and steps of a clip, then over clips, of ``exp(-|f_t - f_{t-1}| / 2) min((l_t - l_{t-1})^2, 16)`` for
    `scores` (B, K, T), with f all numbers of a frame of `features` (B, C, V, T). A clip of one frame has no steps: 0.

    "time"   published: l_t is a log-softmax over the clip's frames but its first, l_{t-1} one over its frames but the last
    "class"  what was meant: l is a log-softmax over classes
    """
    return _gstmse(scores, _similarity(features), mask, smoothing)


def _similarity(features: Tensor) -> Tensor:
    """(B, 1, T - 1) between each frame and the one before it, 1 where they are the same. The norm is not squared (published)."""
    frames = features.detach().flatten(1, 2)
    distance = torch.linalg.vector_norm(frames[..., 1:] - frames[..., :-1], dim=1, keepdim=True)
    return torch.exp(-distance / (2 * SPREAD**2))


def _gstmse(scores: Tensor, similarity: Tensor, mask: Tensor, smoothing: Smoothing) -> Tensor:
    scores = _precise(scores)
    steps = mask[..., 1:] & mask[..., :-1]  # (B, 1, T - 1)
    if smoothing == "time":
        after, before = (_log_softmax_over(steps, part) for part in (scores[..., 1:], scores[..., :-1]))
    else:
        log_probability = scores.log_softmax(1)
        after, before = log_probability[..., 1:], log_probability[..., :-1]
    squared = (after - before).square().clamp(max=LARGEST)
    summed = (squared * similarity).masked_fill(~steps, 0).sum((1, 2))
    return (summed / (scores.shape[1] * steps.sum((1, 2))).clamp(min=1)).mean()


def _log_softmax_over(steps: Tensor, scores: Tensor) -> Tensor:
    """Log-softmax over the time axis of `scores` (B, K, T - 1) at `steps` (B, 1, T - 1) alone, 0 elsewhere."""
    lowest = torch.finfo(scores.dtype).min  # not -inf, of which a clip without steps would make nan
    return scores.masked_fill(~steps, lowest).log_softmax(2).masked_fill(~steps, 0)


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    frames = _precise(scores).transpose(1, 2).flatten(0, 1)  # (B T, K): on a GPU the kernel for (B, K, T) is not deterministic
    summed = functional.cross_entropy(frames, labels.flatten(), ignore_index=PADDING, reduction="sum")
    return summed / (labels != PADDING).sum().clamp(min=1)


def _boundary_loss(scores: Tensor, boundary: Tensor, mask: Tensor, pos_weight: float) -> Tensor:
    scores = _precise(scores)
    frames = functional.binary_cross_entropy_with_logits(
        scores, boundary.to(scores.dtype), pos_weight=scores.new_full((1,), pos_weight), reduction="none"
    )
    return (frames.masked_fill(~mask, 0).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)).mean()


def _precise(scores: Tensor) -> Tensor:
    """Logits of half precision as float32: sums over thousands of frames follow."""
    return scores if scores.dtype == torch.float64 else scores.float()


def _mean_of(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()
