"""One recording per file, CSV, NPY or JSON, to a clip (T, M, V, 3): the kinds of file that people make themselves."""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np

from shared_data.errors import DataError
from shared_data.formats.npy import read_array, read_header
from shared_data.skeletons import SKELETONS, Skeleton, with_joints

SUFFIXES = (".csv", ".npy", ".json")
MAX_CLIP_BYTES = 64 << 20
MAX_FRAMES = 20_000
MAX_PEOPLE = 8
_JSON_KEYS = ("skeletons", "keypoints")
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


def lines_of(data: bytes, where: str) -> list[str]:
    """Text without its last line ends. Raises `DataError` unless it is UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is not UTF-8 text", where=where, expected="a text file in UTF-8") from None
    return re.split(r"\r\n|\n|\r", text.rstrip())


def _csv(data: bytes, where: str) -> np.ndarray:
    """(T, n): one line per frame. A first line without any number is a header and left out."""
    lines = lines_of(data, where)
    delimiter = delimiter_of(lines[0])
    first = 0 if any(_is_number(cell) for cell in lines[0].split(delimiter)) else 1
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
        for column, cell in enumerate(cells, 1):
            if not _is_number(cell):
                return DataError(
                    f"{cell.strip()[:40]!r} is not a number", where=f"{at}, column {column}",
                    expected="numbers with a decimal point; nan for a joint that was not seen",
                )  # fmt: skip
    return DataError("the numbers cannot be read", where=where, expected="lines of numbers, separated by commas")


def _is_number(cell: str) -> bool:
    if "_" in cell:  # Python would take 1_0 for 10
        return False
    try:
        float(cell)
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
    """A nested list, or an object that has one under "skeletons" or "keypoints"; null is a missing value, as NaN is."""
    expected = f"nested lists {_ARRAY}, or an object that has them under {' or '.join(_JSON_KEYS)}"
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {str(error)[:120]}", where=where, expected=expected) from None
    if isinstance(values, dict):
        key = next((key for key in _JSON_KEYS if key in values), None)
        if key is None:
            found = ", ".join(name[:40] for name in list(values)[:8])
            raise DataError(f"an object without the key {' or '.join(_JSON_KEYS)}: {found}", where=where, expected=expected)
        values = values[key]
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise DataError(_odd_frame(values), where=where, expected=expected) from None


def _odd_frame(values: object) -> str:
    """Which frame cannot be read or differs from the first."""
    shapes = []
    for number, frame in enumerate(values if isinstance(values, list) else []):
        try:
            shapes.append(np.array(frame, np.float64).shape)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return f"frame {number} holds text or joints of unequal length"
        if shapes[-1] != shapes[0]:
            return f"frame {number} has shape {shapes[-1]}, the first has {shapes[0]}"
    return "values that are not numbers"
