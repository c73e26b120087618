"""The random numbers of the official training loops, repeats included: what `--upstream-seeding` asks for.

Their data workers are seeded with the worker's number, 0, 1, 2 ..., again at the start of every epoch, whatever the run's seed
(``specs/ctrgcn.md`` 5.4). Worker w makes the batches w, w + W, w + 2 W ... of the epoch, so the n-th clip it makes has the same
crop and rotation in every epoch and every run. Only for comparing with official runs: it is a bug, and training gains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from shared_data.clips import Clips


@dataclass(frozen=True)
class Stream:
    """The two generators the official readers draw from, of one worker."""

    numpy: np.random.RandomState
    torch: torch.Generator


def stream(seed: int) -> Stream:
    """Generators as the official loops seed them."""
    return Stream(np.random.RandomState(seed), torch.Generator().manual_seed(seed))


@runtime_checkable
class UpstreamDraws(Protocol):
    """A pipeline that can draw as its official reader does."""

    def draw_upstream(self, clips: Clips, index: np.ndarray, source: Stream) -> Any:
        """The draws of the clips at `index`, taken from `source` clip by clip in the official order of calls."""
        ...
