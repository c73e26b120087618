"""What is counted about predictions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Logits of one evaluation, joined by sample id.

    ids (N,) str, labels (N,) int64, logits (N, K) float32
    """

    ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class Metrics:
    """top1 and top5 are fractions; loss is the mean cross-entropy; per_class is None where a class has no clip."""

    epoch: int
    top1: float
    top5: float
    loss: float
    per_class: list[float | None]
    confusion: list[list[int]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(scores: Scores, epoch: int) -> Metrics:
    """Accuracy, loss and confusion of `scores`; rows of the confusion matrix are the true classes."""
    logits, labels = scores.logits.astype(np.float64), scores.labels
    classes = logits.shape[1]
    order = np.argsort(-logits, axis=1, kind="stable")
    hits = order == labels[:, None]
    shifted = logits - logits.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, order[:, 0]), 1)
    totals = confusion.sum(1)
    return Metrics(
        epoch=epoch,
        top1=float(hits[:, 0].mean()),
        top5=float(hits[:, : min(5, classes)].any(1).mean()),
        loss=float(-log_probability[np.arange(len(labels)), labels].mean()),
        per_class=[float(confusion[k, k] / totals[k]) if totals[k] else None for k in range(classes)],
        confusion=confusion.tolist(),
    )
