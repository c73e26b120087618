"""Subsets of clips by their names: the same clips whatever the order of the file. `test_views` has the others."""

from __future__ import annotations

import numpy as np
import pytest

from shared_data.errors import UsageError
from shared_data.subsets import few_per_class, per_class_by_name

IDS = np.array([f"clip_{n:03d}" for n in range(240)])
LABELS = np.arange(240) % 6
ORDER = np.random.default_rng(0).permutation(240)


def test_a_share_of_each_class() -> None:
    rows = per_class_by_name(IDS, LABELS, 0.1, 3)
    assert IDS[rows].tolist() == IDS[ORDER][per_class_by_name(IDS[ORDER], LABELS[ORDER], 0.1, 3)].tolist() == sorted(IDS[rows])
    assert np.bincount(LABELS[rows]).tolist() == [4] * 6
    assert set(rows) < set(per_class_by_name(IDS, LABELS, 0.2, 3))
    assert set(rows) != set(per_class_by_name(IDS, LABELS, 0.1, 4))


def test_a_few_clips_of_each_class() -> None:
    rows = few_per_class(IDS, LABELS, 5, seed=1)
    assert IDS[rows].tolist() == IDS[ORDER][few_per_class(IDS[ORDER], LABELS[ORDER], 5, seed=1)].tolist() == sorted(IDS[rows])
    assert np.bincount(LABELS[rows]).tolist() == [5] * 6
    assert set(few_per_class(IDS, LABELS, 2, seed=1)) < set(rows)
    assert set(few_per_class(IDS, LABELS, 5, seed=2)) != set(rows)
    for count in (0, 41):
        with pytest.raises(UsageError, match=f"{count} clips of each class"):
            few_per_class(IDS, LABELS, count, seed=0)
