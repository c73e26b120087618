"""Made-up skeleton and text features with a relation that can be learned: what shows that a system works, without data.

Each class is a point in a space of few dimensions. Its skeleton prototype and its text are two random linear images of that
point, so what relates them on seen classes also holds for unseen ones. With `shuffled` text it holds for none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.zeroshot.gate import Evidence
from engine.zeroshot.task import Rows, Task, joined_text
from shared_data.zeroshot_splits import Split

ABSENT = -20.0  # logit of a class that the backbone never saw


@dataclass(frozen=True)
class World:
    """Classes and what they look like: prototypes (K, D) not negative, text (K, Dt) rows of unit length, spread of clips."""

    prototypes: NDArray[np.float32]
    text: NDArray[np.float32]
    spread: float
    seed: int

    def task(self, split: Split, *, per_class: int = 40) -> Task:
        """A split with `per_class` clips of each seen class to train with and as many of each unseen one to be tried on."""
        return Task(
            split,
            self.text,
            self.clips("train", split.seen, per_class, part=0),
            self.clips("test", split.unseen, per_class, part=1),
        )

    def clips(self, name: str, classes: tuple[int, ...], per_class: int, *, part: int) -> Rows:
        """Clips of `classes`; those of different `part`s are different clips."""
        rng = np.random.default_rng([self.seed, 1, part])
        labels = np.repeat(np.asarray(classes, np.int64), per_class)
        noise = rng.normal(0.0, self.spread, (len(labels), self.prototypes.shape[1]))
        return Rows(name, np.maximum(self.prototypes[labels] + noise, 0.0).astype(np.float32), labels)

    def logits(self, rows: Rows, seen: tuple[int, ...]) -> NDArray[np.float32]:
        """(N, K) what a backbone trained on the `seen` classes would say: the nearer a prototype, the higher."""
        known = self.prototypes[list(seen)]
        lengths = np.square(rows.features).sum(1)[:, None] + np.square(known).sum(1)
        distance = lengths - 2 * rows.features @ known.T
        logits = np.full((len(rows.labels), len(self.prototypes)), ABSENT, np.float32)
        logits[:, list(seen)] = -distance / (2 * self.spread**2 * np.sqrt(self.prototypes.shape[1]))
        return logits

    def evidence(self, rows: Rows, seen: tuple[int, ...], unseen: NDArray[np.float32]) -> Evidence:
        """What a gate sees of `rows`, given probabilities of the unseen classes."""
        return Evidence(unseen, self.logits(rows, seen))


def world(
    *, classes: int, seed: int, shuffled: bool = False, hidden: int = 5, features: int = 64, text: int = 48, spread: float = 0.25
) -> World:
    """`classes` points of `hidden` dimensions and their two images, `features` and `text` wide."""
    rng = np.random.default_rng([seed, 0])
    points = rng.normal(0.0, 1.0, (classes, hidden))
    prototypes = np.maximum(points @ rng.normal(0.0, 1.0, (hidden, features)) / np.sqrt(hidden) + 1.0, 0.0)
    described = np.concatenate([points, np.ones((classes, 1))], axis=1) @ rng.normal(0.0, 1.0, (hidden + 1, text))
    if shuffled:
        described = described[rng.permutation(classes)]
    return World(prototypes.astype(np.float32), joined_text([described.astype(np.float32)]), spread, seed)
