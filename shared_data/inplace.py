"""A stored Kaggle-layout NPZ used where it lies: its frames are memory-mapped inside the zip, never copied.

What must be known beforehand (which frames and people exist, labels, findings) takes one pass over the file. Its result, the
index, is kept in the user's cache folder, so later openings take milliseconds. It belongs to one file as it is now: size, times
of modification and of change (only the first can be set back), inode and the checksums in the zip directory are part of its
name. An index that does not have its own checksum or does not fit the file is made again; without a cache folder all are.

Memory: the index alone. The pages of the file are the system's to give and take.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shared_data.clips import Clips
from shared_data.errors import LabError, MissingInputError
from shared_data.findings import INFO, Finding, finding_from_dict
from shared_data.formats.npz import Npz
from shared_data.formats.options import ReadOptions
from shared_data.formats.source import Source
from shared_data.skeletons import SKELETONS

SCHEMA = 2
LAYOUT = "kaggle"  # the only layout whose rows are contiguous in the file
SMALLEST = 64 << 20  # bytes of x from which on the copy of the ragged rows is worth avoiding
CACHE_BYTES = 40 << 20  # what all kept indexes may take together
SPLITS = ("train", "test")
_COLUMNS = {"offset": "i8", "extent": "i4", "valid": "i4", "people": "i4", "labels": "i8"}
_TRIES = 1000  # clips looked at for an all-zero row
FINDING = Finding(
    "in-place", INFO, "the file is used in place, without a copy; a store made of it is read faster (sal data prepare FILE)"
)
REMADE = Finding("index-remade", INFO, "what was kept from an earlier pass over the file was damaged: it was read once more")
_DAMAGE = (
    LabError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError,
)  # fmt: skip


@dataclass(frozen=True)
class Index:
    """What one pass over the file found out: clips without rows, by split, and what `DataSet` says about the file."""

    clips: dict[str, Clips]
    skeleton: str
    class_names: tuple[str, ...]
    findings: tuple[Finding, ...]


def suits(path: Path, options: ReadOptions) -> bool:
    """Whether `path`, of the Kaggle layout, can be used in place: stored, C order, little-endian float32, and large enough."""
    if options.repair:
        return False
    with Npz(path) as npz:
        members = [npz.members.get(f"x_{split}") for split in SPLITS]
        return sum(m.nbytes for m in members if m) >= SMALLEST and all(
            m is not None and m.stored and not m.fortran_order and m.dtype.str == "<f4" and m.nbytes > 0 for m in members
        )


def mapped(path: Path, clips: dict[str, Clips], joints: int) -> dict[str, Clips] | None:
    """`clips` with their rows in the file. None if a split has no all-zero row to stand for absent frames.

    clips  by split, from the reader or the cache; `Clips.offset` is the number of the clip's first row in the file (see `placed`)
    """
    result = {}
    with Npz(path) as npz:
        for split, part in clips.items():
            rows = npz.memmap(f"x_{split}").reshape(-1, joints, 3)
            zero = _zero_row(rows, part)
            if zero is None:
                return None
            result[split] = replace(part, rows=rows, zero=zero)
    return result


def placed(source: Source) -> Source:
    """`source`, read without keeping rows, with the offsets that its clips have in the file."""
    splits = {}
    for name, split in source.splits.items():
        frames, people = split.clips.frames or 0, split.clips.max_people
        offset = np.arange(len(split.clips), dtype=np.int64) * (frames * people)
        splits[name] = replace(split, clips=replace(split.clips, offset=offset, frame_step=people))
    return replace(source, splits=splits)


def load_index(path: Path, options: ReadOptions) -> tuple[Index | None, tuple[Finding, ...]]:
    """The index kept for this file and these options, or None; and `REMADE` if there is one that is of no use."""
    try:
        kept = _kept(path, options)
        if not kept.is_file():
            return None, ()
    except _DAMAGE:  # of the file itself, which its reader will tell; or there is no home folder
        return None, ()
    try:
        index = _read(kept)
        if _fits(path, index):
            return index, ()
    except (OSError, MissingInputError):  # no right to read it, or another process has just removed it
        return None, ()
    except _DAMAGE:
        pass
    return None, (REMADE,)


def keep_index(
    path: Path, options: ReadOptions, *, source: Source, clips: dict[str, Clips], findings: Iterable[Finding]
) -> Index:
    """The index of a `placed` source and its good `clips`, kept for the next opening if the cache folder can be written."""
    index = Index(clips, source.skeleton.name, source.class_names, (*findings, FINDING))
    _write(path, options, index)
    return index


def _write(path: Path, options: ReadOptions, index: Index) -> None:
    arrays: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {
        "skeleton": index.skeleton, "class_names": index.class_names,
        "findings": [finding.as_dict() for finding in index.findings],
    }  # fmt: skip
    for split, clips in index.clips.items():
        about[split] = {"max_people": clips.max_people, "frames": clips.frames}
        arrays |= {f"{split}_{name}": getattr(clips, name).astype(f"<{kind}") for name, kind in _COLUMNS.items()}
        arrays[f"{split}_ids"] = clips.ids
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    arrays["digest"] = _digest(arrays)
    with contextlib.suppress(OSError, RuntimeError):  # no right to write, disk full, no home folder
        target = _kept(path, options)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".partial")
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        _make_room(target.parent)


def _digest(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """SHA-256 (32,) uint8 over names, types, shapes and values; the zip's own checksums are of each member alone."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _read(file: Path) -> Index:
    """The index in `file`. Raises one of `_DAMAGE`."""
    with Npz(file) as npz:
        arrays = {key: npz.read(key) for key in npz.members}
    digest = arrays.pop("digest")
    if not np.array_equal(digest, _digest(arrays)):
        raise ValueError("the index differs from what was written")
    about = json.loads(arrays["about"].tobytes())
    clips = {}
    for split in SPLITS:
        columns: dict[str, Any] = {name: arrays[f"{split}_{name}"] for name in _COLUMNS}
        if any(columns[name].dtype != np.dtype(f"<{kind}") for name, kind in _COLUMNS.items()):
            raise ValueError("index arrays of a wrong type")
        people, frames = int(about[split]["max_people"]), int(about[split]["frames"])
        clips[split] = Clips(
            rows=np.zeros((0, 1, 3), np.float32), ids=arrays[f"{split}_ids"], max_people=people, frames=frames,
            frame_step=people, **columns,
        )  # fmt: skip
    findings = tuple(finding_from_dict(finding) for finding in about["findings"])
    with contextlib.suppress(OSError):  # a folder that may only be read
        os.utime(file)  # the last used ones stay
    return Index(clips, str(about["skeleton"]), tuple(map(str, about["class_names"])), findings)


