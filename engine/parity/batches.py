"""The batches of the recorded training runs: not stored, but drawn from (seed, step) in a fixed order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.parity.fixture import Fixture, FixtureError, require_checksum

FIRST_STREAM = 7000


def skeletons(rng: np.random.Generator, shape: tuple[int, int, int, int, int], *, empty: bool) -> NDArray[np.float32]:
    """Smooth joint paths (N, C, T, V, M), float16 values in float32; with `empty` the last person of sample 1 is all zero."""
    n, c, t, v, m = shape
    time = np.arange(t).reshape(1, 1, t, 1, 1) / 64.0
    one = (n, c, 1, v, m)
    pose = rng.normal(0.0, 0.4, one)
    size = rng.normal(0.0, 0.15, one)
    rate = rng.uniform(0.3, 3.0, one)
    phase = rng.uniform(0.0, 2.0 * np.pi, one)
    drift = rng.normal(0.0, 0.2, (n, c, 1, 1, m))
    noise = rng.normal(0.0, 0.01, shape)
    clips = pose + size * np.sin(2.0 * np.pi * rate * time + phase) + drift * time + noise
    if empty and m > 1 and n > 1:
        clips[1, ..., m - 1] = 0.0
    return clips.astype(np.float16).astype(np.float32)


class Drawn(NamedTuple):
    """The batch of one step: clips (N, C, T, V, M) float32, labels (N,) int64, positions (N, T) float32 if read."""

    clips: NDArray[np.float32]
    labels: NDArray[np.int64]
    positions: NDArray[np.float32] | None = None


def skeleton_batches(trajectory: Fixture) -> list[Drawn]:
    """The batch of every step; raises `FixtureError` for batches of another kind or another checksum."""
    spec = trajectory.need("batch")
    plain = spec.get("kind") == "skeleton" and len(spec.get("views", ())) == 1 and spec.get("classes")
    if not plain or spec.get("mask_tokens"):
        raise FixtureError(
            "this trajectory has batches that the judge does not know",
            where=f"{trajectory.path}: {spec}",
            expected="one view of labelled skeleton clips",
        )
    batches = []
    for step in range(trajectory.need("steps")):
        rng = np.random.default_rng([trajectory.need("seed"), FIRST_STREAM + step])
        shape = (spec["N"], spec["C"], spec["T"], spec["V"], spec["M"])
        clips = skeletons(rng, shape, empty=spec.get("empty", True))
        labels = rng.integers(0, spec["classes"], spec["N"])
        positions = None
        if spec.get("index_t"):
            frames = np.sort(rng.random((spec["N"], spec["T"])), axis=1)
            positions = (2.0 * frames - 1.0).astype(np.float16).astype(np.float32)
        batches.append(Drawn(clips, labels, positions))
    drawn = {f"{step} {i}": value for step, batch in enumerate(batches) for i, value in enumerate(batch) if value is not None}
    require_checksum(trajectory, drawn, trajectory.meta.get("batches_crc32"))
    return batches
