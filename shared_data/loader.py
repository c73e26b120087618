"""Batches of a split, in an order and with augmentations that depend on (seed, epoch) alone.

No worker processes: a whole batch costs less than sending it between two processes. One background thread works ahead.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from shared_data.clips import Clips
from shared_data.errors import LabError
from shared_data.memory import Recycled
from shared_data.pipelines import Pipeline, rows_of
from shared_data.randomness import permutation

_DRAWN_AHEAD = 4096  # clips whose random numbers are made at once; the numbers do not depend on it


@dataclass
class Batch:
    """clips (B, 3, W, V, M) float32, labels (B,) int64, ids (B,) str, index (B,) int64 positions in the split."""

    clips: torch.Tensor
    labels: torch.Tensor
    ids: np.ndarray
    index: np.ndarray


class Loader:
    """The batches of one split.

    Training: each epoch shows every clip `repeat` times in an order drawn from (seed, epoch), each showing with its own
    augmentation. Test: every clip once, in order, nothing random.

    drop_last   leave out a last batch that is not full
    prefetch    batches a background thread keeps ready; 0 makes them in the caller's thread
    pin_memory  page-locked batches, for copying to a GPU
    Raises `LabError` for settings that make no batch.
    """

    def __init__(
        self,
        clips: Clips,
        pipeline: Pipeline,
        *,
        batch_size: int,
        train: bool,
        seed: int = 0,
        repeat: int = 1,
        drop_last: bool = False,
        prefetch: int = 2,
        pin_memory: bool = False,
    ) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("repeat", repeat, 1), ("prefetch", prefetch, 0)):
            if value < least:
                raise LabError(f"{name} is {value}", where="loader", expected=f"{least} or more")
        if len(clips) == 0:
            raise LabError("there are no clips to load", where="loader", expected="a split with at least one clip")
        if repeat != 1 and not train:
            raise LabError(f"repeat is {repeat} for a test split", where="loader", expected="1: each clip is scored once")
        if pin_memory and not torch.cuda.is_available():
            raise LabError("page-locked memory needs a CUDA device, and torch sees none", where="loader pin_memory")
        pipeline.accept(clips)
        # One batch in use, `prefetch` ready, one in the making, and one more for a caller who looks back.
        self._memory = Recycled(keep=prefetch + 3)
        self.clips, self.pipeline = clips, pipeline
        self.batch_size, self.train, self.seed, self.repeat = batch_size, train, seed, repeat
        self.drop_last, self.prefetch, self.pin_memory = drop_last, prefetch, pin_memory
        if len(self) == 0:
            raise LabError(
                f"{len(clips) * repeat} clips do not fill one batch of {batch_size}, and drop_last leaves the rest out",
                where="loader",
                expected="a batch_size of at most the number of clips",
                next_step=f"use batch_size {len(clips) * repeat} or less",
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        shown = len(self.clips) * self.repeat
        return shown // self.batch_size if self.drop_last else -(-shown // self.batch_size)

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the split and repeat numbers, (N * repeat,) int64 each, in the order `epoch` shows them."""
        shown = len(self.clips) * self.repeat
        places = permutation(self.seed, epoch, shown) if self.train else np.arange(shown)
        return places % len(self.clips), places // len(self.clips)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on: the same bits as if it had run from 0."""
        if start < 0:
            raise LabError(f"an epoch cannot start at batch {start}", where="loader", expected="0 or more")
        batches = self._batches(epoch, start)
        return _ahead(batches, self.prefetch) if self.prefetch else batches

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        index, repeat_number = self.order(epoch)
        ahead = max(1, _DRAWN_AHEAD // self.batch_size)
        for first in range(start, len(self), ahead):
            after = min(first + ahead, len(self))
            block = slice(first * self.batch_size, after * self.batch_size)
            draws = None
            if self.train:
                draws = self.pipeline.draw(self.clips, index[block], self.seed, epoch, repeat_number[block])
            for number in range(after - first):
                rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
                yield self._batch(index[block][rows], None if draws is None else rows_of(draws, rows))

    def _batch(self, index: np.ndarray, draws: object) -> Batch:
        shape = (len(index), 3, self.pipeline.window, self.clips.joints, self.clips.max_people)
        out = self._memory.take(shape)
        if draws is None:
            values = self.pipeline.test(self.clips, index, out)
        else:
            values = self.pipeline.train(self.clips, index, draws, out)
        clips, labels = torch.from_numpy(values), torch.from_numpy(self.clips.labels[index].astype(np.int64))
        if self.pin_memory:
            clips, labels = clips.pin_memory(), labels.pin_memory()
        return Batch(clips, labels, self.clips.ids[index], index)


@dataclass(frozen=True)
class _Failed:
    error: BaseException


def _ahead(batches: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """The batches, made up to `depth` ahead by a thread that ends with this generator. Its errors come out here."""
    ready: queue.Queue[Batch | _Failed | None] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    torch.get_num_threads()  # settles this thread's own number before the other thread asks for one (see below)

    def put(item: Batch | _Failed | None) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        # A second set of compute threads beside the caller's would fight it for the cores.
        torch.set_num_threads(1)
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:
            put(_Failed(error))

    thread = threading.Thread(target=work, name="batches ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, _Failed):
                raise item.error
            yield item
    finally:
        stop.set()
        thread.join()
