"""Predictions made up for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.segmentation.predictions import Predictions

NAMES = ("background", "drink & eat", "<script>alert(1)</script>", 'sit "down"', "wave")


def predictions(
    rows: Sequence[tuple[Sequence[int], Sequence[int], Sequence[int]]],
    *,
    ids: Sequence[str] = (),
    names: tuple[str, ...] = NAMES,
    boundary: bool = True,
    seed: int = 0,
) -> Predictions:
    """Of sequences given as (truth, predicted, refined); confidences and boundaries drawn from `seed`."""
    truth, predicted, refined = (np.concatenate([np.asarray(row[k], np.int64) for row in rows]) for k in range(3))
    rng = np.random.default_rng(seed)
    confidence, edges = rng.random((2, len(truth))).astype(np.float16)
    edges = edges.astype(np.float32)
    lengths = np.array([len(row[0]) for row in rows], np.int64)
    return Predictions(
        np.array(ids or [f"video {n}" for n in range(len(rows))]), lengths, names, truth, predicted, refined, confidence,
        edges if boundary else edges[:0],
    )  # fmt: skip
