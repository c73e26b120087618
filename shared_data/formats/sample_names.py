"""Names and labels that lie beside arrays: taken from plain or pickled values, and held against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from shared_data.errors import DataError
from shared_data.findings import ERROR, WARNING, Finding, rows_finding
from shared_data.formats.pickled_numpy import PickledArray
from shared_data.protocols import ntu_name

MAX_NAME = 512  # characters


def texts_in(values: Any, where: str) -> list[str]:
    """A pickled list or array of short text as it is. Raises `DataError` for anything else, and for text that holds NUL.

    Arrays of text drop NUL at the end: two names that differ in nothing else would become one.
    """
    if isinstance(values, PickledArray):
        values = values.array().tolist() if len(values.shape) == 1 else None
    if not isinstance(values, (list, tuple)) or not all(isinstance(name, str) and 0 < len(name) <= MAX_NAME for name in values):
        raise DataError("no list of names", where=where, expected="a list of text, one name per clip")
    nul = next((name for name in values if "\0" in name), None)
    if nul is not None:
        raise DataError(
            f"the name {nul[:60]!r} holds NUL (a character of value 0)", where=where, expected="names of printable characters",
            next_step="remove the NUL characters from the names at their source",
        )  # fmt: skip
    return list(values)


def file_names_in(values: Any, where: str) -> list[str]:
    """Sample names from a pickled list of file names: folders and ``.skeleton`` are no part of a name. Raises `DataError`."""
    return [PurePosixPath(name.replace("\\", "/")).name.removesuffix(".skeleton") for name in texts_in(values, where)]


def numbers_in(values: Any, where: str) -> np.ndarray:
    """Labels or counts from a pickled list of numbers or array: an array of any numeric type. Raises `DataError`."""
    expected = "a list or an array of numbers, one per clip"
    if isinstance(values, PickledArray):
        array = values.array()
    elif isinstance(values, (list, tuple)) and all(isinstance(value, (int, float)) for value in values):
        array = np.array([value if -(2**62) < value < 2**62 else -1 for value in values])
    else:
        raise DataError("no list of numbers", where=where, expected=expected)
    if array.dtype.kind not in "biuf":
        raise DataError(f"elements of type {array.dtype}", where=where, expected=expected)
    return array


def renumbered(parts: Iterable[tuple[list[str], np.ndarray]]) -> dict[int, int]:
    """Label -> action (from 1) of the NTU names, if the labels number the actions anew; {} if they do not.

    parts  names and labels of every split: a subset of the actions is numbered once for the whole file
    They do if each action has one label of its own and some label is not the usual one (A001 = label 0). At least one action
    must occur twice: where each occurs once, any mistake would look like another numbering. Clips without a label (-1) and
    with other names say nothing.
    """
    pairs = [
        (name.action, int(label))
        for names, labels in parts
        for name, label in zip(map(ntu_name, names), labels.tolist(), strict=False)
        if name and label != -1
    ]
    different = set(pairs)
    actions, numbers = {action for action, _ in different}, {label for _, label in different}
    if len(pairs) == len(different) or not len(actions) == len(numbers) == len(different):
        return {}
    anew = {label: action for action, label in different}
    return anew if any(action != label + 1 for label, action in anew.items()) else {}


def names_by_action(anew: Mapping[int, int], classes: int) -> tuple[str, ...]:
    """A061 ... for the classes of `renumbered` labels, ``class 7`` for a class without clips."""
    return tuple(f"A{anew[label]:03d}" if label in anew else f"class {label}" for label in range(classes))


def name_findings(names: list[str], labels: np.ndarray, where: str, *, anew: bool = False) -> list[Finding]:
    """What is wrong with names and labels of the same clips, in the same order.

    "name-twice": a name that occurs again. "label-name": an NTU name whose action (A001 = label 0) is not the label, which
    tells for certain that names and labels were shifted or sorted apart - unless the labels number the actions `anew`, as
    `renumbered` finds over all splits: then it is the warning "label-renumbered".
    """
    findings = []
    count = Counter(names)
    twice = [row for row, name in enumerate(names) if count[name] > 1]
    if twice:
        text = f"clips of the same name, {names[twice[0]]} and others"
        step = "remove the copies; which of them is meant cannot be told"
        findings.append(rows_finding("name-twice", ERROR, text, where=where, rows=twice, next_step=step))
    parsed = [ntu_name(name) for name in names]
    wrong = [
        row
        for row, (name, label) in enumerate(zip(parsed, labels.tolist(), strict=False))
        if name and label not in (-1, name.action - 1)
    ]
    if wrong:
        first = wrong[0]
        text = f"labels that are not the action in the sample's name ({names[first]} has label {labels[first]}, counted from 0)"
        if anew:
            code, severity = "label-renumbered", WARNING
            text += "; each action has one label of its own: taken for a subset that was numbered anew"
            step = "the usual class numbers and names do not hold for this file, nor do weights trained with them"
        else:
            code, severity = "label-name", ERROR
            step = "names, labels or clips were put in another order; make the file again"
        findings.append(rows_finding(code, severity, text, where=where, rows=wrong, next_step=step))
    return findings


def row_names(split: str, clips: int) -> np.ndarray:
    """``train_0``, ``train_1`` ... for clips that have no names."""
    return np.array([f"{split}_{row}" for row in range(clips)], dtype="U")


def placed(error: DataError, path: Path) -> DataError:
    """The same error with `path` in its place, if it does not name it yet."""
    if str(path) in error.where:
        return error
    where = f"{path}, {error.where}" if error.where else str(path)
    return DataError(error.what, where=where, expected=error.expected, next_step=error.next_step)
