"""Batches of a split, in an order and with augmentations that depend on (seed, epoch) alone.

No worker processes: a whole batch costs less than sending it between two processes. Threads work ahead; torch's operations let
them run at the same time. How many there are changes nothing in the batches.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeVar

import numpy as np
import torch

from shared_data.batches.memory import Recycled
from shared_data.batches.randomness import permutation
from shared_data.batches.upstream import UpstreamDraws, stream
from shared_data.clips import Clips
from shared_data.errors import LabError, UsageError
from shared_data.pipelines import Pipeline, Positioned, rows_of

Made = TypeVar("Made")
Plan = tuple[np.ndarray, object]  # positions in the split, draws (None at test time)
_DRAWN_AHEAD = 2048  # clips whose random numbers are made at once; the numbers do not depend on it


@dataclass
class Batch:
    """What a training step takes.

    clips      (B, 3, W, V, M) float32, or (B, K, 3, W, V, M) where a pipeline shows each clip in K views
    labels     (B,) int64
    ids        (B,) str
    index      (B,) int64, positions in the split
    positions  (B, W) float32, where in its clip each frame lies, for pipelines that tell (`Positioned`)
    """

    clips: torch.Tensor
    labels: torch.Tensor
    ids: np.ndarray
    index: np.ndarray
    positions: torch.Tensor | None = None


class Loader:
    """The batches of one split.

    Training: each epoch shows every clip `repeat` times in an order drawn from (seed, epoch), each showing with its own
    augmentation. Test: every clip once, in order, nothing random.

    drop_last   leave out a last batch that is not full
    workers     threads that make batches ahead; 0 makes them in the caller's thread
    prefetch    batches that may be ready ahead of the caller
    pin_memory  page-locked batches, for copying to a GPU
    device      make the batches there: the split's rows are copied to it once (1.5 GB for NTU-60). None: on the CPU
    upstream    number of workers of the official loop whose repeated random numbers are to be used; 0: ours (see `upstream`)
    share       (r, n): of each batch only every n-th clip from the r-th on, as one of n processes that share the batches
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
        workers: int = 1,
        prefetch: int = 2,
        pin_memory: bool = False,
        device: torch.device | None = None,
        upstream: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        batch_size = whole_number(batch_size, "batch_size", "loader", least=1)
        repeat = whole_number(repeat, "repeat", "loader", least=1)
        workers = whole_number(workers, "workers", "loader", least=0)
        prefetch = whole_number(prefetch, "prefetch", "loader", least=1)
        if len(clips) == 0:
            raise LabError("there are no clips to load", where="loader", expected="a split with at least one clip")
        if repeat != 1 and not train:
            raise LabError(f"repeat is {repeat} for a test split", where="loader", expected="1: each clip is scored once")
        if pin_memory and not torch.cuda.is_available():
            raise LabError("page-locked memory needs a CUDA device, and torch sees none", where="loader pin_memory")
        if device is not None and workers:
            workers = 0  # the device queues its own work
        self.clips = clips if device is None else clips.on_device(device)
        pipeline.accept(self.clips)
        if upstream and not isinstance(pipeline, UpstreamDraws):
            raise UsageError(
                f"pipeline {pipeline.name} has no official stream of random numbers",
                where="loader upstream",
                next_step="leave --upstream-seeding out; it is for comparing with official CTR-GCN runs",
            )
        # One batch in use, those ready, one in the making by each worker, and one more for a caller who looks back.
        self._memory = Recycled(keep=prefetch + workers + 2)
        self.pipeline, self.batch_size, self.train, self.seed, self.repeat = pipeline, batch_size, train, seed, repeat
        self.drop_last, self.workers, self.prefetch, self.pin_memory = drop_last, workers, prefetch, pin_memory
        self.device, self.upstream, self.share = device, upstream, share
        self._positioned = pipeline if isinstance(pipeline, Positioned) else None
        if len(self) == 0:
            raise UsageError(
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
        epoch, shown = epoch_number(epoch, "loader"), len(self.clips) * self.repeat
        places = permutation(self.seed, epoch, shown) if self.train else np.arange(shown)
        return places % len(self.clips), places // len(self.clips)

    def ids(self, epoch: int, number: int) -> np.ndarray:
        """(B,) str: the clips of batch `number` of `epoch`, all shares of it."""
        index, _ = self.order(epoch)
        result: np.ndarray = self.clips.ids[index[number * self.batch_size : (number + 1) * self.batch_size]]
        return result

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on: the same bits as if it had run from 0.

        Raises `LabError` for an epoch or a start that there cannot be.
        """
        epoch = epoch_number(epoch, "loader")
        start = whole_number(start, "the first batch", "loader", least=0)
        plans = self._upstream_plans(epoch, start) if self.train and self.upstream else self._plans(epoch, start)
        if not self.workers:
            return (self._batch(index, draws) for index, draws in plans)
        return ahead(plans, self._batch, self.workers, self.prefetch)

    def _plans(self, epoch: int, start: int) -> Iterator[Plan]:
        """What each batch shows: positions in the split, and the random decisions (None at test time)."""
        index, repeat_number = self.order(epoch)
        ahead = max(1, _DRAWN_AHEAD // self.batch_size)
        for first in range(start, len(self), ahead):
            after = min(first + ahead, len(self))
            block = slice(first * self.batch_size, after * self.batch_size)
            draws = None
            if self.train:
                draws = self.pipeline.draw(self.clips, index[block], self.seed, epoch, repeat_number[block])
            for number in range(after - first):
                rows = slice(number * self.batch_size + self.share[0], (number + 1) * self.batch_size, self.share[1])
                yield index[block][rows], None if draws is None else rows_of(draws, rows)

    def _upstream_plans(self, epoch: int, start: int) -> Iterator[Plan]:
        """The same clips with the random numbers of the official workers; batches before `start` are drawn and forgotten."""
        if not isinstance(self.pipeline, UpstreamDraws):
            raise AssertionError("checked when the loader was made")
        index, _ = self.order(epoch)
        workers, mine = [stream(worker) for worker in range(self.upstream)], slice(self.share[0], None, self.share[1])
        for number in range(len(self)):
            rows = index[number * self.batch_size : (number + 1) * self.batch_size]
            draws = self.pipeline.draw_upstream(self.clips, rows, workers[number % self.upstream])
            if number >= start:
                yield rows[mine], rows_of(draws, mine)

    def _batch(self, index: np.ndarray, draws: object) -> Batch:
        out = self._memory.take((len(index), *self.pipeline.item(self.clips))) if self.device is None else None
        if draws is None:
            clips = self.pipeline.test(self.clips, index, out)
        else:
            clips = self.pipeline.train(self.clips, index, draws, out)
        labels = torch.from_numpy(self.clips.labels[index].astype(np.int64))
        positions = None
        if self._positioned is not None:
            positions = torch.from_numpy(self._positioned.positions(self.clips, index, draws))
        if self.pin_memory and self.device is None:
            clips, labels = clips.pin_memory(), labels.pin_memory()
            positions = None if positions is None else positions.pin_memory()
        return Batch(clips, labels, self.clips.ids[index], index, positions)


def whole_number(value: object, name: str, where: str, *, least: int, most: int | None = None) -> int:
    """`value` as an int. Raises `LabError` saying what `name` is unless it is a whole number from `least` to `most`."""
    expected = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise LabError(f"{name} is {str(value)[:40]!r}, of type {type(value).__name__}", where=where, expected=expected)
    number = operator.index(value)
    if number < least or (most is not None and number > most):
        raise LabError(f"{name} is {number}", where=where, expected=expected)
    return number


def epoch_number(value: object, where: str) -> int:
    """`value` as an epoch, which is one word of what random numbers are made from. Raises `LabError`."""
    return whole_number(value, "epoch", where, least=0, most=2**32 - 1)


def ahead(plans: Iterator[tuple[Any, ...]], make: Callable[..., Made], workers: int, depth: int) -> Iterator[Made]:
    """What `make` makes of `plans`, in order, made ahead by threads that end with this generator. Their errors come out here."""
    torch.get_num_threads()  # settles this thread's own number before the others ask for one (see below)
    # A second set of compute threads beside the caller's would fight it for the cores.
    pool = ThreadPoolExecutor(workers, "batches ahead", initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[Made]] = deque()
    try:
        for plan in plans:
            waiting.append(pool.submit(make, *plan))
            if len(waiting) > max(depth, workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
