"""Class labels as files hold them (one-hot columns or integers) to class ids, without ever shifting a row.

The official readers take labels from the column output of a search for positive entries: an empty or doubled row moves
all later labels by one, silently. Here every such row is an error finding with its number.
"""

from __future__ import annotations

import numpy as np

from shared_data.errors import DataError
from shared_data.findings import ERROR, WARNING, Finding, rows_finding
from shared_data.formats.options import MAX_CLASSES

MANY_CLASSES = 1_000
"""Beyond this a confusion matrix takes megabytes and shows nothing; the largest skeleton data sets have a few hundred."""
_KNOWN = (10, 51, 52, 60, 120)
_REPAIR = "repair these rows in the source; a guessed label would be trained on silently"


def decode(values: np.ndarray, key: str, clips: int) -> tuple[np.ndarray, int | None, list[Finding]]:
    """Labels (N,) int64 (-1 where a row has none), the one-hot width (None for integers), and findings.

    `values` is (N, K) one-hot of any numeric type or (N,) integers. Raises `DataError` if the shape fits neither.
    """
    if values.ndim not in (1, 2) or (values.ndim == 2 and not 2 <= values.shape[1] <= MAX_CLASSES):
        raise DataError(
            f"labels of shape {values.shape}",
            where=f"key {key}",
            expected="(N, K) one-hot with 2 <= K <= 10000, or (N,) integers",
        )
    if values.dtype.kind not in "biuf":
        raise DataError(f"labels of type {values.dtype}", where=f"key {key}", expected="numbers")
    findings: list[Finding] = []
    if len(values) != clips:
        findings.append(
            Finding(
                "label-count", ERROR, f"{len(values)} labels for {clips} clips", key, abs(len(values) - clips),
                next_step="every clip needs its own label row; nothing is cut to fit",
            )
        )  # fmt: skip
    if values.ndim == 2:
        labels, problems = _one_hot(values, key)
        return labels, values.shape[1], findings + problems
    labels, problems = _integers(values, key)
    return labels, None, findings + problems


def _one_hot(values: np.ndarray, key: str) -> tuple[np.ndarray, list[Finding]]:
    numbers = values.astype(np.float64) if values.dtype.kind == "f" else values
    positive, negative, broken = numbers > 0, (numbers < 0).any(-1), ~np.isfinite(numbers).all(-1)
    hits = positive.sum(-1)
    odd = (positive & (numbers != 1)).any(-1) & ~broken
    labels = np.where((hits == 1) & ~negative & ~broken & ~odd, positive.argmax(-1), -1).astype(np.int64)
    cases = (
        ("label-nan", "label rows holding NaN or inf", broken),
        ("label-negative", "label rows with a negative entry", negative),
        (
            "label-empty",
            "label rows without any positive entry (the official readers shift all later labels)",
            hits == 0,
        ),
        ("label-soft", "label rows with entries other than 0 and 1", odd),
        ("label-two-hot", "label rows with more than one positive entry", (hits > 1) & ~odd),
    )
    found = []
    seen = np.zeros(len(values), bool)
    for code, what, rows in cases:
        fresh = rows & ~seen
        seen |= rows
        if fresh.any():
            found.append(rows_finding(code, ERROR, what, where=key, rows=np.flatnonzero(fresh).tolist(), next_step=_REPAIR))
    return labels, found


def _integers(values: np.ndarray, key: str) -> tuple[np.ndarray, list[Finding]]:
    whole = np.isfinite(values) & (values == np.floor(values)) if values.dtype.kind == "f" else np.ones(len(values), bool)
    safe = np.where(whole, values, -1)
    negative = whole & (safe < 0)
    large = whole & (safe >= MAX_CLASSES)
    labels = np.where(whole & ~negative & ~large, safe, -1).astype(np.int64)
    cases = (
        ("label-fraction", "labels that are not whole numbers", ~whole),
        ("label-negative", "negative labels", negative),
        ("label-range", f"labels of {MAX_CLASSES} and more", large),
    )
    found = [
        rows_finding(code, ERROR, what, where=key, rows=np.flatnonzero(rows).tolist(), next_step=_REPAIR)
        for code, what, rows in cases
        if rows.any()
    ]
    return labels, found


