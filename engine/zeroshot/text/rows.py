"""Text features from files: one row for each class, of one or several descriptions of it.

``text_feats/ViT-B/16/lb_60.npy`` holds features (60, Dt) of the labels; ``ad`` are action descriptions, ``md`` motion
descriptions. Source: the specification, section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.zeroshot.arrays import read_table, require_files
from engine.zeroshot.task import joined_text
from shared_data.errors import DataError, UsageError, nearest
from shared_data.findings import WARNING, Finding

MODES = {"lb": ("lb",), "ad": ("ad",), "md": ("md",), "ad_md": ("ad", "md"), "lb_ad_md": ("lb", "ad", "md")}
UNEQUAL = 2.0  # times longer: rows of one description then outweigh those of another


@dataclass(frozen=True)
class TextRows:
    """`rows` (K, Dt) float32 of unit length, one per class, and what a person should know about the files."""

    rows: NDArray[np.float32]
    findings: tuple[Finding, ...] = ()


def file_names(mode: str, classes: int) -> list[str]:
    """The files of a `mode`, one per description. Raises `UsageError` for an unknown one."""
    if mode not in MODES:
        raise UsageError(f"no text mode is called {mode!r}{nearest(mode, MODES)}", expected=", ".join(MODES))
    return [f"{kind}_{classes}.npy" for kind in MODES[mode]]


def read(folder: Path, mode: str, classes: int) -> TextRows:
    """The text of all `classes` from the files in `folder`, that of one text tower; joined, then to unit length.

    Raises `MissingInputError` with all files that are missing, and `DataError` with the file and the reason.
    """
    names = file_names(mode, classes)
    require_files(folder, names)
    kinds: list[NDArray[np.float32]] = []
    findings: list[Finding] = []
    for name in names:
        values, told = read_table(folder / name)
        if len(values) != classes:
            raise DataError(
                f"text of {len(values)} classes", where=str(folder / name), expected=f"({classes}, Dt), one row per class",
                next_step="make the text features for this number of classes",
            )  # fmt: skip
        if kinds and values.shape[1] != kinds[0].shape[1]:
            raise DataError(
                f"text {values.shape[1]} wide", where=str(folder / name), expected=f"{kinds[0].shape[1]}, as {names[0]}",
                next_step="make all text features with the same tower",
            )  # fmt: skip
        kinds.append(values)
        findings += told
    rows = joined_text(kinds)
    lengths = [float(np.linalg.norm(values, axis=1).mean()) for values in kinds]
    if max(lengths) > UNEQUAL * min(lengths):
        said = ", ".join(f"{name} {length:.3g}" for name, length in zip(names, lengths, strict=True))
        findings.append(Finding("text-length", WARNING, f"descriptions of unequal weight, mean lengths: {said}", str(folder)))
    _, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
    for i in first[counts > 1]:
        same = np.flatnonzero((rows == rows[i]).all(1)).tolist()
        text = f"classes {', '.join(map(str, same))} have the same text and cannot be told apart by it"
        findings.append(Finding("text-same", WARNING, text, str(folder), len(same)))
    return TextRows(rows, tuple(findings))
