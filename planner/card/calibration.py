"""What a GPU takes beside the tensors, and how fast it is: one row for each GPU that was measured, one for all others.

Rows come with the software they were measured with and with their source. `sal calibrate` measures the GPU at hand and writes a
row into the user's own file, which goes before the rows in `calibration.csv`. Where nothing is known of a GPU, the row
"unknown" stands in, which is meant to be too high rather than too low.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from planner.card.cards import Card, same_size
from shared_data.atomic import WriteError, whole_file
from shared_data.errors import DataError

SHIPPED = Path(__file__).with_name("calibration.csv")
USER_FILE = "SAL_CALIBRATION"
"""The environment variable that names the user's file."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Calibration:
    """One row. Memory in MiB; rates as measured, None where they were not.

    gpu                 as the driver names it, or "unknown"
    gib                 as it is sold, or what the driver offers, rounded up; None for "unknown" alone
    torch, cuda         software it was measured with, "" where nothing was measured
    driver_mib          of the nominal size, what the driver keeps
    context_mib         CUDA context and kernels of one process
    workspace_mib       allocated beyond the traced tensors (workspaces of cuBLAS and cuDNN), typical
    workspace_high_mib  the most that is reckoned with
    fragmentation       reserved over allocated, typical
    fragmentation_high  the most that is reckoned with
    launch_us           microseconds of the host for one aten call of an eager training step
    bandwidth_gbs       GB/s of a large copy, read and written
    fp32_tflops, tf32_tflops, half_tflops   TFLOP/s of large matrix products
    cells               measured steps behind the row
    date, source        when and by what
    """

    gpu: str
    gib: float | None
    torch: str
    cuda: str
    driver_mib: float
    context_mib: float
    workspace_mib: float
    workspace_high_mib: float
    fragmentation: float
    fragmentation_high: float
    launch_us: float | None
    bandwidth_gbs: float | None
    fp32_tflops: float | None
    tf32_tflops: float | None
    half_tflops: float | None
    cells: int
    date: str
    source: str

    def __post_init__(self) -> None:
        numbers = [value for value in asdict(self).values() if isinstance(value, (int, float))]
        right = (
            all(math.isfinite(value) and value >= 0 for value in numbers)
            and self.workspace_mib <= self.workspace_high_mib
            and 1 <= self.fragmentation <= self.fragmentation_high
        )
        if not self.gpu or not right:
            raise ValueError(
                "numbers of 0 or more, workspace_mib not above workspace_high_mib, 1 <= fragmentation <= fragmentation_high"
            )
        if self.measured and not self.gib:
            raise ValueError("the memory of the GPU that was measured, in GiB")

    @property
    def measured(self) -> bool:
        """Whether this row is about a certain GPU."""
        return self.gpu != UNKNOWN

    def is_of(self, gpu: Card | str, gib: float) -> bool:
        """Whether it was measured on the card `gpu`, or on what a driver calls so, of about `gib` GiB."""
        if self.gib is None or not same_size(self.gib, gib):
            return False
        return gpu.is_called(self.gpu) if isinstance(gpu, Card) else _plain(gpu) == _plain(self.gpu)

    def sentence(self) -> str:
        """What the row takes from a card, for a person."""
        of = (
            f"measured on {self.gpu}, torch {self.torch}, {self.date}"
            if self.measured
            else "pessimistic: this GPU was not measured"
        )
        return (
            f"{self.driver_mib:.0f} MiB driver + {self.context_mib:.0f} CUDA context; up to {self.workspace_high_mib:.0f} MiB of "
            f"workspaces, then x {self.fragmentation_high:.2f} for fragmentation ({of})"
        )


FIELDS = tuple(field.name for field in fields(Calibration))
_TEXT = {"gpu", "torch", "cuda", "date", "source"}
_OPTIONAL = {field.name for field in fields(Calibration) if "None" in str(field.type)}


def header() -> str:
    """The first line of a calibration file."""
    return ",".join(FIELDS)


