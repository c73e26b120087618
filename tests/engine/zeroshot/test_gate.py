"""The gate, and what is counted behind it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from engine.zeroshot.gate import TEMPERATURES, THRESHOLDS, Evidence, Gate, _fitted, confidences, is_seen, predicted, train_gate
from engine.zeroshot.metrics import Generalised, generalised, zero_shot
from engine.zeroshot.selection import selected
from shared_data.errors import DataError, UsageError
from shared_data.zeroshot_splits import split_of

SPLIT = split_of(6, (1, 4))


def problem(seed: int, rows: int = 300, features: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (rows, features))
    return x, x @ rng.normal(0, 2, features) + rng.normal(0, 1, rows) > 0.5


def test_regression_is_the_official_one_of_two_outputs() -> None:
    x, y = problem(5)

    def loss(parameters: np.ndarray) -> float:
        w, b = parameters[:-2].reshape(2, -1), parameters[-2:]
        return float(-log_softmax(x @ w.T + b, axis=1)[np.arange(len(y)), y.astype(int)].sum() + 0.5 * (w**2).sum())

    found = minimize(
        loss, np.zeros(2 * x.shape[1] + 2), method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-15, "maxfun": 10**6}
    )
    w = found.x[:-2].reshape(2, -1)
    weights, _ = _fitted(x, y)
    assert np.allclose(weights, w[1] - w[0], atol=1e-3)


def test_regression_of_separable_rows() -> None:
    x = np.concatenate([np.full((50, 2), -5.0), np.full((50, 2), 5.0)])
    y = np.repeat([False, True], 50)
    weights, bias = _fitted(x, y)
    assert np.isfinite(weights).all() and ((x @ weights + bias > 0) == y).all()


def evidence(rng: np.random.Generator, labels: np.ndarray, *, sure: float) -> Evidence:
    """Of clips of SPLIT: the right classifier is sure, the other is not."""
    unseen = np.full((len(labels), 2), 0.5) + rng.normal(0, 0.01, (len(labels), 2))
    logits = rng.normal(0, 0.1, (len(labels), 6))
    for row, label in enumerate(labels):
        if label in SPLIT.unseen:
            unseen[row] = np.where(np.asarray(SPLIT.unseen) == label, 0.99, 0.01)
        else:
            logits[row, label] += sure
    return Evidence(unseen.astype(np.float32), logits.astype(np.float32))


def made(sure: float = 30.0) -> tuple[Gate, Evidence, np.ndarray]:
    rng = np.random.default_rng(0)
    unseen, seen = rng.choice(SPLIT.unseen, 80), rng.choice(SPLIT.seen, 120)
    gate = train_gate(evidence(rng, unseen, sure=sure), evidence(rng, seen, sure=sure), seed=1)
    labels = rng.integers(0, 6, 300)
    return gate, evidence(rng, labels, sure=sure), labels


def test_a_perfect_gate() -> None:
    gate, clips, labels = made()
    assert gate.accuracy == 1.0 and (gate.temperature, gate.threshold) == (2.0, 0.5)
    found = generalised(predicted(gate, clips, SPLIT), labels, SPLIT)
    assert (found.seen, found.unseen, found.harmonic) == (1.0, 1.0, 1.0)


def test_a_higher_threshold_lets_fewer_through() -> None:
    gate, clips, _ = made(sure=2.0)
    counts = [is_seen(Gate(gate.weights, gate.bias, 2.0, limit, 0.0), clips).sum() for limit in (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)]
    assert counts == sorted(counts, reverse=True) and counts[0] == 300 and counts[-1] == 0 and len(set(counts)) > 2


def test_the_search_scores_with_the_rule_that_decides() -> None:
    rng = np.random.default_rng(3)
    unseen, seen = rng.choice(SPLIT.unseen, 100), rng.choice(SPLIT.seen, 40)
    pair = evidence(rng, unseen, sure=1.0), evidence(rng, seen, sure=1.0)
    noisy = [Evidence(e.unseen, (e.logits + rng.normal(0, 1.0, e.logits.shape)).astype(np.float32)) for e in pair]
    fixed, free = train_gate(*noisy, seed=2), train_gate(*noisy, seed=2, temperature=None, threshold=None)
    assert free.accuracy >= fixed.accuracy and free.temperature in TEMPERATURES and free.threshold in THRESHOLDS
    assert train_gate(*noisy, seed=2) == fixed and train_gate(*noisy, seed=3) != fixed


def test_confidences_are_in_descending_order_and_stable() -> None:
    clips = Evidence(np.array([[0.1, 0.9]], np.float32), np.array([[1e4, 0.0, 9.9e3, 0.0, 0.0, -1e4]], np.float32))
    with np.errstate(over="raise", invalid="raise"):
        x = confidences(clips, 2.0)
    assert np.allclose(x, [[0.9, 0.1, 1.0, 0.0]], atol=1e-6)
    assert confidences(clips, 100.0)[0, 3] > 0.2  # a temperature evens out


def test_evidence_that_does_not_fit() -> None:
    gate, clips, _ = made()
    with pytest.raises(DataError, match="for 2 unseen classes"):
        is_seen(gate, Evidence(np.ones((4, 3), np.float32), clips.logits[:4]))
    with pytest.raises(DataError, match="do not belong together"):
        is_seen(gate, Evidence(clips.unseen[:4], clips.logits[:5]))
    with pytest.raises(DataError, match="no numbers"):
        is_seen(gate, Evidence(clips.unseen[:4] * np.nan, clips.logits[:4]))
    with pytest.raises(DataError, match="different widths"):
        train_gate(clips, Evidence(clips.unseen, clips.logits[:, :5]), seed=1)
    with pytest.raises(DataError, match="too few"):
        train_gate(clips, Evidence(clips.unseen[:0], clips.logits[:0]), seed=1)


def test_harmonic_mean() -> None:
    assert Generalised(0.6, 0.3).harmonic == pytest.approx(0.4)
    assert Generalised(0.0, 0.9).harmonic == Generalised(0.9, 0.0).harmonic == Generalised(0.0, 0.0).harmonic == 0.0


def test_metrics() -> None:
    labels = np.array([1, 4, 4, 0])
    assert zero_shot(np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]], np.float32), labels[:3], SPLIT.unseen) == pytest.approx(2 / 3)
    found = generalised(np.array([1, 4, 0, 0]), labels, SPLIT)
    assert (found.seen, found.unseen) == (1.0, pytest.approx(2 / 3))
    with pytest.raises(DataError, match="class 0"):
        zero_shot(np.ones((1, 2), np.float32), labels[3:], SPLIT.unseen)
    with pytest.raises(DataError, match="all of seen"):
        generalised(labels[3:], labels[3:], SPLIT)


def test_selection() -> None:
    test, val = [0.2, 0.9, 0.9, 0.4], [0.5, 0.1, 0.2, 0.5]
    assert (selected("last", test), selected("oracle", test), selected("val", test, val)) == (3, 1, 0)
    for wrong in (None, val[:2]):
        with pytest.raises(UsageError, match="validation run"):
            selected("val", test, wrong)
