"""Batches of whole untrimmed sequences, padded to the longest of the batch, with masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from shared_data.batches.randomness import permutation
from shared_data.errors import LabError, UsageError
from shared_data.loader import ahead, epoch_number, whole_number
from shared_data.pipelines.lasa import every_second, motion_and_shape
from shared_data.sequences import PADDING, Sequences

Features = Callable[[np.ndarray], np.ndarray]  # (T, M, V, 3) of one sequence -> (C, V, T) float32
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # features (C, V, T), labels (T,), boundary (T,) of one row of a batch


@dataclass
class SequenceBatch:
    """B sequences, or windows of sequences, T the frames of the longest; what lies after the end of a shorter one is filled.

    features  (B, C, V, T) float32, filled with 0
    labels    (B, T) int64, filled with 255
    boundary  (B, 1, T) float32, 1 at boundaries, filled with 0
    mask      (B, 1, T) bool, True where a frame exists
    ids       (B,) names of the videos
    index     (B,) int64 positions in the split
    start     (B,) int64 frames of the sequences where the windows begin; None for whole sequences
    """

    features: torch.Tensor
    labels: torch.Tensor
    boundary: torch.Tensor
    mask: torch.Tensor
    ids: np.ndarray
    index: np.ndarray
    start: np.ndarray | None = None


@dataclass(frozen=True)
class Division:
    """How the items of an epoch are divided into batches, and a batch among the processes that share it.

    share  (r, n): of each batch every n-th item from the r-th on, for process r of n
    whole  leave out a last batch that is not full; else one that has not an item for every process is left out in training,
           and at test time the processes without an item skip it
    Raises `LabError` for what makes no batch, or one with nothing for some process: `UsageError` where another batch size would.
    """

    items: int
    batch_size: int
    train: bool
    share: tuple[int, int] = (0, 1)
    whole: bool = False

    def __post_init__(self) -> None:
        rank, size = self.share
        where = "sequence loader"
        whole_number(self.batch_size, "batch_size", where, least=1)
        whole_number(size, "the number of processes", where, least=1)
        whole_number(rank, "the number of this process", where, least=0, most=size - 1)
        if self.items == 0:
            raise LabError("there are no sequences to load", where=where, expected="a split with at least one sequence")
        if self.batch_size < size:
            raise UsageError(
                f"batch_size {self.batch_size} for {size} processes", where=where,
                expected="a sequence of every batch for each of them", next_step=f"use batch_size {size} or more",
            )  # fmt: skip
        if len(self) == 0:
            raise UsageError(
                f"{self.items} sequences or windows make no batch of {self.batch_size} for {size} processes", where=where,
                expected="a full batch for training with drop_last, else one with an item for each process",
                next_step="use a smaller batch_size, or fewer processes",
            )  # fmt: skip

    def __len__(self) -> int:
        """Batches per epoch, the same for every process."""
        full, left = divmod(self.items, self.batch_size)
        least = self.batch_size if self.whole else self.share[1] if self.train else 1
        return full + (left >= least)

    def batch(self, number: int) -> slice:
        """Where batch `number` lies in the order of an epoch."""
        return slice(number * self.batch_size, min((number + 1) * self.batch_size, self.items))

    def mine(self, order: np.ndarray, start: int) -> Iterator[tuple[np.ndarray]]:
        """This process's part of each batch of `order` (N, ...) from number `start` on."""
        for number in range(start, len(self)):
            part = order[self.batch(number)][self.share[0] :: self.share[1]]
            if len(part):
                yield (part,)


class SequenceLoader:
    """The batches of one split of untrimmed sequences.

    Training: every sequence once per epoch in an order drawn from (seed, epoch). Test: in the order of the split.

    features   frames of one sequence -> its features; LaSA's by default
    half_rate  every second frame
    share      (r, n): of each batch only every n-th sequence from the r-th on, as one of n processes; see `Division`
    workers    threads that make batches ahead; 0 makes them in the caller's thread. They change nothing in the batches
    prefetch   batches that may be ready ahead of the caller
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
        share: tuple[int, int] = (0, 1),
        workers: int = 0,
        prefetch: int = 2,
    ) -> None:
        self.sequences, self.features = sequences, features
        self.division = Division(len(sequences), batch_size, train, share)
        self.batch_size, self.train, self.seed, self.half_rate = batch_size, train, seed, half_rate
        self.workers = whole_number(workers, "workers", "sequence loader", least=0)
        self.prefetch = whole_number(prefetch, "prefetch", "sequence loader", least=1)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.division)

    def order(self, epoch: int) -> np.ndarray:
        """(N,) int64 positions in the split, in the order `epoch` shows them."""
        epoch, count = epoch_number(epoch, "sequence loader"), len(self.sequences)
        return permutation(self.seed, epoch, count) if self.train else np.arange(count)

    def ids(self, epoch: int, number: int) -> np.ndarray:
        """(B,) str: the videos of batch `number` of `epoch`, all shares of it."""
        result: np.ndarray = self.sequences.ids[self.order(epoch)[self.division.batch(number)]]
        return result

    def epoch(self, epoch: int, start: int = 0) -> Iterator[SequenceBatch]:
        """The batches of `epoch` from number `start` on: the same bits as if it had run from 0.

        Raises `LabError` for an epoch or a start that there cannot be.
        """
        start = whole_number(start, "the first batch", "sequence loader", least=0)
        plans = self.division.mine(self.order(epoch), start)
        return batches(plans, self.batch, self.workers, self.prefetch)

    def batch(self, index: np.ndarray) -> SequenceBatch:
        """The sequences at `index` (B,) as one batch."""
        parts = [self._one(int(n)) for n in index]
        return padded(parts, max(len(labels) for _, labels, _ in parts), self.sequences.ids[index], index)

    def _one(self, n: int) -> Parts:
        """Features (C, V, T), labels (T,) and boundary (T,) of sequence `n`."""
        sequences = self.sequences
        one = self.features(sequences.frames(n)), sequences.labels(n), sequences.boundaries(n)
        return every_second(*one) if self.half_rate else one


def batches(
    plans: Iterator[tuple[np.ndarray]], make: Callable[[np.ndarray], SequenceBatch], workers: int, prefetch: int
) -> Iterator[SequenceBatch]:
    """What `make` makes of `plans`, in this thread or ahead by `workers` others."""
    return ahead(plans, make, workers, prefetch) if workers else (make(*plan) for plan in plans)


def padded(parts: list[Parts], length: int, ids: np.ndarray, index: np.ndarray, start: np.ndarray | None = None) -> SequenceBatch:
    """The rows `parts`, none of more than `length` frames, as a batch of so many frames."""
    features = np.zeros((len(parts), *parts[0][0].shape[:-1], length), np.float32)
    labels = np.full((len(parts), length), PADDING, np.int64)
    boundary = np.zeros((len(parts), 1, length), np.float32)
    mask = np.zeros((len(parts), 1, length), bool)
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
        ids=ids,
        index=index,
        start=start,
    )
