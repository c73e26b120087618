"""What a network says of every frame of a split, and how good that is, as it stands and refined by its boundaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.distributed import World
from engine.errors import DivergedError
from engine.segmentation.metrics import excluded, segmentation_metrics
from engine.segmentation.predictions import Predictions
from engine.segmentation.refinement import peaks, refined
from engine.segmentation.stream import sequence_scores
from engine.step import Precision
from shared_data.sequence_loader import Features
from shared_data.sequences import Sequences


def predict(
    network: nn.Module,
    sequences: Sequences,
    features: Features,
    class_names: tuple[str, ...],
    *,
    device: torch.device,
    precision: Precision = "fp32",
    clips: int,
    after_sequence: Callable[[], None] = lambda: None,
    world: World | None = None,
) -> Predictions:
    """Of every sequence, in their order; each process says its share, and is told all. `after_sequence` may raise to stop early.

    Raises `DivergedError` for scores that are no numbers.
    """
    world, found = world or World(), []
    network.eval()
    mine = np.arange(len(sequences))[world.mine(len(sequences))]
    for turn in range(-(-len(sequences) // world.size)):  # one may have a sequence less, and is asked all the same
        for n in mine[turn : turn + 1].tolist():
            shown = torch.from_numpy(features(sequences.frames(n)))
            classes, boundary = sequence_scores(network, shown, device=device, precision=precision, clips=clips)
            found.append(of_scores(str(sequences.ids[n]), classes, boundary, class_names, sequences.labels(n)))
        world.vote()
        after_sequence()
    shares = world.gather(found)
    return joined([shares[n % world.size][n // world.size] for n in range(len(sequences))])


def of_scores(
    name: str, classes: torch.Tensor, boundary: torch.Tensor | None, class_names: tuple[str, ...], truth: np.ndarray
) -> Predictions:
    """Of one sequence: logits of classes (K, T), of boundaries (1, T) or None, true classes (T,), 255 where nobody knows."""
    if not torch.isfinite(classes).all() or (boundary is not None and not torch.isfinite(boundary).all()):
        raise DivergedError(
            "the network's output is not a number", where=name,
            next_step="resume from an earlier checkpoint with a smaller --base-lr or --precision fp32",
        )  # fmt: skip
    probability = classes.softmax(0)
    confidence, predicted = probability.max(0)
    marks = np.zeros(0, np.float32) if boundary is None else torch.sigmoid(boundary[0]).numpy()
    labels: np.ndarray = predicted.numpy()
    better = labels if boundary is None else refined(probability.numpy(), marks, labels=labels)
    return Predictions(
        ids=np.array([name]), lengths=np.array([len(labels)]), class_names=class_names, truth=np.asarray(truth, np.int64),
        predicted=labels, refined=better, confidence=confidence.numpy().astype(np.float16), boundary=marks,
    )  # fmt: skip


def joined(parts: list[Predictions]) -> Predictions:
    """One after the other."""
    names = ("ids", "lengths", "truth", "predicted", "refined", "confidence", "boundary")
    whole: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Predictions(class_names=parts[0].class_names, **whole)


def judged(found: Predictions, *, official_ends: bool = False) -> dict[str, dict[str, float | None]]:
    """``raw`` and, of a network with boundaries, ``refined``: the metrics of `segmentation_metrics`, in percent."""
    each = list(found.each())
    truth = [one.truth for one in each]
    result = {}
    for name, column in (("raw", "predicted"), ("refined", "refined")):
        if name == "refined" and not found.has_boundaries:
            continue
        labels = [getattr(one, column) for one in each]
        marks = [peaks(one.boundary) for one in each] if found.has_boundaries else None
        result[name] = segmentation_metrics(
            truth, labels, exclude=excluded(found.class_names), boundaries=marks, official_ends=official_ends
        ).as_dict()
    return result
