"""Text features as files, in the layout that the systems read: ``FOLDER/ARCHITECTURE/{lb,ad,md}_{classes}.npy``.

Beside each lies a record of what made it, under the same name with ``.json``. Source: the zero-shot specification, section 2.1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import WorkDirError
from engine.records import is_as_left, read_json, write_json
from engine.storage import write_atomically
from engine.zeroshot.arrays import as_npy
from engine.zeroshot.text.descriptions import Descriptions
from shared_data.errors import DataError, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def write(
    folder: Path, architecture: str, described: Descriptions, features: NDArray[np.float32], made_by: Mapping[str, str]
) -> Path:
    """Write the `features` (classes, width) float32 of `described` texts; returns the file.

    architecture  name of what made them, a folder or several: ``ViT-B/32``
    made_by       what is to be known about that: the method, the SHA-256 of weights, for example

    Features first, then the record, each all or nothing; the record holds the features' SHA-256, so one that is left of an
    earlier file is recognised. Raises `UsageError`, `DataError`, `WorkDirError` (exit 73) and `SaveError` (exit 74).
    """
    if not NAME.fullmatch(architecture):
        raise UsageError(f"no name of an architecture: {architecture!r}", expected="letters, digits, . _ - and / between")
    classes = len(described.texts)
    if features.ndim != 2 or len(features) != classes or features.dtype != np.float32 or not features.shape[1]:
        raise DataError(
            "the features are not those of the texts",
            where=f"{features.dtype} {features.shape}",
            expected=f"float32 ({classes}, width)",
        )
    if not np.isfinite(features).all() or not np.abs(features).max(1).all():
        raise DataError("text features that are no numbers, or all zero", where=f"{architecture}, {described.kind}_{classes}")
    path = folder / architecture / f"{described.kind}_{classes}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkDirError(f"cannot make the folder: {error.strerror or error}", where=str(path.parent)) from None
    content = as_npy(np.ascontiguousarray(features))
    record = {
        "architecture": architecture,
        "kind": described.kind,
        "shape": list(features.shape),
        "sha256": hashlib.sha256(content).hexdigest(),
        "texts": described.source.name,
        "texts_sha256": described.sha256,
        "made_by": dict(made_by),
    }
    write_atomically(path, content)
    write_json(path.with_suffix(".json"), record)
    return path


def matches_record(path: Path) -> bool:
    """Whether the features at `path` are those that the record beside them tells of."""
    record = read_json(path.with_suffix(".json"))
    return record is not None and is_as_left(path, str(record.get("sha256")))
