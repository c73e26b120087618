"""Stages 3 and 4: is a clip's class seen or unseen, and which one is it?

A logistic regression looks at how sure two classifiers are: that of unseen classes, and the backbone, which knows the seen
ones. It learns on the validation split, whose "unseen" classes the test never asks for. One rule decides everywhere:
seen, if the probability of "seen" is above the threshold. (Officially the search for a threshold uses the mirrored rule; the
two agree at 0.5 alone.) Source: the zero-shot specification, sections 5 and 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared_data.batches.randomness import ZERO_SHOT_GATE, sample_keys, uniforms
from shared_data.errors import DataError
from shared_data.zeroshot_splits import Split

TEMPERATURE, THRESHOLD = 2.0, 0.5
TEMPERATURES = tuple(float(t) for t in range(1, 10))  # those of the official search
THRESHOLDS = tuple(t / 100 for t in range(25, 75))
HELD_OUT = 0.2  # of the rows, to score candidates of the search
# The official fit has C = 1 and two outputs for the two classes, which penalises the weights of their margin half as much.
INVERSE_PENALTY = 2.0
TOLERANCE, MOST_STEPS = 1e-9, 5000  # of its solver, L-BFGS


class Evidence(NamedTuple):
    """What is known of N clips: probabilities (N, U) of the unseen classes, and the backbone's logits (N, K) of all classes."""

    unseen: NDArray[np.float32]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Gate:
    """A trained gate.

    weights, bias   of the probability of "seen": (2U,) and one number
    temperature     the backbone's logits are divided by it
    threshold       "seen" above it
    accuracy        fraction of the held-out rows that it decides rightly
    """

    weights: tuple[float, ...]
    bias: float
    temperature: float
    threshold: float
    accuracy: float


def train_gate(
    unseen: Evidence,
    seen: Evidence,
    *,
    seed: int,
    temperature: float | None = TEMPERATURE,
    threshold: float | None = THRESHOLD,
) -> Gate:
    """A gate from clips of the validation split's `unseen` and `seen` classes; None: the best of a grid, on a fifth held out.

    The split of the rows is a function of `seed`. Raises `DataError` for evidence that does not fit together.
    """
    _require_sound(unseen)
    _require_sound(seen)
    truth = np.repeat([False, True], [len(unseen.unseen), len(seen.unseen)])
    if unseen.unseen.shape[1] != seen.unseen.shape[1] or unseen.logits.shape[1] != seen.logits.shape[1]:
        raise DataError("evidence of different widths", where=f"{unseen.unseen.shape} and {seen.unseen.shape}")
    both = Evidence(np.concatenate([unseen.unseen, seen.unseen]), np.concatenate([unseen.logits, seen.logits]))
    drawn = uniforms(seed, 0, sample_keys(np.arange(len(truth))), ZERO_SHOT_GATE, 1)[:, 0]
    held = np.argsort(drawn, kind="stable")[: max(round(HELD_OUT * len(truth)), 1)]
    fitted = np.setdiff1d(np.arange(len(truth)), held)
    if len(np.unique(truth[fitted])) < 2:
        raise DataError("too few clips to train the gate", where=f"{len(truth)} rows", expected="clips of both kinds")
    candidates = []
    for t in TEMPERATURES if temperature is None else (temperature,):
        x = confidences(both, t)
        weights, bias = _fitted(x[fitted], truth[fitted])
        for limit in THRESHOLDS if threshold is None else (threshold,):
            decided = _probability(x[held] @ weights + bias) > limit
            candidates.append(Gate(tuple(weights.tolist()), bias, t, limit, float((decided == truth[held]).mean())))
    return max(candidates, key=lambda gate: gate.accuracy)  # the first of equals


def _fitted(x: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Weights (F,) and bias of a logistic regression of rows `x` (N, F), `positive` (N,) or not; there must be some of both."""
    from sklearn.linear_model import LogisticRegression  # not above: images of classifiers do without it, and read reports

    found = LogisticRegression(C=INVERSE_PENALTY, tol=TOLERANCE, max_iter=MOST_STEPS).fit(x, positive)
    return found.coef_[0], float(found.intercept_[0])


def _probability(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit  # as scikit-learn, with which it comes

    return np.asarray(expit(margins))


def confidences(evidence: Evidence, temperature: float) -> NDArray[np.float64]:
    """(N, 2U): the probabilities of the unseen classes in descending order, then as many of the backbone's largest ones."""
    count = evidence.unseen.shape[1]
    logits = evidence.logits.astype(np.float64) / temperature
    known = np.exp(logits - logits.max(1, keepdims=True))  # no logit is too large
    known /= known.sum(1, keepdims=True)
    both = [-np.sort(-values, axis=1)[:, :count] for values in (evidence.unseen.astype(np.float64), known)]
    return np.concatenate(both, axis=1)


def is_seen(gate: Gate, evidence: Evidence) -> NDArray[np.bool_]:
    """(N,) whether each clip counts as one of a seen class. Raises `DataError` for evidence of another width."""
    _require_sound(evidence)
    x = confidences(evidence, gate.temperature)
    if x.shape[1] != len(gate.weights):
        raise DataError(
            f"the gate is for {len(gate.weights) // 2} unseen classes, the evidence for {evidence.unseen.shape[1]}",
            next_step="train the gate on the validation split of the same task",
        )
    return np.asarray(_probability(x @ np.asarray(gate.weights) + gate.bias) > gate.threshold)


def predicted(gate: Gate, evidence: Evidence, split: Split) -> NDArray[np.int64]:
    """(N,) class numbers: behind the gate the backbone decides among the seen classes, the other classifier among the unseen."""
    seen, unseen = np.asarray(split.seen), np.asarray(split.unseen)
    known = seen[evidence.logits[:, seen].argmax(1)]  # a temperature moves no maximum
    return np.asarray(np.where(is_seen(gate, evidence), known, unseen[evidence.unseen.argmax(1)]), np.int64)


def _require_sound(evidence: Evidence) -> None:
    n, count = evidence.unseen.shape
    if evidence.logits.ndim != 2 or len(evidence.logits) != n or evidence.logits.shape[1] < count:
        raise DataError(
            "probabilities and logits do not belong together",
            where=f"{evidence.unseen.shape} and {evidence.logits.shape}",
            expected="(N, U) and (N, K) with K at least U",
        )
    if not (np.isfinite(evidence.unseen).all() and np.isfinite(evidence.logits).all()):
        raise DataError("probabilities or logits that are no numbers")