def class_count(splits: dict[str, tuple[np.ndarray, int | None]], given: int | None) -> tuple[int, list[Finding]]:
    """The number of classes, and what speaks against it.

    splits  key of the labels -> (labels, one-hot width)
    given   what the user says; labels beyond it are an error. Else the one-hot width, else the largest label + 1.
    """
    findings: list[Finding] = []
    widths = {key: width for key, (_, width) in splits.items() if width is not None}
    largest = max((int(labels.max()) for labels, _ in splits.values() if len(labels)), default=-1)
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{key} has {width}" for key, width in widths.items())
        findings.append(Finding("label-width", ERROR, f"train and test differ in their number of classes: {told}", told))
    count = given if given is not None else max(widths.values(), default=largest + 1)
    for key, width in widths.items():
        if given is not None and width != given:
            findings.append(
                Finding(
                    "label-width", ERROR, f"{key} has {width} label columns, {given} classes were asked for", key,
                    next_step="give the right number of classes, or remove the extra column",
                )
            )  # fmt: skip
        elif given is None and width - 1 in _KNOWN and width not in _KNOWN:
            findings.append(
                Finding(
                    "label-width", WARNING, f"{width} label columns, one more than the known {width - 1} classes", key,
                    next_step="if the labels count from 1 or have a background column, remove the extra column",
                )
            )  # fmt: skip
    for key, (labels, _) in splits.items():
        beyond = np.flatnonzero(labels >= count)
        if len(beyond):
            text = f"labels outside the {count} classes 0..{count - 1} (largest: {int(labels.max())})"
            findings.append(rows_finding("label-range", ERROR, text, where=key, rows=beyond.tolist(), next_step=_REPAIR))
    findings += _odd_ids(splits, count, fixed=given is not None or bool(widths))
    every = np.concatenate([labels[labels >= 0] for labels, _ in splits.values()]) if splits else np.zeros(0, np.int64)
    if len(every) and every.min() == 1 and not widths and every.max() == count - 1:
        findings.append(
            Finding(
                "label-from-one", WARNING, "no clip has label 0: the labels may count from 1", ", ".join(splits),
                next_step="class ids count from 0; subtract 1 if yours count from 1",
            )
        )  # fmt: skip
    return count, findings


def _odd_ids(splits: dict[str, tuple[np.ndarray, int | None]], count: int, *, fixed: bool) -> list[Finding]:
    """Warnings about a class count that one odd id may have made: each id costs an output of the network, used or not.

    fixed  the count was given or is a number of columns; then no label can have made it.
    """
    findings = []
    if count > MANY_CLASSES:
        text = f"{count:,} classes: a confusion matrix of {count * count:,} entries, and a network with as many outputs"
        findings.append(Finding("class-many", WARNING, text, next_step="say how many there are, or correct the labels"))
    if fixed or len(splits) < 2:
        return findings
    for key, (labels, _) in splits.items():
        rest = max((int(other.max()) for name, (other, _) in splits.items() if name != key and len(other)), default=-1)
        beyond = np.flatnonzero(labels > rest)
        unused = count - len(np.unique(np.concatenate([ids[ids >= 0] for ids, _ in splits.values()])))
        # Classes that only one split has are usual in zero-shot splits; those leave no holes between the ids.
        if rest >= 0 and len(beyond) and unused > max(5, rest + 1):
            text = (
                f"labels up to {int(labels.max())}, the other split ends at {rest}: {unused:,} of {count:,} classes have no clip"
            )
            step = "if the ids are typing errors, correct them; else say how many classes there are"
            findings.append(rows_finding("label-far", WARNING, text, where=key, rows=beyond.tolist(), next_step=step))
    return findings
