"""What layout is this, and read it: the one place that knows all readers.

A new layout is a module with `recognise` and `read` like the others, and a line in `READERS`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

import numpy as np

from shared_data.clips import Clips
from shared_data.errors import DataError, MissingInputError, UsageError, nearest
from shared_data.findings import Finding
from shared_data.formats import agcn, kaggle, ntu_raw, nw_ucla, per_clip, pku_mmd, pyskl, skeleton5d
from shared_data.formats.fourkeys import KEYS
from shared_data.formats.look import Look, look
from shared_data.formats.npz import Npz, open_zip
from shared_data.formats.options import ReadOptions
from shared_data.formats.source import Reading, Source, clip_findings

STORE = "store"


class Reader(Protocol):
    """What every layout module offers."""

    def recognise(self, seen: Look) -> str | None:
        """One clause that says why `seen` is of this layout ("a zip with 3 JSON files named like ..."), or None."""
        ...

    def read(self, path: Path, how: Reading) -> Source:
        """Read `path`, streaming. Raises `DataError` for what cannot be decoded, `UsageError` for options of no use here."""
        ...


READERS: dict[str, Reader] = {  # asked in this order
    "nw_ucla": nw_ucla,
    "ntu_raw": ntu_raw,
    "pku_mmd": pku_mmd,
    "kaggle": kaggle,
    "skeleton5d": skeleton5d,
    "agcn": agcn,
    "pyskl": pyskl,
    "per_clip": per_clip,
}
LAYOUTS = ("auto", *READERS, STORE)


def detect(path: Path) -> tuple[str, str]:
    """(layout, reason in one sentence) of a file or folder, from its content, not its name.

    Raises `MissingInputError` if it does not exist, `DataError` if it is nothing known: the message says what it is.
    """
    seen = look(path)
    if seen.kind == "hdf5":
        return STORE, "an HDF5 file"
    for layout, reader in READERS.items():
        if reason := reader.recognise(seen):
            return layout, reason
    raise _unknown(seen)


def _unknown(seen: Look) -> DataError:
    where, known = str(seen.path), f"one of the layouts {', '.join(LAYOUTS[1:])} (docs/your-data.md)"
    if seen.shapes is not None:
        with Npz(seen.path) as npz:
            npz.require(*KEYS)
        return DataError(
            f"x_train of shape {seen.shapes['x_train']}",
            where=f"{where}, key x_train",
            expected=f"{kaggle.EXPECTED}, or {skeleton5d.EXPECTED}",
        )
    if seen.kind in ("folder", "zip"):
        inside = ", ".join(seen.names[:4]) + (" ..." if len(seen.names) > 4 else "")
        return DataError(
            f"a {seen.kind} of {len(seen.names)} files that fit no layout: {inside}", where=where, expected=known,
            next_step=_inside(seen) or "clips of your own need a table labels.csv beside them",
        )  # fmt: skip
    open_zip(seen.path, kind=f"a data file: {known}").close()  # says what the file is instead
    raise AssertionError("a zip is never unknown here")


def _inside(seen: Look) -> str:
    """What to give in place of a folder that holds the data's file, as a download does; "" if none of its first files is data."""
    if seen.kind != "folder":
        return ""
    for name in [name for name in seen.names if name.lower().endswith((".zip", ".npz"))][:8]:
        with contextlib.suppress(DataError, MissingInputError):
            layout, reason = detect(seen.path / name)
            return f"give the file in it, which is of the layout {layout} ({reason}): {seen.path / name}"
    return ""


def resolve(path: Path, layout: str) -> tuple[str, str]:
    """`detect` for "auto", else the asked layout. Raises `UsageError` for an unknown layout, naming the nearest."""
    if layout not in LAYOUTS:
        raise UsageError(f"unknown data layout {layout!r}{nearest(layout, LAYOUTS)}", expected=", ".join(LAYOUTS))
    if layout == "auto":
        return detect(path)
    look(path)  # whether it can be read at all
    return layout, "asked for"


def read_source(path: Path, layout: str, how: Reading) -> Source:
    """Read a file of any layout but the store."""
    return READERS[layout].read(path, how)


def settle(source: Source, options: ReadOptions) -> tuple[dict[str, Clips], list[Finding]]:
    """Clips of each split after the policy for NaN, inf and empty clips, with all findings.

    Refused, such clips are error findings. Dropped, they are left out and recorded; an empty split is an error.
    """
    findings, clips = list(source.findings), {}
    for name, split in source.splits.items():
        findings += clip_findings(name, split, drop=options.drop_bad)
        good = np.ones(len(split.clips), bool)
        if options.drop_bad:
            good[split.scan.unusable] = False
        clips[name] = split.clips if good.all() else split.clips.subset(np.flatnonzero(good))
    return clips, findings