def _kept(path: Path, options: ReadOptions) -> Path:
    """Where the index of `path` as it is now is kept."""
    state = path.stat()
    with Npz(path) as npz:
        members = [(m.key, m.info.CRC, m.info.header_offset, m.shape, m.dtype.str) for m in npz.members.values()]
    version = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    about = (SCHEMA, version, members, options.num_classes, options.on_bad)
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    return cache_folder() / f"{name}.npz"


def cache_folder() -> Path:
    """Where indexes are kept: ``$XDG_CACHE_HOME/skeleton-action-lab/index``, else below ``~/.cache``."""
    named = os.environ.get("XDG_CACHE_HOME")
    base = Path(named) if named and Path(named).is_absolute() else Path("~/.cache").expanduser()
    return base / "skeleton-action-lab" / "index"


def _make_room(folder: Path) -> None:
    """Remove the indexes used longest ago until the rest takes `CACHE_BYTES`."""
    kept = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in folder.glob("*.npz"))
    total = sum(size for _, size, _ in kept)
    for _, size, file in kept:
        if total <= CACHE_BYTES:
            return
        file.unlink(missing_ok=True)
        total -= size


def _fits(path: Path, index: Index) -> bool:
    """Whether every clip lies inside the rows of its split, with a known label: a wrong index would show other clips' frames."""
    joints, classes = SKELETONS[index.skeleton].joints, len(index.class_names)
    with Npz(path) as npz:
        shapes = {split: npz.members[f"x_{split}"].shape for split in SPLITS}
    for split, (clips, frames, width) in shapes.items():
        part = index.clips[split]
        columns = [getattr(part, name) for name in (*_COLUMNS, "ids")]
        if any(column.shape != (len(part),) for column in columns) or part.ids.dtype.kind != "U" or not 1 <= len(part) <= clips:
            return False
        if part.frames != frames or part.max_people * joints * 3 != width:
            return False
        count = clips * frames * part.max_people
        inside = (part.offset >= 0) & (part.offset < count) & (part.extent >= 1) & (part.extent <= frames)
        inside &= (part.people >= 1) & (part.people <= part.max_people)
        inside &= part.offset + (part.extent.astype(np.int64) - 1) * part.frame_step + part.people <= count
        inside &= (part.valid >= 0) & (part.valid <= part.extent) & (part.labels >= 0) & (part.labels < classes)
        if not inside.all():
            return False
    return True


def _zero_row(rows: np.ndarray, clips: Clips) -> int | None:
    """The number of a row whose bytes are all zero: the last frame of a shorter clip, or an absent second person."""
    frames = clips.frames or 0
    padded = np.flatnonzero(clips.extent < frames)[:_TRIES]
    alone = np.flatnonzero(clips.people < clips.max_people)[:_TRIES]
    last = clips.offset[padded] + (frames - 1) * clips.frame_step
    for number in (*last.tolist(), *(clips.offset[alone] + clips.max_people - 1).tolist()):
        if number < len(rows) and not any(rows[number].tobytes()):
            return int(number)
    return None
