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


class Views(NamedTuple):
    """The batch of one step without labels: views (N, K, C, T, V, M) and uniform numbers for a mask (N M, tokens), float32."""

    views: NDArray[np.float32]
    noise: NDArray[np.float32] | None = None


def view_batches(trajectory: Fixture) -> list[Views]:
    """The batch of every step; raises `FixtureError` for another checksum."""
    spec, batches = trajectory.need("batch"), []
    drawn: dict[str, NDArray[np.float32]] = {}
    shape = (spec["N"], spec["C"], spec["T"], spec["V"], spec["M"])
    for step in range(trajectory.need("steps")):
        rng = np.random.default_rng([trajectory.need("seed"), FIRST_STREAM + step])
        views = [skeletons(rng, shape, empty=spec.get("empty", True)) for _ in spec["views"]]
        tokens = spec.get("mask_tokens")
        noise = rng.random((spec["N"] * spec["M"], tokens)).astype(np.float32) if tokens else None
        drawn |= {f"{step} {i}": value for i, value in enumerate([*views, noise]) if value is not None}
        batches.append(Views(np.stack(views, 1), noise))
    require_checksum(trajectory, drawn, trajectory.meta.get("batches_crc32"))
    return batches


class Features(NamedTuple):
    """The batch of one step of a zero-shot system: skeleton (N, D) and text (N, Dt) features, noise (N, 1), pairing (N,)."""

    skeleton: NDArray[np.float32]
    text: NDArray[np.float32]
    skeleton_noise: NDArray[np.float32]
    text_noise: NDArray[np.float32]
    pairing: NDArray[np.int64]


def feature_batches(trajectory: Fixture) -> list[Features]:
    """The batch of every step; raises `FixtureError` for batches of another kind or another checksum."""
    spec = trajectory.need("batch")
    if spec.get("kind") != "features" or set(spec) != {"kind", "N", "visual", "text"}:
        raise FixtureError(
            "this trajectory has batches that the judge does not know",
            where=f"{trajectory.path}: {spec}",
            expected="skeleton and text features",
        )
    batches = []
    for step in range(trajectory.need("steps")):
        rng = np.random.default_rng([trajectory.need("seed"), FIRST_STREAM + step])
        n = spec["N"]
        skeleton = np.abs(rng.normal(0.0, 0.5, (n, spec["visual"])))
        text = rng.normal(0.0, 1.0, (n, spec["text"]))
        text /= np.sqrt((text**2).sum(1, keepdims=True))
        short = [value.astype(np.float16).astype(np.float32) for value in (skeleton, text)]
        noise = [rng.normal(0.0, 1.0, (n, 1)).astype(np.float32) for _ in range(2)]
        batches.append(Features(short[0], short[1], noise[0], noise[1], rng.permutation(n)))
    drawn = {f"{step} {name}": getattr(batch, name) for step, batch in enumerate(batches) for name in Features._fields}
    require_checksum(trajectory, drawn, trajectory.meta.get("batches_crc32"))
    return batches
