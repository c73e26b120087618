"""Batches of whole untrimmed sequences, padded to the longest of the batch, with masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from shared_data.batches.randomness import permutation
from shared_data.errors import LabError
from shared_data.loader import epoch_number, whole_number
from shared_data.pipelines.lasa import every_second, motion_and_shape
from shared_data.sequences import PADDING, Sequences

Features = Callable[[np.ndarray], np.ndarray]  # (T, M, V, 3) of one sequence -> (C, V, T) float32


@dataclass
class SequenceBatch:
    """B sequences, T the frames of the longest; what lies after the end of a shorter one is filled.

    features  (B, C, V, T) float32, filled with 0
    labels    (B, T) int64, filled with 255
    boundary  (B, 1, T) float32, 1 at boundaries, filled with 0
    mask      (B, 1, T) bool, True where a frame exists
    ids       (B,) names of the videos
    index     (B,) int64 positions in the split
    """

    features: torch.Tensor
    labels: torch.Tensor
    boundary: torch.Tensor
    mask: torch.Tensor
    ids: np.ndarray
    index: np.ndarray


class SequenceLoader:
    """The batches of one split of untrimmed sequences.

    Training: every sequence once per epoch in an order drawn from (seed, epoch). Test: in the order of the split.

    features   frames of one sequence -> its features; LaSA's by default
    half_rate  every second frame
    Raises `LabError` for settings that make no batch.
    """

    def __init__(
        self,
        sequences: Sequences,
        *,
        batch_size: int,
        train: bool,
        seed: int = 0,
        half_rate: bool = False,
        features: Features = motion_and_shape,
    ) -> None:
        batch_size = whole_number(batch_size, "batch_size", "sequence loader", least=1)
        if len(sequences) == 0:
            raise LabError(
                "there are no sequences to load", where="sequence loader", expected="a split with at least one sequence"
            )
        self.sequences, self.features = sequences, features
        self.batch_size, self.train, self.seed, self.half_rate = batch_size, train, seed, half_rate

    def __len__(self) -> int:
        """Batches per epoch."""
        return (len(self.sequences) + self.batch_size - 1) // self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        """(N,) int64 positions in the split, in the order `epoch` shows them."""
        epoch, count = epoch_number(epoch, "sequence loader"), len(self.sequences)
        return permutation(self.seed, epoch, count) if self.train else np.arange(count)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[SequenceBatch]:
        """The batches of `epoch` from number `start` on: the same bits as if it had run from 0.

        Raises `LabError` for an epoch or a start that there cannot be.
        """
        epoch = epoch_number(epoch, "sequence loader")
        start = whole_number(start, "the first batch", "sequence loader", least=0)
        order = self.order(epoch)
        return (
            self.batch(order[first : first + self.batch_size])
            for first in range(start * self.batch_size, len(order), self.batch_size)
        )

    def batch(self, index: np.ndarray) -> SequenceBatch:
        """The sequences at `index` (B,) as one batch."""
        parts = [self._one(int(n)) for n in index]
        longest = max(len(labels) for _, labels, _ in parts)
        features = np.zeros((len(parts), *parts[0][0].shape[:-1], longest), np.float32)
        labels = np.full((len(parts), longest), PADDING, np.int64)
        boundary = np.zeros((len(parts), 1, longest), np.float32)
        mask = np.zeros((len(parts), 1, longest), bool)
        for row, (feature, classes, marked) in enumerate(parts):
            features[row, ..., : len(classes)] = feature
            labels[row, : len(classes)] = classes
            boundary[row, 0, : len(classes)] = marked
            mask[row, 0, : len(classes)] = True
        return SequenceBatch(
            features=torch.from_numpy(features),
            labels=torch.from_numpy(labels),
            boundary=torch.from_numpy(boundary),
            mask=torch.from_numpy(mask),
            ids=self.sequences.ids[index],
            index=index,
        )

    def _one(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features (C, V, T), labels (T,) and boundary (T,) of sequence `n`."""
        sequences = self.sequences
        one = self.features(sequences.frames(n)), sequences.labels(n), sequences.boundaries(n)
        return every_second(*one) if self.half_rate else one
