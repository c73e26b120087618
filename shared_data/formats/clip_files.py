"""One recording per file, CSV, NPY or JSON, to a clip (T, M, V, 3): the kinds of file that people make themselves."""

from __future__ import annotations

import json
import re
from io import BytesIO
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from shared_data.errors import DataError
from shared_data.formats.npy import read_array, read_header
from shared_data.skeletons import SKELETONS, Skeleton, with_joints

SUFFIXES = (".csv", ".npy", ".json")
MAX_CLIP_BYTES = 64 << 20
MAX_FRAMES = 20_000
MAX_PEOPLE = 8
MAX_LINE = 1 << 16  # characters of a line of a CSV; 8 people of 25 joints have 600 numbers
_MISSING = ("", "na", "n/a", "#n/a", "none", "null", "nil", "missing", "-", "--", "?", ".")  # how tables write "no value"
_JSON_KEYS = ("skeletons", "keypoints")
_LINE_END = re.compile(r"\r\n|\n|\r")
_ARRAY = "frames x joints x 3, or frames x people x joints x 3"


def parse(name: str, data: bytes, where: str) -> np.ndarray:
    """The numbers of the file `name`, float64: (T, n) of a CSV, (T, V, 3) or (T, M, V, 3) of the others if all is well.

    `clip_of` judges the shape. Raises `DataError` naming `where` and, for a CSV, the line.
    """
    suffix = PurePosixPath(name).suffix.lower()
    return {".csv": _csv, ".npy": _npy, ".json": _json}[suffix](data, where)