def as_csv(row: Calibration) -> str:
    """`row` as one line of a calibration file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(_plain_text(value) for value in asdict(row).values())
    return text.getvalue()


def _plain_text(value: object) -> str:
    """One that keeps a row on one line, and is no note."""
    return " ".join(("" if value is None else str(value)).encode("utf-8", "replace").decode().split()).lstrip("#")


def read(file: Path) -> list[Calibration]:
    """The rows of a calibration file; lines that begin with # are notes. Raises `DataError` (65) naming file and line."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the calibration file cannot be read: {error}", where=str(file)) from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    if not lines or next(csv.reader([lines[0][1]])) != list(FIELDS):
        raise DataError("no calibration file", where=str(file), expected=f"a first line of {header()}")
    return [_row(line, f"{file}, line {number}") for number, line in lines[1:]]


def _row(line: str, where: str) -> Calibration:
    try:
        values = next(csv.reader([line]))
        if len(values) != len(FIELDS):
            raise ValueError(f"{len(FIELDS)} values")
        return Calibration(**{name: _value(name, value) for name, value in zip(FIELDS, values, strict=True)})
    except (ValueError, csv.Error) as error:
        raise DataError(
            "a row of the calibration file is wrong", where=where, expected=str(error),
            next_step="mend or remove the line; sal calibrate writes it anew",
        ) from error  # fmt: skip


def _value(name: str, text: str) -> Any:
    if name in _TEXT:
        return text
    if name in _OPTIONAL and not text:
        return None
    return int(text) if name == "cells" else float(text)


def user_file() -> Path:
    """Where the rows of this machine are kept: $SAL_CALIBRATION, or calibration.csv in the user's folder of settings."""
    if named := os.environ.get(USER_FILE):
        return Path(named)
    settings = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(settings) / "skeleton-action-lab" / "calibration.csv"


@functools.lru_cache(maxsize=1)
def shipped() -> tuple[Calibration, ...]:
    """The rows that come with this repository."""
    return tuple(read(SHIPPED))


def known() -> list[Calibration]:
    """All rows, the user's own first, each file from its last line up."""
    own = user_file()
    return [*(reversed(read(own)) if own.is_file() else ()), *reversed(shipped())]


def row_for(gpu: Card | str | None, gib: float) -> Calibration:
    """The row of the card `gpu`, or of the GPU that a driver calls so, if one of `gib` GiB was measured; else `pessimistic()`.

    gpu   None for any GPU
    gib   as the card is sold or as the driver offers it
    """
    return next((row for row in known() if gpu is not None and row.is_of(gpu, gib)), pessimistic())


def pessimistic() -> Calibration:
    """The row for a GPU of which nothing is known."""
    return next(row for row in shipped() if row.gpu == UNKNOWN)


def _plain(name: str) -> str:
    """A GPU's name without what drivers and people put in front of it."""
    words = name.lower().replace("-", " ").split()
    return "".join(word for word in words if word not in ("nvidia", "geforce"))


def append(row: Calibration, file: Path | None = None) -> Path:
    """Write `row` to a calibration file (the user's own), in place of an earlier one of the same GPU and software.

    Raises `WriteError` (74).
    """
    target = file or user_file()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"no folder for the calibration file: {error.strerror}", where=str(target.parent)) from error
    with whole_file(target, kind="calibration file", replaceable=_is_calibration) as out:  # others wait behind its lock
        out.write("".join(f"{line}\n" for line in _with(row, target)).encode())
    return target


def _with(row: Calibration, file: Path) -> Iterator[str]:
    """The lines of `file`, notes too, with `row` at their end in place of one of the same GPU and software."""
    there = file.read_text(encoding="utf-8").splitlines() if file.is_file() else [header()]
    for line in there:
        if not line.strip() or line.startswith("#") or line == header() or not _same(_row(line, str(file)), row):
            yield line
    yield as_csv(row)


def _same(one: Calibration, row: Calibration) -> bool:
    same_gpu = one.gpu == row.gpu and (one.gib is None or row.gib is None or same_size(one.gib, row.gib))
    return same_gpu and (one.torch, one.cuda) == (row.torch, row.cuda)


def _is_calibration(file: Path) -> bool:
    try:
        read(file)
    except DataError:
        return False
    return True
