"""What no single file shows: features that another network made, that leak unseen clips, or that had seen what they must not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.zeroshot.task import Rows
from shared_data.errors import DataError
from shared_data.findings import ERROR, WARNING, Finding, name_rows

if TYPE_CHECKING:
    from engine.zeroshot.features import Features

OFF_ONE = 1e-3  # how far rows of probabilities may be from a sum of 1
BEYOND_CHANCE = 0.2  # of the clips, above what naming always the commonest class would get right


def rows_again(known: NDArray[np.float32], rows: NDArray[np.float32]) -> list[int]:
    """Rows of `rows` (N, D) that stand bit for bit in `known` (M, D) too."""
    table = {row.tobytes() for row in known}
    return [i for i, row in enumerate(rows) if row.tobytes() in table]


def require_one_world(test: Features, val: Features) -> None:
    """Raises `DataError` unless the phases' features are equally wide, and no unseen clip of the test stands in validation.

    The gate learns on validation, whose training and held-out clips count as seen: a row of the test's ``ztest`` among them is
    an unseen clip under a seen class.
    """
    widths = [features.train.features.shape[1] for features in (test, val)]
    if widths[0] != widths[1]:
        raise DataError(
            f"the test's features are {widths[0]} wide, the validation's {widths[1]}",
            where=f"{test.train.name} and {val.train.name}", expected="the same width: both by the same kind of network",
            next_step="make both folders with the same backbone",
        )  # fmt: skip
    for rows in (val.train, val.rest.rows, val.unseen.rows):
        if again := rows_again(test.unseen.rows.features, rows.features):
            raise DataError(
                f"{len(again)} clips of the test's unseen classes are in the validation, under other classes",
                where=f"{rows.name}: {name_rows(again)}", expected=f"no row of {test.unseen.rows.name}",
                next_step="make the validation's features without the classes that are unseen in the test",
            )  # fmt: skip


def logit_findings(logits: NDArray[np.float32], where: str) -> list[Finding]:
    """Whether (N, K) `logits` are probabilities: a temperature over these means something else."""
    if (logits >= 0).all() and (logits <= 1).all() and (np.abs(logits.sum(1) - 1) < OFF_ONE).all():
        text = "these are probabilities, not logits: the gate divides logits by its temperature"
        return [Finding("logits-probabilities", WARNING, text, where, len(logits), next_step="save what is before the softmax")]
    return []


def knowledge_findings(rows: Rows, logits: NDArray[np.float32], unseen: tuple[int, ...], where: str) -> list[Finding]:
    """Whether the backbone names the `unseen` classes of `rows` rightly, among all classes: then it was shown them."""
    mask = np.isin(rows.labels, unseen)
    labels = rows.labels[mask]
    if not len(labels):
        return []
    right = float((logits[mask].argmax(1) == labels).mean())
    constant = np.bincount(labels).max() / len(labels)
    if right <= constant + BEYOND_CHANCE:
        return []
    text = f"the backbone names {right:.0%} of the clips of unseen classes rightly: it has seen them, this is not zero-shot"
    return [Finding("backbone-saw", ERROR, text, where, len(labels), next_step="train the backbone without these classes")]
