"""Peaks against the length of untrimmed sequences, and the longest that still fit.

A step of sequences of T frames holds storages that grow with T, or with the windows that T frames make. At whole numbers of
windows its peak is the highest of some lines, a convex function of T: what lies between two traced lengths is at most what the
line through them says, and that is exact beyond the length from which one line is the highest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from engine.config import RunConfig
from engine.models import ModelCard
from engine.segmentation import framewise
from planner.costs import Size, asked_of, costs_of
from planner.steps.peak import TOLERANCE, Steps

MOST = 200_000
"""Frames, almost two hours: no longer sequence is looked for."""
TRIES = 8
NEAR = 0.99
"""Of the room: a length that takes so much of it is the longest for all purposes."""


@dataclass(frozen=True)
class AtLength:
    """MiB of tensors where the longest sequence has `frames`; `traced`: not read off a line between two that were."""

    frames: int
    train: float
    eval: float
    traced: bool

    @property
    def peak(self) -> float:
        return max(self.train, self.eval)


class Lengths:
    """The peaks of a run of `config` at any length of the longest sequence."""

    def __init__(self, card: ModelCard, config: RunConfig, size: Size, known: dict[str, Steps]) -> None:
        self.card, self.config, self.size, self.known = card, config, size, known
        self.window = config.train_window_size
        self._traced: dict[int, AtLength] = {}

    @property
    def matters(self) -> bool:
        """Whether training batches are of whole sequences."""
        return framewise.chosen_of(self.config).mode == "full"

    def at(self, frames: int) -> AtLength:
        """By a trace of so many frames, rounded up to whole windows."""
        whole = -(-frames // self.window) * self.window
        if whole not in self._traced:
            costs, asked = costs_of(self.card, self.config, replace(self.size, frames=whole), self.known), asked_of(self.config)
            self._traced[whole] = AtLength(whole, costs.train(asked), costs.evaluation(asked), traced=True)
        return replace(self._traced[whole], frames=frames)

    def table(self, lengths: tuple[int, ...]) -> list[AtLength]:
        """Those at `lengths`: the shortest, a middle one and the longest traced, and the others where they are on no line."""
        ordered = sorted(set(lengths))
        first, middle, last = (self.at(ordered[n]) for n in (0, len(ordered) // 2, -1))
        on_a_line = abs(self._line(first, last, middle.frames) / middle.train - 1) <= TOLERANCE
        found = {one.frames: one for one in (first, middle, last)}
        for frames in ordered:
            if frames not in found:
                low, high = (first, middle) if frames < middle.frames else (middle, last)
                # Evaluation is no line: it levels off. That of a longer sequence takes no less.
                read = AtLength(frames, self._line(low, high, frames), high.eval, traced=False)
                found[frames] = read if on_a_line else self.at(frames)
        return [found[frames] for frames in ordered]

    def longest(self, room: float) -> int:
        """The most frames, in whole windows up to `MOST`, with which training and evaluation stay within `room` MiB; 0: none.

        Found along the line between traced lengths; that it fits is traced.
        """
        low, high, guess = 0, MOST // self.window + 1, -(-self.size.frames // self.window)  # in windows: fits, does not, is tried
        seen: list[tuple[float, int]] = []
        for _ in range(TRIES):
            peak = self.at(guess * self.window).peak
            seen.append((peak, guess))
            low, high = (guess, high) if peak <= room else (low, guess)
            if high - low <= 1 or NEAR * room <= peak <= room:
                break
            if len(seen) == 1:
                guess = guess * 2 if peak <= room else guess // 2
            else:
                (one, here), (other, there) = sorted(seen, key=lambda point: abs(point[0] - room))[:2]
                slope = (other - one) / (there - here)
                guess = math.floor(here + (room - one) / slope) if slope > 0 else (low + high) // 2
            guess = min(max(guess, low + 1), high - 1)
        return low * self.window

    def _line(self, one: AtLength, other: AtLength, frames: int) -> float:
        """MiB of training on the line through two traced lengths, at whole windows."""
        a, b, at = (-(-n // self.window) for n in (one.frames, other.frames, frames))
        return one.train if a == b else one.train + (other.train - one.train) * (at - a) / (b - a)
