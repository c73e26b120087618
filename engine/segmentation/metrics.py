"""What is counted about segmented sequences: frames, the order of segments, segments, boundaries.

Frames of unknown class (label 255) are taken out of a sequence and of its prediction before anything is counted: what lies on
either side of them becomes neighbours. A sequence of such frames alone counts for nothing. Where there was nothing to find and
nothing was found, the score is 100: of one sequence for the edit score, of all together for the others.

Source: the USDRL segmentation specification, section 6.5; the edit score and F1 are those of Lea et al., "Temporal Convolutional
Networks for Action Segmentation and Detection".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.segmentation.intervals import Runs, runs
from shared_data.errors import DataError, UsageError
from shared_data.sequences import PADDING

THRESHOLDS = (0.10, 0.25, 0.50)
TOLERANCE = 5  # frames


@dataclass(frozen=True)
class SegmentationMetrics:
    """All in percent.

    accuracy     right frames of all known ones
    edit         mean over sequences of 100 less the edit distance between the lists of segments, as a share of the longer list
    f1           by threshold of the overlap (intersection over union), as in `thresholds`
    boundary_f1  None where no boundaries were predicted, as by a network without a branch for them
    """

    accuracy: float
    edit: float
    thresholds: tuple[float, ...]
    f1: tuple[float, ...]
    boundary_f1: float | None

    def as_dict(self) -> dict[str, float | None]:
        """accuracy, edit, f1_10 and so on, boundary_f1; in percent."""
        f1 = {f"f1_{100 * threshold:g}": value for threshold, value in zip(self.thresholds, self.f1, strict=True)}
        return {"accuracy": self.accuracy, "edit": self.edit, **f1, "boundary_f1": self.boundary_f1}


@dataclass
class _Counts:
    """Right and wrong finds, and what was not found, summed over sequences."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    def add(self, hits: int, *, found: int, there: int) -> None:
        """One sequence: `found` things were predicted, `hits` of them are among those that are `there`."""
        self.true_positives += hits
        self.false_positives += found - hits
        self.false_negatives += there - hits

    @property
    def f1(self) -> float:
        total = 2 * self.true_positives + self.false_positives + self.false_negatives
        return 100 * 2 * self.true_positives / total if total else 100.0


def excluded(class_names: Sequence[str]) -> tuple[int, ...]:
    """Ids of the classes whose segments do not count: those named exactly ``background``, which may be none."""
    return tuple(k for k, name in enumerate(class_names) if name == "background")


def segmentation_metrics(
    truth: Sequence[NDArray[np.int64]],
    predicted: Sequence[NDArray[np.int64]],
    *,
    exclude: Collection[int],
    boundaries: Sequence[NDArray[np.int64]] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    tolerance: int = TOLERANCE,
    official_ends: bool = False,
) -> SegmentationMetrics:
    """Measure N sequences, `truth` and `predicted` (T,) of class ids each.

    exclude        class ids that make no segments, see `excluded`; their frames count in the accuracy
    boundaries     frames (P,) at which each sequence is predicted to change, in any order. True ones are the first frames of
                   runs of any class, background too. Neither frame 0 nor a repeated frame counts
    tolerance      frames that a predicted boundary may be off
    official_ends  end the last run of a sequence one frame early, as the published numbers do
    Raises `DataError` for no sequences, none with a known frame, different lengths, or a boundary outside its sequence;
    `UsageError` for thresholds outside (0, 1] or a negative tolerance.
    """
    _require_settings(thresholds, tolerance)
    _require_same_lengths(truth, predicted, boundaries)
    frames, right, edits = 0, 0, []
    overlaps, changes = [_Counts() for _ in thresholds], _Counts()
    for n in range(len(truth)):
        known = truth[n] != PADDING
        if not known.any():
            continue
        true, said = truth[n][known], predicted[n][known]
        frames += len(true)
        right += int((true == said).sum())
        there, found = (_segments(labels, exclude, official_ends) for labels in (true, said))
        edits.append(_edit_score(found.label, there.label))
        for counts, hits in zip(overlaps, _hits(found, there, thresholds), strict=True):
            counts.add(hits, found=len(found.label), there=len(there.label))
        if boundaries is not None:
            at, change = _known_boundaries(boundaries[n], known), runs(true).start[1:]
            changes.add(_pairs(at, change, tolerance), found=len(at), there=len(change))
    if not frames:
        raise DataError("no frame has a known class", where="segmentation metrics", expected=f"labels other than {PADDING}")
    return SegmentationMetrics(
        accuracy=100 * right / frames,
        edit=float(np.mean(edits)),
        thresholds=tuple(thresholds),
        f1=tuple(counts.f1 for counts in overlaps),
        boundary_f1=None if boundaries is None else changes.f1,
    )