def skeleton_of(values: np.ndarray, where: str) -> Skeleton:
    """The only layout that `values` (what `parse` returns) fits. Raises `DataError` if there is none, or more than one."""
    known = ", ".join(f"{layout.joints} ({layout.name})" for layout in SKELETONS.values())
    if values.ndim == 2:
        width = values.shape[1]
        fits = [s for s in SKELETONS.values() if width % (3 * s.joints) == 0 and 1 <= width // (3 * s.joints) <= MAX_PEOPLE]
        what, expected = f"{width} numbers per frame", f"people x joints x 3, with one of these numbers of joints: {known}"
    else:
        count = values.shape[-2] if values.ndim in (3, 4) else 0
        found = with_joints(count)
        fits = [found] if found else []
        what, expected = f"an array of shape {values.shape}", f"{_ARRAY}, with one of these numbers of joints: {known}"
    if len(fits) > 1:
        names = " or ".join(layout.name for layout in fits)
        raise DataError(
            f"{what} may be {names}", where=where, expected="a file dataset.toml beside labels.csv that says which",
            next_step=f'write this line into dataset.toml: skeleton = "{fits[0].name}"',
        )  # fmt: skip
    if not fits:
        raise DataError(f"{what} fit no known skeleton", where=where, expected=expected, next_step=_advice(values, None))
    return fits[0]


def clip_of(values: np.ndarray, skeleton: Skeleton, where: str) -> np.ndarray:
    """What `parse` returns as (T, M, V, 3). Raises `DataError` if the shape does not fit `skeleton`."""
    joints = skeleton.joints
    clip = values
    if values.ndim == 2 and values.shape[1] % (3 * joints) == 0:
        clip = values.reshape(len(values), -1, joints, 3)
    elif values.ndim == 3:
        clip = values[:, None]
    if clip.ndim == 4 and clip.shape[2:] == (joints, 3) and 1 <= clip.shape[1] <= MAX_PEOPLE and 1 <= len(clip) <= MAX_FRAMES:
        return clip
    found, expected = f"an array of shape {values.shape}", f"{_ARRAY}, {joints} joints ({skeleton.name})"
    if values.ndim == 2:
        found, expected = f"{values.shape[1]} numbers per frame", f"{3 * joints} per person: {joints} joints ({skeleton.name})"
    if values.ndim > 1 and not 1 <= len(values) <= MAX_FRAMES:
        found, expected = f"{len(values)} frames", f"1 to {MAX_FRAMES:,}"
    raise DataError(found, where=where, expected=f"{expected}; at most {MAX_PEOPLE} people", next_step=_advice(values, skeleton))


def _advice(values: np.ndarray, skeleton: Skeleton | None) -> str:
    """What probably happened to an array of an unexpected shape; "" if there is no guess."""
    counts = {skeleton.joints} if skeleton else {layout.joints for layout in SKELETONS.values()}
    shape = values.shape
    if values.ndim == 2:
        width = shape[1] - 1
        frame_number = any(width and width % (3 * count) == 0 for count in counts)
        return "is the first column a frame number or a time? Leave it out" if frame_number else ""
    if shape[-1:] == (2,):
        return "a joint needs three coordinates: append 0 (or the score) to each x, y"
    if len(shape) == 4 and shape[0] <= MAX_PEOPLE < shape[1]:
        return "people come before frames here: save np.swapaxes(clip, 0, 1)"
    if shape[-1:] != (3,) and 3 in shape:
        return "coordinates must be the last axis: see np.moveaxis"
    return ""


def delimiter_of(line: str) -> str | None:
    """The most frequent of comma, semicolon and tab in a line; None (white space) if it has none of them."""
    best = max(",;\t", key=line.count)
    return best if best in line else None


def lines_of(data: bytes, where: str, *, most: int = 0) -> list[str]:
    """Text without its last line ends. Raises `DataError` unless it is UTF-8.

    most  lines to divide it into, the last one holding all the rest; 0: as many as there are
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is not UTF-8 text", where=where, expected="a text file in UTF-8") from None
    return _LINE_END.split(text.rstrip(), maxsplit=max(0, most - 1))


def header_of(name: str, data: bytes) -> str:
    """The first line of the file `name` if `parse` leaves it out as a header, else ""."""
    if PurePosixPath(name).suffix.lower() != ".csv":
        return ""
    start = data[: 4 * (MAX_LINE + 1)]  # a character has at most four bytes
    line = _LINE_END.split(start.decode("utf-8-sig", "replace"), maxsplit=1)[0]
    return line if _is_header(line, delimiter_of(line)) else ""


def _is_header(line: str, delimiter: str | None) -> bool:
    """Whether it names columns: it holds a word, and nothing that may be a frame (a number, or only missing values)."""
    cells = line.split(delimiter)
    words = (cell.strip(" \t\"'").lower() for cell in cells)
    return any(word not in _MISSING for word in words) and not any(map(_is_number, cells))


def _csv(data: bytes, where: str) -> np.ndarray:
    """(T, n): one line per frame. A first line that names columns is a header and left out."""
    lines = lines_of(data, where, most=MAX_FRAMES + 2)  # a header, the frames, and what there is too much
    long = next((number for number, line in enumerate(lines, 1) if len(line) > MAX_LINE), 0)
    if len(lines) > MAX_FRAMES + 1:
        raise DataError("too many lines", where=where, expected=f"at most {MAX_FRAMES:,} frames, one line each")
    if long:
        found = f"a line of {len(lines[long - 1]):,} characters"
        raise DataError(found, where=f"{where}, line {long}", expected=f"at most {MAX_LINE:,}: one frame per line")
    delimiter = delimiter_of(lines[0])
    first = int(_is_header(lines[0], delimiter))
    if not any(line.strip() for line in lines[first:]):
        raise DataError("no frames", where=where, expected="one line of numbers per frame")
    rows = lines[first:]
    try:
        if all(line.strip() for line in rows):  # else the parser would leave out the empty ones
            values: np.ndarray = np.loadtxt(rows, np.float64, comments=None, delimiter=delimiter, ndmin=2)
            return values
    except ValueError:
        pass
    raise _bad_line(rows, first + 1, delimiter, where)


def _bad_line(rows: list[str], number: int, delimiter: str | None, where: str) -> DataError:
    """The error about the first line that is not as many numbers as the line before; `rows` begin at line `number`."""
    width = len(rows[0].split(delimiter))
    for line, row in enumerate(rows, number):
        at, cells = f"{where}, line {line}", row.split(delimiter)
        if not row.strip():
            return DataError("an empty line", where=at, expected="one line of numbers per frame; zeros for absent people")
        if len(cells) != width:
            return DataError(f"{len(cells)} numbers", where=at, expected=f"{width}, as in line {number}")
        if _all_numbers(cells):
            continue
        for column, cell in enumerate(cells, 1):
            if not _is_number(cell):
                return DataError(
                    f"{cell.strip()[:40]!r} is not a number", where=f"{at}, column {column}",
                    expected="numbers with a decimal point; nan for a joint that was not seen",
                )  # fmt: skip
    return DataError("the numbers cannot be read", where=where, expected="lines of numbers, separated by commas")


def _is_number(cell: str) -> bool:
    return _all_numbers([cell])


def _all_numbers(cells: list[str]) -> bool:
    if any("_" in cell for cell in cells):  # Python would take 1_0 for 10
        return False
    try:
        list(map(float, cells))
    except ValueError:
        return False
    return True


def _npy(data: bytes, where: str) -> np.ndarray:
    stream = BytesIO(data)
    header = read_header(stream, len(data), where)
    if header.dtype.kind not in "biuf":
        raise DataError(f"elements of type {header.dtype}", where=where, expected="numbers")
    with np.errstate(invalid="ignore"):  # some kinds of NaN
        return read_array(stream, header).astype(np.float64)


def _json(data: bytes, where: str) -> np.ndarray:
    """A nested list, or an object that has one under "skeletons" or "keypoints"; null is a missing value, as NaN is.

    A key that occurs twice, both keys, and values that only look like numbers ("1.5", true) are refused: which of them is
    meant cannot be told.
    """
    expected = f"nested lists {_ARRAY}, or an object that has them under {' or '.join(_JSON_KEYS)}"
    try:
        values = json.loads(data, object_pairs_hook=_object)
    except _TwiceError as error:
        raise DataError(f"the key {error.args[0]!r} occurs twice in an object", where=where, expected="each key once") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {str(error)[:120]}", where=where, expected=expected) from None
    if isinstance(values, dict):
        keys = [key for key in _JSON_KEYS if key in values]
        if len(keys) > 1:
            raise DataError(f"both keys, {' and '.join(keys)}", where=where, expected=expected)
        if not keys:
            found = ", ".join(name[:40] for name in list(values)[:8])
            raise DataError(f"an object without the key {' or '.join(_JSON_KEYS)}: {found}", where=where, expected=expected)
        values = values[keys[0]]
    if _types_in(values) & {str, bool, dict}:
        raise DataError(_odd_frame(values), where=where, expected=expected)
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise DataError(_odd_frame(values), where=where, expected=expected) from None


class _TwiceError(Exception):
    """The key that occurs twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises `_TwiceError`."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise _TwiceError(key[:40])
        made[key] = value
    return made


def _types_in(values: object) -> set[type]:
    """The types of everything in nested lists but the lists."""
    found: set[type] = set()
    level = [values]
    while level:  # one pass per depth, without a Python step for each number
        found |= set(map(type, level))
        level = list(chain.from_iterable(value for value in level if type(value) is list))
    return found - {list}


def _odd_frame(values: object) -> str:
    """Which frame cannot be read or differs from the first."""
    shapes = []
    for number, frame in enumerate(values if isinstance(values, list) else []):
        types = _types_in(frame)
        for kind, what in ((str, "text"), (bool, "true or false"), (dict, "an object")):
            if kind in types:
                return f"frame {number} holds {what}, not only numbers"
        try:
            shapes.append(np.array(frame, np.float64).shape)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return f"frame {number} holds joints of unequal length"
        if shapes[-1] != shapes[0]:
            return f"frame {number} has shape {shapes[-1]}, the first has {shapes[0]}"
    return "values that are not numbers"
