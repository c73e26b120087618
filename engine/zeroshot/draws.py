"""What is random in a training step: which rows, the noise of both latents, and a pairing of rows.

Two sources. `counted` is the lab's: every number is a function of (seed, cycle, step), so that a run goes on from any step
and repeats bit for bit. `sequential` takes the numbers of one generator in the official order (rows, skeleton noise, text
noise, pairing, a second pairing that nothing uses), in which each number depends on all before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared_data.batches.randomness import (
    ZERO_SHOT_PAIRING,
    ZERO_SHOT_ROWS,
    ZERO_SHOT_SKELETON_NOISE,
    ZERO_SHOT_TEXT_NOISE,
    sample_keys,
    uniforms,
)

NUMBERS = 1 << 21  # made at a time, 16 MiB of them


class Draw(NamedTuple):
    """Of one step: rows (B,) int64; noise (B, 1) or (B, L) float; pairing (B,) int64 permutation, None if it has no use."""

    rows: Tensor
    skeleton_noise: Tensor
    text_noise: Tensor
    pairing: Tensor | None


def counted(
    seed: int, cycle: int, steps: range, *, rows: int, batch: int, width: int = 1, pairing: bool = True
) -> Iterator[Draw]:
    """The draws of `steps` of a `cycle`; each is min(batch, rows) different ones of `rows` rows.

    width  noise numbers per row: 1, or the width of the latents
    """
    batch = min(batch, rows)
    at_a_time = max(NUMBERS // (batch * (width + 1)), 1)
    for first in range(steps.start, steps.stop, at_a_time):
        keys = sample_keys(np.arange(first, min(first + at_a_time, steps.stop)))
        chosen = torch.from_numpy(_without_replacement(uniforms(seed, cycle, keys, ZERO_SHOT_ROWS, batch), rows))
        noise = [
            torch.from_numpy(normals(seed, cycle, keys, purpose, batch * width).reshape(len(keys), batch, width)).float()
            for purpose in (ZERO_SHOT_SKELETON_NOISE, ZERO_SHOT_TEXT_NOISE)
        ]
        pairs = None
        if pairing:
            pairs = torch.from_numpy(np.argsort(uniforms(seed, cycle, keys, ZERO_SHOT_PAIRING, batch), axis=1, kind="stable"))
        for i in range(len(keys)):
            yield Draw(chosen[i], noise[0][i], noise[1][i], None if pairs is None else pairs[i])


def sequential(
    generator: torch.Generator, steps: int, *, rows: int, batch: int, width: int = 1, pairing: bool = True
) -> Iterator[Draw]:
    """The same from the numbers of `generator` in the official order."""
    batch = min(batch, rows)
    for _ in range(steps):
        chosen = torch.randperm(rows, generator=generator)[:batch]
        skeleton = torch.randn(batch, width, generator=generator)
        text = torch.randn(batch, width, generator=generator)
        pairs = None
        if pairing:
            pairs = torch.randperm(batch, generator=generator)
            torch.randperm(batch, generator=generator)  # drawn officially, and not used
        yield Draw(chosen, skeleton, text, pairs)


def normals(seed: int, epoch: int, keys: np.ndarray, purpose: int, count: int) -> np.ndarray:
    """(B, count) float64 standard normal numbers for sample `keys` (B,) uint64, by the transform of Box and Muller (1958)."""
    u = uniforms(seed, epoch, keys, purpose, count + count % 2)
    radius = np.sqrt(-2.0 * np.log1p(-u[:, 0::2]))
    angle = 2.0 * np.pi * u[:, 1::2]
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return np.ascontiguousarray(both.reshape(len(u), -1)[:, :count])


def _without_replacement(u: np.ndarray, count: int) -> np.ndarray:
    """(S, B) int64: in each row the first B of a shuffled 0 .. count - 1, from uniform numbers `u` (S, B).

    The shuffle of Fisher and Yates, of which only the exchanges of the first B places are made, and all S at once.
    """
    steps, batch = u.shape
    places = np.arange(batch) + (u * (count - np.arange(batch))).astype(np.int64)
    moved = np.empty((steps, batch), np.int64)  # what exchange i put to places[:, i]
    taken = np.empty((steps, batch), np.int64)
    for i in range(batch):
        taken[:, i] = _content(places[:, i], places[:, :i], moved[:, :i])
        moved[:, i] = _content(np.full(steps, i), places[:, :i], moved[:, :i])
    return taken


def _content(place: np.ndarray, places: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """What lies at `place` (S,) after the exchanges so far: the last thing put there, or its own number."""
    here = places == place[:, None]
    if not here.shape[1]:
        return place
    last = here.shape[1] - 1 - here[:, ::-1].argmax(1)
    return np.where(here.any(1), moved[np.arange(len(place)), last], place)
