"""What layout is this, and read it: the one place that knows all readers.

A new layout is a module with a `read` like the others, a line in `READERS`, and a case in `detect`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from shared_data import kaggle, nw_ucla, skeleton5d
from shared_data.clips import Clips
from shared_data.errors import DataError, LabError, MissingInputError, UsageError, nearest
from shared_data.findings import Finding
from shared_data.fourkeys import KEYS
from shared_data.npz import Npz, open_zip
from shared_data.ragged import SinkMaker, in_memory
from shared_data.source import Progress, Source, clip_findings

STORE = "store"
HDF5_START = b"\x89HDF\r\n\x1a\n"


class Reader(Protocol):
    """What every layout module offers."""

    def __call__(
        self, path: Path, *, reason: str, num_classes: int | None, sinks: SinkMaker, progress: Progress | None
    ) -> Source: ...


READERS: dict[str, Reader] = {"kaggle": kaggle.read, "skeleton5d": skeleton5d.read, "nw_ucla": nw_ucla.read}
LAYOUTS = ("auto", *READERS, STORE)


def detect(path: Path) -> tuple[str, str]:
    """(layout, reason in one sentence) of a file or folder, from its content, not its name.

    Raises `MissingInputError` if it does not exist, `DataError` if it is nothing known: the message says what it is.
    """
    if not path.exists():
        raise MissingInputError("no such file or folder", where=str(path), next_step="check the path")
    if path.is_dir():
        clips = nw_ucla.clip_names([file.name for file in path.rglob("*.json")])
        if clips:
            return "nw_ucla", f"a folder with {len(clips)} JSON files named like {clips[0]}"
        raise DataError("a folder without NW-UCLA clips", where=str(path), expected="files like a01_s01_e00_v01.json")
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise MissingInputError(f"cannot read the file: {error.strerror}", where=str(path)) from None
    if start == HDF5_START:
        return STORE, "an HDF5 file"
    with open_zip(path, kind="NPZ, NW-UCLA zip or store (HDF5)") as archive:
        names = [info.filename for info in archive.infolist()]
    clips = nw_ucla.clip_names(names)
    if clips and not any(name.endswith(".npy") for name in names):
        return "nw_ucla", f"a zip with {len(clips)} JSON files named like {Path(clips[0]).name}"
    with Npz(path) as npz:
        npz.require(*KEYS)
        shape = npz.members["x_train"].shape
    if len(shape) == 5:
        return "skeleton5d", f"an NPZ whose x_train has five axes, {shape}"
    if len(shape) == 3:
        return "kaggle", f"an NPZ whose x_train has three axes, {shape}"
    raise DataError(
        f"x_train of shape {shape}",
        where=f"{path}, key x_train",
        expected=f"{kaggle.EXPECTED}, or {skeleton5d.EXPECTED}",
    )


def resolve(path: Path, layout: str) -> tuple[str, str]:
    """`detect` for "auto", else the asked layout. Raises `UsageError` for an unknown layout, naming the nearest."""
    if layout not in LAYOUTS:
        raise UsageError(f"unknown data layout {layout!r}{nearest(layout, LAYOUTS)}", expected=", ".join(LAYOUTS))
    if layout == "auto":
        return detect(path)
    if not path.exists():
        raise MissingInputError("no such file or folder", where=str(path), next_step="check the path")
    return layout, "asked for"


def read_source(
    path: Path,
    layout: str,
    reason: str,
    *,
    num_classes: int | None = None,
    sinks: SinkMaker = in_memory,
    progress: Progress | None = None,
) -> Source:
    """Read a file of any layout but the store."""
    return READERS[layout](path, reason=reason, num_classes=num_classes, sinks=sinks, progress=progress)


def settle(source: Source, *, on_bad: str) -> tuple[dict[str, Clips], list[Finding]]:
    """Clips of each split after the policy for NaN, inf and empty clips, with all findings.

    on_bad  "refuse": such clips are error findings. "drop": they are left out and recorded; an empty split is an error.
    """
    if on_bad not in ("refuse", "drop"):
        raise LabError(f"unknown policy on_bad={on_bad!r}", expected="refuse, drop")
    findings, clips = list(source.findings), {}
    for name, split in source.splits.items():
        findings += clip_findings(name, split, drop=on_bad == "drop")
        good = np.ones(len(split.clips), bool)
        if on_bad == "drop":
            good[split.scan.unusable] = False
        clips[name] = split.clips if good.all() else split.clips.subset(np.flatnonzero(good))
    return clips, findings
