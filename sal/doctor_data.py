"""What the directory and the headers of a data file tell: layout, clips, protocol. No frame is read, however large it is.

Needs numpy and h5py, which the host side may lack. `sal data check` reads everything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.gpus import Finding
from shared_data.errors import DataError
from shared_data.formats.fourkeys import KEYS
from shared_data.formats.npz import Npz
from shared_data.formats.reading import STORE, detect
from shared_data.protocols import nearly, recognise
from shared_data.store import open_store

FOUR_KEYS = ("kaggle", "skeleton5d")
"""Layouts that are one NPZ of x_train, y_train, x_test, y_test."""


def recognised(path: Path) -> tuple[dict[str, Any], list[Finding]]:
    """Layout, the reason for it and the published protocol ("" if none) of a file, and what is wrong with it.

    Raises `LabError` for a file that cannot be used: truncated, of no known layout, x and y of different lengths.
    """
    layout, reason = detect(path)
    sizes = _sizes(path, layout)
    protocol = recognise(*sizes) if sizes else None
    known = {"layout": layout, "reason": reason, "protocol": protocol.name if protocol else ""}
    near = nearly(*sizes) if sizes and not protocol else None
    if sizes is None or near is None:
        return known, []
    _, train, test = sizes
    what = f"{path} has {train:,} + {test:,} clips, {near.name} has {near.train:,} + {near.test:,}"
    return known, [Finding("data-incomplete", "warning", what,
                           "copy or prepare the file again; results would not compare with published ones")]  # fmt: skip


def _sizes(path: Path, layout: str) -> tuple[int, int, int] | None:
    """(classes, training clips, test clips) where headers tell them."""
    if layout == STORE:
        stored = open_store(path)
        return len(stored.class_names), len(stored.clips["train"]), len(stored.clips["test"])
    if layout not in FOUR_KEYS:
        return None
    with Npz(path) as npz:
        npz.require(*KEYS)
        shapes = {key: npz.members[key].shape for key in KEYS}
    for split in ("train", "test"):
        clips, labels = shapes[f"x_{split}"][0], (shapes[f"y_{split}"] or (0,))[0]
        if clips != labels:
            raise DataError(
                f"{clips:,} clips but {labels:,} labels", where=f"{path}, keys x_{split} and y_{split}",
                expected="as many labels as clips", next_step="copy or prepare the file again",
            )  # fmt: skip
    one_hot = shapes["y_train"]
    return (one_hot[1], shapes["x_train"][0], shapes["x_test"][0]) if len(one_hot) == 2 else None
