"""What lies beside the clips of a folder of own recordings: labels.csv, and dataset.toml or dataset.yaml."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from shared_data.classes import class_names
from shared_data.errors import DataError, LabError, nearest
from shared_data.findings import INFO, Finding
from shared_data.formats import labels as label_rows
from shared_data.formats.clip_files import delimiter_of, lines_of
from shared_data.formats.options import MAX_CLASSES
from shared_data.skeletons import Skeleton, skeleton

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LABELS = "labels.csv"
DESCRIPTIONS = ("dataset.toml", "dataset.yaml", "dataset.yml")
MAX_DESCRIPTION = 64 << 10  # bytes; parsers of TOML take memory that grows with the square of a key's length
MAX_DOTS = 8  # of one key; none of ours has any
SPLITS = ("train", "test")
UNITS = {"m": 1.0, "cm": 100.0, "mm": 1000.0}  # how many of them are one metre
_COLUMNS = ("file", "label", "split", "subject")


@dataclass(frozen=True)
class Entry:
    """A line of labels.csv. `split` is "train", "test" or "" if there is no such column, `subject` likewise."""

    file: str
    label: str
    split: str
    subject: str
    line: int


@dataclass(frozen=True)
class Description:
    """dataset.toml: everything in it may be left out.

    skeleton  None: to be found out from the number of joints
    per_metre how many units of the files are one metre
    classes   names in the order of their class ids; empty: as labels.csv says
    """

    name: str = ""
    about: str = ""
    skeleton: Skeleton | None = None
    per_metre: float = 1.0
    classes: tuple[str, ...] = ()


def read_labels(data: bytes, where: str) -> tuple[list[Entry], list[Finding]]:
    """The lines of labels.csv in their order. Raises `DataError` naming the line of anything malformed or doubled."""
    expected = "a first line `file,label` (further columns: split, subject), then a line per clip"
    lines = lines_of(data, where)
    try:
        reader = csv.reader(lines, delimiter=delimiter_of(lines[0]) or ",", strict=True)
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(f"not a table: {error}", where=where, expected=expected) from None
    columns = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    doubled = [column for column in _COLUMNS if columns.count(column) > 1]
    if not {"file", "label"} <= set(columns) or doubled:
        found = ", ".join(columns)[:200] or "nothing"
        raise DataError(f"the first line names the columns {found}", where=f"{where}, line 1", expected=expected)
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for line, row in rows[1:]:
        at = f"{where}, line {line}"
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(columns):
            raise DataError(f"{len(row)} values", where=at, expected=f"{len(columns)}, as in line 1: {', '.join(columns)}")
        cells = {column: cell.strip() for column, cell in zip(columns, row, strict=True)}
        empty = [column for column in _COLUMNS if column in cells and not cells[column]]
        if empty:
            raise DataError(f"no {empty[0]}", where=at, expected=f"a {empty[0]} in every line")
        if cells.get("split", "train") not in SPLITS:
            word = cells["split"]
            raise DataError(f"unknown split {word[:40]!r}{nearest(word, SPLITS)}", where=at, expected=" or ".join(SPLITS))
        file = PurePosixPath(cells["file"].replace("\\", "/")).as_posix()
        if file in seen:
            raise DataError(f"{file} is listed twice", where=f"{where}, lines {seen[file]} and {line}", expected="each file once")
        seen[file] = line
        entries.append(Entry(file, cells["label"], cells.get("split", ""), cells.get("subject", ""), line))
    if not entries:
        raise DataError("no clips are listed", where=where, expected=expected)
    unread = [column for column in columns if column not in _COLUMNS]
    text = f"columns that nothing reads: {', '.join(unread)[:200]}"
    return entries, [Finding("column-extra", INFO, text, LABELS, len(unread))] if unread else []


def read_description(name: str, data: bytes, where: str) -> Description:
    """dataset.toml or dataset.yaml. Raises `DataError` for anything but the known keys with values of the right type."""
    values = _mapping(name, data, where)
    known = ("name", "about", "skeleton", "units", "classes")
    for key, value in values.items():
        if key not in known:
            raise DataError(f"unknown key {str(key)[:40]!r}{nearest(str(key), known)}", where=where, expected=", ".join(known))
        if key == "classes":
            if not _different_names(value):
                raise DataError("classes is not a list of different names", where=where, expected='["wave", "clap"]')
        elif not isinstance(value, str):
            raise DataError(f"{key} is of type {type(value).__name__}", where=where, expected="text in quotes")
    units = values.get("units", "m")
    if units not in UNITS:
        raise DataError(f"unknown units {units[:40]!r}", where=where, expected=", ".join(UNITS))
    layout = None
    if "skeleton" in values:
        try:
            layout = skeleton(values["skeleton"])
        except LabError as error:
            raise DataError(error.what, where=where, expected=error.expected) from None
    names = tuple(item.strip() for item in values.get("classes", ()))
    return Description(values.get("name", ""), values.get("about", ""), layout, UNITS[units], names)


def _different_names(value: object) -> bool:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CLASSES:
        return False
    names = [item.strip() if isinstance(item, str) else "" for item in value]
    return all(names) and len(set(names)) == len(names)


def _mapping(name: str, data: bytes, where: str) -> Mapping[str, Any]:
    if len(data) > MAX_DESCRIPTION:
        raise DataError(f"a file of {len(data):,} bytes", where=where, expected=f"at most {MAX_DESCRIPTION:,}")
    text = "\n".join(lines_of(data, where))
    try:
        if name.endswith(".toml"):
            if _DOTTED.search(_TOML_TEXT.sub("_", text)):
                raise ValueError(f"a key of more than {MAX_DOTS} dots")
            return tomllib.loads(text)
        import yaml

        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            _check_keys(node)
            values = None if node is None else loader.construct_document(node)
        except (yaml.YAMLError, AttributeError, KeyError, IndexError, TypeError) as error:  # odd tags raise all of these
            raise ValueError(str(error)) from None
    except (ValueError, RecursionError, MemoryError) as error:  # TOML's own error is a ValueError
        said = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(f"cannot be read: {said}", where=where) from None
    if not isinstance(values or {}, dict):
        raise DataError("not a list of `key: value` lines", where=where, expected="name, skeleton, units, classes")
    return values or {}


# What may hold dots but is no key: text in its four forms, and comments. Each becomes one word, as quoted keys may have dots.
_TOML_TEXT = re.compile(r'"""(?:[^\\]|\\.)*?"""|"(?:[^"\\\n]|\\.)*"' r"|'''.*?'''|'[^'\n]*'|#[^\n]*", re.DOTALL)
_DOTTED = re.compile(r"(?<![\w-])(?:[\w-]+[ \t]*\.[ \t]*){" + str(MAX_DOTS + 1) + "}")


def _check_keys(root: Any) -> None:
    """Raise ValueError for a YAML key that occurs twice, and for merged mappings, which can grow without end.

    root  the node of the document, None if it is empty; nodes may be shared or hold themselves
    """
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen or isinstance(node.value, str):
            continue
        seen.add(id(node))
        if node.id == "sequence":
            waiting += node.value
            continue
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key.value, str)]
        if any(tag == "tag:yaml.org,2002:merge" for tag, _ in keys):
            raise ValueError("a merged mapping (<<)")
        twice = next((key for (_, key), count in Counter(keys).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"the key {twice[:40]!r} occurs twice")
        waiting += chain.from_iterable(node.value)


def class_ids(
    entries: list[Entry], names: tuple[str, ...], given: int | None, where: str
) -> tuple[np.ndarray, tuple[str, ...], list[Finding]]:
    """The class id of every entry (N,), the names of the classes, and what was noticed.

    names  the classes in order; if empty, labels that are all whole numbers are ids, other labels are names, sorted
    given  the number of classes the user asked for
    Raises `DataError` naming the line of a label that is neither.
    """
    numbers = [bool(re.fullmatch(r"[+-]?\d+", entry.label)) for entry in entries]
    findings: list[Finding] = []
    if not names and all(numbers):
        ids = np.array([_class_number(entry, MAX_CLASSES, where) for entry in entries], np.int64)
        count, findings = label_rows.class_count({LABELS: (ids, None)}, given)
        return ids, class_names(count), findings
    if not names:
        if any(numbers):
            entry = entries[numbers.index(not numbers[0])]
            first = f"line {entries[0].line} has {entries[0].label[:40]!r}"
            raise DataError(
                f"label {entry.label[:40]!r}, but {first}: names or numbers?", where=f"{where}, line {entry.line}",
                expected="names in all lines or class numbers in all lines",
                next_step="or list the names as classes = [...] in dataset.toml; numbers then mean positions in it, from 0",
            )  # fmt: skip
        names = tuple(sorted({entry.label for entry in entries}))
        told = ", ".join(f"{number} {name}" for number, name in enumerate(names[:8])) + (" ..." if len(names) > 8 else "")
        findings.append(Finding("classes-sorted", INFO, f"{len(names)} classes, numbered in alphabetical order: {told}", LABELS))
    if given not in (None, len(names)):
        raise DataError(f"{given} classes were asked for", where=where, expected=f"{len(names)}, as there are names")
    position = {name: number for number, name in enumerate(names)}
    ids = np.zeros(len(entries), np.int64)
    for n, entry in enumerate(entries):
        if entry.label in position:
            ids[n] = position[entry.label]
        elif numbers[n]:
            ids[n] = _class_number(entry, len(names), where)
        else:
            raise DataError(
                f"unknown class {entry.label[:40]!r}{nearest(entry.label, names)}", where=f"{where}, line {entry.line}",
                expected=f"one of the {len(names)} classes of the data set's description",
            )  # fmt: skip
    return ids, names, findings


def _class_number(entry: Entry, classes: int, where: str) -> int:
    if not re.fullmatch(r"\+?[0-9]{1,6}", entry.label) or int(entry.label) >= classes:
        at = f"{where}, line {entry.line}"
        raise DataError(f"{entry.label[:40]} is no class number", where=at, expected=f"0 to {classes - 1}")
    return int(entry.label)
