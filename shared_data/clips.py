"""One split of a data set, held ragged: only the frames and people that exist.

A padded NTU-60 file is 10 GB of mostly zeros; its real content is 1.5 GB. Everything downstream (sampling,
augmentation, batching) works on this form: a batch is two gathers and a few in-place operations, whatever its source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Clips:
    """N clips of up to M people with V joints.

    A *row* is one person in one frame, V joints by xyz. Row 0 is all zero and stands for every padded frame
    and absent person. The rows of clip n begin at ``offset[n]``: ``extent[n]`` rows of person 0, then as many
    of person 1 if ``people[n]`` is 2, and so on.

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

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def joints(self) -> int:
        """V."""
        return int(self.rows.shape[1])

    def subset(self, index: np.ndarray) -> Clips:
        """The clips at `index` (integers or a boolean mask), in that order; rows are shared, not copied."""
        return Clips(
            self.rows,
            self.offset[index],
            self.extent[index],
            self.valid[index],
            self.people[index],
            self.labels[index],
            self.ids[index],
            self.max_people,
            self.frames,
        )

    def clip(self, n: int) -> np.ndarray:
        """Clip `n` as (extent, people, V, 3), dtype of `rows`: a copy, for drawing and checks, not for training."""
        people, extent, offset = int(self.people[n]), int(self.extent[n]), int(self.offset[n])
        flat = np.array(self.rows[offset : offset + people * extent])
        return flat.reshape(people, extent, self.joints, 3).transpose(1, 0, 2, 3)
