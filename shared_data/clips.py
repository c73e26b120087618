"""One split of a data set, held ragged: only the frames and people that exist.

A padded NTU-60 file is 10 GB of mostly zeros; its real content is 1.5 GB. Everything downstream (sampling,
augmentation, batching) works on this form: a batch is two gathers and a few in-place operations, whatever its source.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Clips:
    """N clips of up to M people with V joints.

    A *row* is one person in one frame, V joints by xyz. Row `zero` is all zero and stands for every padded frame
    and absent person. The rows of clip n begin at ``offset[n]``: ``extent[n]`` rows of person 0, then as many
    of person 1 if ``people[n]`` is 2, and so on. In a padded file used in place (`frame_step` > 1) they lie frame by frame
    instead, the people of a frame side by side: `person_start` and `frame_step` say where, consumers need no other rule.

    rows     (R, V, 3) float32, metres, in memory or memory-mapped (read only). float64 for NW-UCLA's text files:
             their official pipeline works in float64 and rounding the input first moves its output by up to 1.5e-6
    offset   (N,) int64    first row of each clip
    extent   (N,) int32    stored frames: last non-zero frame + 1 (a source without padding keeps every frame it has)
    valid    (N,) int32    the official "valid frames": a count of frames whose sum over everything is not 0, used as
             a prefix length
    people   (N,) int32    people stored, 1 <= people <= max_people (0 for a clip that is empty throughout)
    labels   (N,) int64    class ids from 0
    ids      (N,) str      stable sample names (``train_17``, ``a01_s01_e00_v01``)
    max_people             M of the batches made from these clips
    frames                 T of the padded source, None where the source is ragged
    frame_step             rows from one frame of a person to the next: 1, or M in a file used in place
    zero                   an all-zero row
    table                  the rows again, (R, V * 3) float32 on the device where batches are made; None: `rows` themselves
    """

    rows: np.ndarray
    offset: np.ndarray
    extent: np.ndarray
    valid: np.ndarray
    people: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    max_people: int
    frames: int | None = None
    frame_step: int = 1
    zero: int = 0
    table: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def joints(self) -> int:
        """V."""
        return int(self.rows.shape[1])

    def subset(self, index: np.ndarray) -> Clips:
        """The clips at `index` (integers or a boolean mask), in that order; rows are shared, not copied."""
        columns = ("offset", "extent", "valid", "people", "labels", "ids")
        return replace(self, **{name: getattr(self, name)[index] for name in columns})

    def on_device(self, device: torch.device) -> Clips:
        """The same clips with their rows copied to `device` once, so that batches are made there."""
        import torch

        own = self.compact() if self.frame_step > 1 or self.zero else self  # a padded file in place is mostly zeros
        rows = torch.from_numpy(np.array(own.rows, np.float32)).view(len(own.rows), -1)
        return replace(own, table=rows.to(device))

    def person_start(self, index: np.ndarray, person: np.ndarray) -> np.ndarray:
        """(P,) int64: the row of frame 0 of `person` (P,) in the clips at `index` (P,); frame f lies ``f * frame_step`` on."""
        step = self.extent[index].astype(np.int64) if self.frame_step == 1 else 1
        result: np.ndarray = self.offset[index] + person * step
        return result

    def compact(self) -> Clips:
        """The same clips ragged, with a copy of exactly their own rows in memory: what is left of a padded file used in place."""
        rows = np.concatenate([[0], np.cumsum(self.people.astype(np.int64) * self.extent)]) + 1
        copy = np.zeros((int(rows[-1]), self.joints, 3), self.rows.dtype)
        for n in range(len(self)):
            copy[rows[n] : rows[n + 1]] = self.clip(n).swapaxes(0, 1).reshape(-1, self.joints, 3)
        return replace(self, rows=copy, offset=rows[:-1], frame_step=1, zero=0)

    def take_rows(self, index: np.ndarray) -> np.ndarray:
        """Copy of the rows at `index` (n,): (n, V, 3), aligned in memory whether or not `rows` is.

        Rows used in place may begin at an odd byte. Some of NumPy's gathers then copy *all* rows first and compiled kernels
        may not read them at all; moving whole rows as plain bytes is safe and as fast.
        """
        as_bytes = self.rows.reshape(len(self.rows), -1).view(f"V{self.rows[:1].nbytes}").reshape(-1)
        return np.take(as_bytes, index).view(self.rows.dtype).reshape(-1, *self.rows.shape[1:])

    def clip(self, n: int) -> np.ndarray:
        """Clip `n` as (extent, people, V, 3), dtype of `rows`: a copy, for drawing and checks, not for training."""
        person, frame = np.arange(self.people[n]), np.arange(self.extent[n])
        rows = self.person_start(np.full(len(person), n), person) + frame[:, None] * self.frame_step
        return self.take_rows(rows.reshape(-1)).reshape(len(frame), len(person), self.joints, 3)