def _segments(labels: NDArray[np.int64], exclude: Collection[int], official_ends: bool) -> Runs:
    found = runs(labels, exclude)
    return found._replace(end=np.minimum(found.end, len(labels) - 1)) if official_ends else found


def _edit_score(found: NDArray[np.int64], there: NDArray[np.int64]) -> float:
    longest = max(len(found), len(there))
    return 100 * (1 - _edit_distance(found, there) / longest) if longest else 100.0


def _edit_distance(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Insertions, deletions and replacements, each costing one, that make `b` of `a` (Levenshtein)."""
    steps = np.arange(len(b) + 1)
    row = steps
    for k, label in enumerate(a, 1):
        without_insertions = np.concatenate(([k], np.minimum(row[1:] + 1, row[:-1] + (b != label))))
        # entry j may also come from any i < j by j - i insertions: a running minimum once those are taken off
        row = np.minimum.accumulate(without_insertions - steps) + steps
    return int(row[-1])


def _hits(found: Runs, there: Runs, thresholds: Sequence[float]) -> list[int]:
    """True positives at each threshold.

    A found segment stands for the true one of its class that it overlaps most, the earlier of two alike, even if that is taken.
    So the hits are the true segments for which at least one found segment stands with enough overlap; its others are wrong.
    """
    if not len(found.label) or not len(there.label):
        return [0] * len(thresholds)
    overlap = _overlap(found, there) * (found.label[:, None] == there.label)
    best = overlap.argmax(1)
    of_best = overlap[np.arange(len(best)), best]
    return [len(np.unique(best[of_best >= threshold])) for threshold in thresholds]


def _overlap(found: Runs, there: Runs) -> NDArray[np.float64]:
    """Intersection over union (P, G) of P found and G true segments, 0 between two of no length (only under `official_ends`)."""
    shared = np.minimum(found.end[:, None], there.end) - np.maximum(found.start[:, None], there.start)
    shared = np.maximum(shared, 0)
    union = (found.end - found.start)[:, None] + (there.end - there.start) - shared
    overlap: NDArray[np.float64] = shared / np.maximum(union, 1)
    return overlap


def _known_boundaries(boundaries: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where the `boundaries` lie among the `known` frames, in order, without those on other frames and frame 0."""
    frames = np.unique(boundaries)
    if len(frames) and not 0 <= frames[0] <= frames[-1] < len(known):
        raise DataError(
            f"a boundary is predicted at frame {frames[0] if frames[0] < 0 else frames[-1]}",
            where="segmentation metrics",
            expected=f"frames of the sequence, 0 to {len(known) - 1}",
        )
    at: NDArray[np.int64] = (np.cumsum(known) - 1)[frames[known[frames]]]
    return at[at > 0]


def _pairs(found: NDArray[np.int64], there: NDArray[np.int64], tolerance: int) -> int:
    """The most pairs of one found and one true boundary, each in one pair at most and no further apart than `tolerance`.

    Both in the order of time. The earliest two that can still find a partner are paired if they are near enough; otherwise the
    earlier of them is near no other either and is left. As all tolerances are alike, no other choice gives more pairs.
    """
    pairs = i = j = 0
    while i < len(found) and j < len(there):
        distance = int(found[i]) - int(there[j])
        pairs += abs(distance) <= tolerance
        i, j = i + (distance <= tolerance), j + (distance >= -tolerance)
    return pairs


def _require_settings(thresholds: Sequence[float], tolerance: int) -> None:
    if not all(0 < threshold <= 1 for threshold in thresholds):
        raise UsageError(f"thresholds {tuple(thresholds)} of the overlap", expected="numbers above 0, at most 1")
    if tolerance < 0:
        raise UsageError(f"a boundary tolerance of {tolerance} frames", expected="0 or more")


def _require_same_lengths(
    truth: Sequence[NDArray[np.int64]],
    predicted: Sequence[NDArray[np.int64]],
    boundaries: Sequence[NDArray[np.int64]] | None,
) -> None:
    where = "segmentation metrics"
    if not len(truth):
        raise DataError("there are no sequences to measure", where=where, expected="at least one")
    counts = [len(truth), len(predicted), *([] if boundaries is None else [len(boundaries)])]
    if len(set(counts)) > 1:
        raise DataError(f"{len(truth)} sequences, but results for {counts[1:]}", where=where, expected="results for each")
    for n, (true, said) in enumerate(zip(truth, predicted, strict=True)):
        if true.shape != said.shape or true.ndim != 1:
            raise DataError(
                f"labels of shape {true.shape}, predicted ones of shape {said.shape}",
                where=f"{where}, sequence {n}",
                expected="a class id for each frame in both, (T,)",
            )
