"""The longest window that still fits: the same recipe on clips of more frames, traced."""

from __future__ import annotations

import dataclasses

from engine.config import RunConfig
from engine.models import ModelCard
from planner.costs import Size, asked_of, costs_of
from planner.steps.peak import Steps
from shared_data.errors import LabError

LONGEST = 300
"""Frames: the length to which NTU clips are padded; no window is longer."""
STRIDES = (4, 8, 16, 32, 64)
"""Windows tried are multiples of the first of these that the network takes."""
TRIES = 4


def largest_window(card: ModelCard, config: RunConfig, size: Size, room: float, known: dict[str, Steps]) -> int | None:
    """The most frames, up to `LONGEST`, at which training and evaluation with the settings of `config` stay within `room` MiB.

    Memory is nearly a line in the frames: it is followed to the edge of the room, and what is found there is traced.
    None where the pipeline or the network has one window only; 0 where no shorter one was found to fit either.
    """

    def needs(window: int) -> float | None:
        """MiB, None for a window that the network does not take."""
        try:
            costs, asked = costs_of(card, _with_window(config, window), size, known), asked_of(config)
            return max(costs.train(asked), costs.evaluation(asked))
        except LabError:
            return None

    here = config.train_window_size
    if here < 1 or costs_of(card, _with_window(config, here), size, known).steps.clip_shape[-3] != here:
        return None
    base = needs(here)
    if base is None:
        return None
    traced, slope = {here: base}, base / here
    for _ in range(TRIES):
        guess = min(max(int(here + (room - base) / max(slope, 1e-9)), STRIDES[0]), LONGEST)
        steps = (guess // stride * stride for stride in STRIDES if guess >= stride)
        window, need = next(((w, n) for w in dict.fromkeys(steps) if (n := traced.get(w) or needs(w)) is not None), (None, 0.0))
        if window is None:
            return None
        if window in traced:
            break
        traced[window], slope = need, (need - base) / (window - here)
    return max((window for window, need in traced.items() if need <= room), default=0)


def _with_window(config: RunConfig, window: int) -> RunConfig:
    return dataclasses.replace(config, train_window_size=window, test_window_size=window)
