"""The memory of a run, watched from outside its steps: tried and predicted before the first one, compared after the second.

Nothing here changes what a run computes.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from engine import memory
from engine.config import RunConfig
from shared_data.datasets import DataSet
from shared_data.errors import LabError

T = TypeVar("T")


class MemoryWatch:
    """That of one process, which may go on with a run that another began.

    data     what it is trained on
    expect   predicts the memory of a run on a GPU; without it, or without data, nothing is predicted
    note     is told, in words for the user, why there is no prediction
    """

    def __init__(
        self,
        config: RunConfig,
        data: DataSet | None,
        device: torch.device,
        expect: memory.Expect | None,
        note: Callable[[str], None],
    ) -> None:
        self.config, self.data, self.device, self.expect, self.note = config, data, device, expect, note
        self.compare: memory.Compare | None = None
        self.steps = 0

    def look_ahead(self, rehearsal: Callable[[], None], *, steps: int) -> None:
        """Before the first of `steps` steps to come: try the evaluation in `rehearsal`, and have the memory of a step predicted.

        Random numbers go on as if nothing had been drawn. Raises `memory.RanOut` if evaluation would not fit.
        """
        with _random_numbers_kept(self.device):
            told_as(memory.REHEARSAL, rehearsal)
            if not memory.counted(self.device):
                return
            memory.release(self.device)  # training begins as if nothing had been tried
            if self.expect is not None and self.data is not None and steps >= 2:  # else nothing will be compared
                try:
                    self.compare = self.expect(self.config, self.data, self.device, self.note)
                except LabError as error:
                    self.note(f"this run's memory is not predicted: {error.what}")

    def stepped(self) -> memory.Finding | None:
        """To be called after each step. After the second, on a GPU: what two steps took, held against what was predicted.

        The first one makes the optimizer's state. The allocator's books do not wait for the GPU.
        """
        self.steps += 1
        if self.steps != 2 or not memory.counted(self.device):
            return None
        used = memory.peaks(self.device)
        finding = self.compare(used) if self.compare else memory.Finding({})
        return replace(finding, event={**used, **finding.event})


def told_as(part: str, work: Callable[[], T], *, if_full: Callable[[], None] = lambda: None) -> T:
    """`work()`; a GPU that is full is told as `memory.RanOut` of this `part` of the run, after `if_full()`."""
    try:
        return work()
    except torch.cuda.OutOfMemoryError as error:
        words = memory.first_line(error)
    if_full()  # past the handler: what the work held is free again
    raise memory.RanOut(part, words)


@contextlib.contextmanager
def _random_numbers_kept(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, every generator goes on as if nothing had been."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
