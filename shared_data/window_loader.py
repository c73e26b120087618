"""Batches of windows of untrimmed sequences, all of the one length that an encoder of clips was pretrained on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shared_data.batches.randomness import permutation
from shared_data.errors import LabError
from shared_data.loader import epoch_number, whole_number
from shared_data.pipelines.lasa import motion_and_shape
from shared_data.sequence_loader import Division, Features, Parts, SequenceBatch, batches, padded
from shared_data.sequences import Sequences
from shared_data.windows import balanced, test_windows, windows_of

WINDOW = 64


class WindowLoader:
    """The windows of one split of untrimmed sequences; a batch is a `SequenceBatch` with `start`.

    Training: each sequence is cut from a random phase on into windows (`windows_of`); those of all sequences are shuffled, by
    (seed, epoch) alone. Test: windows that show every frame (`test_windows`), in order, for `stitch`. A sequence shorter than a
    window is padded as in `SequenceLoader`. Features are made of whole sequences, as in `SequenceLoader`.

    stride            frames from one test window to the next; default: the window. Training has no use for it
    background_share  training windows so chosen, some twice, some not at all, that about this share of their frames are
                      background (class 0); None: every window once, background as often as it is
    drop_last         leave out a last batch that is not full; default: in training
    share, workers, prefetch  as in `SequenceLoader`
    In training the features of all sequences stay in memory once they were needed, 4 bytes x C x V a frame: 600 bytes for the
    normalised coordinates of 2 x 25 joints. Raises `LabError` for settings that make no batch.
    """

    def __init__(
        self,
        sequences: Sequences,
        *,
        batch_size: int,
        train: bool,
        window: int = WINDOW,
        stride: int | None = None,
        background_share: float | None = None,
        drop_last: bool | None = None,
        seed: int = 0,
        features: Features = motion_and_shape,
        share: tuple[int, int] = (0, 1),
        workers: int = 0,
        prefetch: int = 2,
    ) -> None:
        where = "window loader"
        self.window = whole_number(window, "window", where, least=1)
        self.stride = self.window if stride is None else whole_number(stride, "stride", where, least=1, most=self.window)
        if background_share is not None and not (train and 0 <= background_share <= 1):
            raise LabError(f"background_share is {background_share}", where=where, expected="0 to 1, in training only")
        if stride is not None and train:
            raise LabError(f"stride is {stride} in training", where=where, expected="none: windows lie one after the other")
        self.sequences, self.features, self.train, self.seed = sequences, features, train, seed
        self.background_share, self.batch_size = background_share, batch_size
        if len(sequences) and not train:
            starts = [test_windows(int(length), self.window, self.stride) for length in sequences.lengths]
            index = np.repeat(np.arange(len(starts)), [len(each) for each in starts])
            self._test = np.stack([index, np.concatenate(starts)], 1)
        items = int(np.maximum(sequences.lengths // self.window, 1).sum()) if train else len(self._test) if len(sequences) else 0
        self.division = Division(items, batch_size, train, share, whole=train if drop_last is None else drop_last)
        self.workers = whole_number(workers, "workers", where, least=0)
        self.prefetch = whole_number(prefetch, "prefetch", where, least=1)
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.division)

    def order(self, epoch: int) -> np.ndarray:
        """(N, 2) int64: position of the sequence in the split and first frame of each window, as `epoch` shows them."""
        epoch = epoch_number(epoch, "window loader")
        if not self.train:
            return self._test
        rows = np.stack(windows_of(self.sequences.lengths, self.window, self.seed, epoch), 1)
        if self.background_share is not None:
            rows = rows[balanced(self._background(rows), self.background_share, self.seed, epoch)]
        result: np.ndarray = rows[permutation(self.seed, epoch, len(rows))]
        return result

    def ids(self, epoch: int, number: int) -> np.ndarray:
        """(B,) str: the videos of the windows in batch `number` of `epoch`, all shares of it."""
        result: np.ndarray = self.sequences.ids[self.order(epoch)[self.division.batch(number), 0]]
        return result

    def epoch(self, epoch: int, start: int = 0) -> Iterator[SequenceBatch]:
        """The batches of `epoch` from number `start` on: the same bits as if it had run from 0.

        Raises `LabError` for an epoch or a start that there cannot be.
        """
        start = whole_number(start, "the first batch", "window loader", least=0)
        return batches(self.division.mine(self.order(epoch), start), self.batch, self.workers, self.prefetch)

    def batch(self, rows: np.ndarray) -> SequenceBatch:
        """The windows `rows` (B, 2), as `order` gives them, as one batch."""
        index, start = rows[:, 0], rows[:, 1]
        parts = [self._one(n, first) for n, first in rows.tolist()]
        return padded(parts, self.window, self.sequences.ids[index], index, start)

    def _one(self, n: int, first: int) -> Parts:
        span = slice(first, first + self.window)
        return self._features(n)[..., span], self.sequences.labels(n)[span], self.sequences.boundaries(n)[span]

    def _features(self, n: int) -> np.ndarray:
        """Features of all of sequence `n`; at test time, where windows come in order, only the last few are kept."""
        made = self._kept.get(n)
        if made is None:
            made = self.features(self.sequences.frames(n))
            if not self.train:
                for old in [each for each in list(self._kept) if each < n - 1]:
                    self._kept.pop(old, None)
            self._kept[n] = made
        return made

    def _background(self, rows: np.ndarray) -> np.ndarray:
        """(N,) share of background among the frames of each window."""
        sequences = self.sequences
        counted = np.concatenate([[0], np.cumsum(sequences.classes == 0)])
        first = sequences.first[rows[:, 0]]
        end = np.minimum(rows[:, 1] + self.window, sequences.lengths[rows[:, 0]])
        result: np.ndarray = (counted[first + end] - counted[first + rows[:, 1]]) / (end - rows[:, 1])
        return result
