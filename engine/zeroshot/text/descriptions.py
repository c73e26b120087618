"""What the classes of a data set are called and how they look, in words: the texts that zero-shot recognition learns from.

Each class has three: its label (`lb`), the action in a sentence (`ad`), and the motion as a skeleton shows it (`md`: which body
parts move how). They are CSV files of two columns, ``idx,label`` or for motions ``idx,dcp``, in which idx counts from 1.
Ours are in ``sem_info/``, written for this project: 120 classes of NTU RGB+D, of which the first 60 are NTU-60, and 10 of
NW-UCLA. Source of the format: the zero-shot specification, section 2.1.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from shared_data.classes import NTU60, class_names
from shared_data.errors import DataError, MissingInputError, UsageError

Kind = Literal["lb", "ad", "md"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TEXT_COLUMN: dict[Kind, str] = {"lb": "label", "ad": "label", "md": "dcp"}
FOLDER = Path(__file__).parent / "sem_info"
OURS = {60: 120, 120: 120, 10: 10}  # classes -> classes of the file that they begin
LARGEST = 1 << 20  # bytes of a file


@dataclass(frozen=True)
class Descriptions:
    """One text of a `kind` per class, in the order of the classes.

    source  file they were read from
    sha256  of that file's bytes
    """

    kind: Kind
    texts: tuple[str, ...]
    source: Path
    sha256: str


def ours(kind: Kind, classes: int) -> Descriptions:
    """Our texts of `classes`: 60 or 120 of NTU RGB+D, 10 of NW-UCLA. Raises `UsageError` for another number."""
    if classes not in OURS:
        raise UsageError(
            f"there are no descriptions of a data set of {classes} classes",
            expected=", ".join(map(str, sorted(OURS))),
            next_step="give CSV files of your own",
        )
    found = read(FOLDER / f"{kind}_{OURS[classes]}.csv", kind, OURS[classes])
    return Descriptions(kind, found.texts[:classes], found.source, found.sha256)


def names(classes: int) -> tuple[str, ...]:
    """What people call the classes of a data set; ``class 0`` and so on where nobody knows."""
    return ours("lb", classes).texts if classes in OURS and classes != len(NTU60) else class_names(classes)


def read(path: Path, kind: Kind, classes: int) -> Descriptions:
    """The texts of `classes` in the CSV file `path`, each stripped of blanks at its ends; rows may be in any order.

    Raises `MissingInputError`, and `DataError` for a file that is no such table, in which a class is missing, stands twice or
    has no text, or in which two classes have the same text: nothing could tell them apart.
    """
    content = _content(path)
    column = TEXT_COLUMN[kind]
    try:
        rows = list(csv.reader(content.decode("utf-8-sig").splitlines(keepends=True), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"this is no CSV file: {error}", where=str(path), expected=f"UTF-8, columns idx,{column}") from None
    header = [name.strip() for name in rows[0]] if rows else []
    if header != ["idx", column]:
        raise DataError(
            f"the columns are {','.join(header)[:80] or 'missing'}", where=f"{path}, row 1", expected=f"idx,{column}",
            next_step="quote texts that hold commas, and name the columns so",
        )  # fmt: skip
    texts: dict[int, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        index = _index(row, f"{path}, row {number}", classes)
        if index in texts:
            raise DataError(f"class {index} stands twice", where=f"{path}, row {number}", expected="one row for each class")
        texts[index] = row[1].strip()
    _require_complete(texts, path, classes)
    ordered = tuple(texts[k] for k in range(1, classes + 1))
    return Descriptions(kind, ordered, path, hashlib.sha256(content).hexdigest())


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise MissingInputError(f"cannot read the descriptions: {error.strerror or error}", where=str(path)) from None
    if len(content) > LARGEST:
        raise DataError("the file is too large for descriptions", where=str(path), expected=f"at most {LARGEST:,} bytes")
    return content


def _index(row: list[str], where: str, classes: int) -> int:
    index = row[0].strip()
    if len(row) != 2 or not (index.isascii() and index.isdigit() and len(index) < 7 and 1 <= int(index) <= classes):
        raise DataError(
            f"{len(row)} columns, the first {row[0][:20]!r}", where=where, expected=f"a class in 1 .. {classes}, and its text",
            next_step="quote texts that hold commas",
        )  # fmt: skip
    return int(index)


def _require_complete(texts: dict[int, str], path: Path, classes: int) -> None:
    if missing := [k for k in range(1, classes + 1) if not texts.get(k)]:
        shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise DataError(
            f"{len(missing)} of {classes} classes have no text: {shown}",
            where=str(path),
            expected=f"idx 1 .. {classes}, each once",
        )
    first: dict[str, int] = {}
    for k, text in sorted(texts.items()):
        if first.setdefault(text, k) != k:
            raise DataError(
                f"classes {first[text]} and {k} have the same text", where=str(path), expected="texts that tell the classes apart"
            )
