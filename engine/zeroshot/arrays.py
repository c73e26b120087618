"""One array, one .npy file: read without pickle and held to be what it should be, written whole or not at all."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.storage import write_atomically
from shared_data.errors import DataError, MissingInputError
from shared_data.findings import INFO, Finding, name_rows
from shared_data.formats.npy import Npy


def require_files(folder: Path, names: list[str]) -> None:
    """Raises `MissingInputError` that names all of the files that are not in `folder`."""
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise MissingInputError(
            f"missing {'file' if len(missing) == 1 else 'files'}: {', '.join(missing)}" if folder.is_dir() else "no such folder",
            where=str(folder),
            expected=", ".join(names),
            next_step="copy or make the features again; the folder and the files have the names of the official code",
        )


def read_table(path: Path, *, width: int | None = None) -> tuple[NDArray[np.float32], tuple[Finding, ...]]:
    """(N, D) float32 of a file, and a finding if it holds floats of another size; N and D at least 1.

    width  D, if it is known
    Raises `DataError` with the file and the reason: no floats, not two axes, no rows, another width, rows of zeros or of
    numbers that are none.
    """
    file = Npy(path)
    if file.dtype.kind != "f":
        raise DataError(f"an array of {file.dtype}", where=str(path), expected="float32", next_step="save it with .astype('f4')")
    if len(file.shape) != 2 or 0 in file.shape or (width is not None and file.shape[1] != width):
        raise DataError(f"an array of shape {file.shape}", where=str(path), expected=f"(N, {width or 'D'}), at least one row")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(file.read(), np.float32)
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise DataError(
            f"NaN or infinite numbers in {len(bad)} of {len(values)} rows",
            where=f"{path}: {name_rows(bad.tolist())}",
            expected="finite numbers in the range of float32",
            next_step="make these rows again; nothing is left out silently",
        )
    if len(empty := np.flatnonzero(~values.any(1))):
        raise DataError(
            f"{len(empty)} of {len(values)} rows are all zeros", where=f"{path}: {name_rows(empty.tolist())}",
            expected="numbers that say something of each row", next_step="make these rows again",
        )  # fmt: skip
    told = Finding("float-size", INFO, f"{file.dtype} is used as float32", str(path), len(values))
    return values, () if file.dtype.itemsize == values.itemsize else (told,)


def read_labels(path: Path, count: int, classes: int) -> NDArray[np.int64]:
    """(N,) int64 of a file that belongs to `count` rows. Raises `DataError` for anything else."""
    file = Npy(path)
    if file.dtype.kind not in "iu":
        raise DataError(f"labels of {file.dtype}", where=str(path), expected="integers", next_step="save them with .astype('i8')")
    if file.shape != (count,):
        raise DataError(f"labels of shape {file.shape}", where=str(path), expected=f"({count},), one for each row of features")
    labels = file.read()
    beyond = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(beyond):
        raise DataError(
            f"{len(beyond)} labels are no class numbers, such as {labels[beyond[0]]}",
            where=f"{path}: {name_rows(beyond.tolist())}",
            expected=f"0 .. {classes - 1}, counted from 0",
        )
    return np.asarray(labels, np.int64)


def as_npy(values: NDArray[np.float32] | NDArray[np.int64]) -> bytes:
    """The content of an .npy file."""
    buffer = BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def write_array(path: Path, values: NDArray[np.float32] | NDArray[np.int64]) -> None:
    """Write one .npy file; raises `SaveError`."""
    write_atomically(path, as_npy(values))
