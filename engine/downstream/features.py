"""Features of clips as the suite takes them: a row per clip, with its id and label, in memory or memory-mapped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared_data.errors import DataError
from shared_data.findings import name_rows
from shared_data.formats.npz import Npz

AT_A_TIME = 1 << 24  # bytes of rows that are looked at together


@dataclass(frozen=True)
class Features:
    """N clips of one part of a data set, seen by one encoder.

    ids     (N,) str
    labels  (N,) int64, from 0
    values  (N, D) float32, perhaps memory-mapped
    """

    ids: NDArray[np.str_]
    labels: NDArray[np.int64]
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        count = len(self.values)
        if self.values.ndim != 2 or self.ids.shape != (count,) or self.labels.shape != (count,) or not self.values.size:
            raise DataError(
                f"features {self.values.shape} with {self.labels.shape} labels and {self.ids.shape} ids",
                where="features", expected="(N, D), (N,) and (N,): a row, a label and an id for each of at least one clip",
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.values)

    def at(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Features:
        """The clips at `rows` (integers or a boolean mask), in that order; their values are copied."""
        return Features(self.ids[rows], self.labels[rows], self.values[rows])


def together(first: Features, second: Features) -> Features:
    """The clips of both. Raises `DataError` for features of different widths."""
    if first.values.shape[1] != second.values.shape[1]:
        raise DataError(
            f"features of {first.values.shape[1]} and of {second.values.shape[1]} numbers", where="two parts of one data set",
            expected="features of the same encoder",
        )  # fmt: skip
    return Features(*(np.concatenate([getattr(part, name) for part in (first, second)]) for name in ("ids", "labels", "values")))


def read(file: Path) -> Features:
    """One part of what `engine.feature_files` writes. Raises `DataError` or `MissingInputError`."""
    with Npz(file) as archive:
        if missing := {"ids", "labels", "features"} - set(archive.members):
            raise DataError(
                f"no {', '.join(sorted(missing))} in it",
                where=str(file),
                expected="a file of features, as sal features writes it",
            )
        found = Features(archive.read("ids"), archive.read("labels"), archive.read("features"))
    require_finite(found.values, str(file))
    return found


def require_finite(values: NDArray[np.float32], where: str) -> None:
    """Raises `DataError` that names the rows of (N, D) `values` that hold NaN or infinity."""
    step = max(AT_A_TIME // max(values[:1].nbytes, 1), 1)
    pieces = (~np.isfinite(values[first : first + step]).all(1) for first in range(0, len(values), step))
    if len(bad := np.flatnonzero(np.concatenate(list(pieces)))):
        raise DataError(
            f"NaN or infinite numbers in {len(bad)} of {len(values)} rows", where=f"{where}: {name_rows(bad.tolist())}",
            expected="finite numbers", next_step="encode these clips again; nothing is left out silently",
        )  # fmt: skip
