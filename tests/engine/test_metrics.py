import numpy as np
import pytest

from engine.metrics import Scores, measure


def test_hand_worked() -> None:
    logits = np.array([[2.0, 1, 0], [0, 2, 1], [1, 0, 2], [3, 2, 1]], np.float32)
    labels = np.array([0, 1, 0, 1])
    found = measure(Scores(np.array(["a", "b", "c", "d"]), labels, logits), epoch=4)
    assert found.top1 == 0.5
    assert found.top5 == 1.0
    assert found.per_class == [0.5, 0.5, None]
    assert found.confusion == [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    expected = np.mean([np.log(np.exp(row).sum()) - row[k] for row, k in zip(logits, labels, strict=True)])
    assert found.loss == pytest.approx(expected)


def test_top5_counts_the_fifth_and_not_the_sixth() -> None:
    logits = -np.arange(6, dtype=np.float32)[None].repeat(6, 0)
    found = measure(Scores(np.arange(6).astype(str), np.arange(6), logits), epoch=0)
    assert found.top5 == pytest.approx(5 / 6)
