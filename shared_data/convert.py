"""`sal data convert`: from any readable layout or a store to the files that other projects read, without losing a value."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from shared_data.atomic import whole_file
from shared_data.clips import Clips
from shared_data.errors import DataError, UsageError, nearest
from shared_data.findings import refuse_errors
from shared_data.formats.options import ReadOptions
from shared_data.formats.ragged import RowSink
from shared_data.formats.reading import STORE, read_source, resolve, settle
from shared_data.formats.source import Progress, Reading, ticker
from shared_data.protocols import SPLIT_RULES, recognise
from shared_data.skeletons import NTU25
from shared_data.store import Stored, open_store, prepare
from shared_data.writers import SPLITS, Content, Tick, write_kaggle, write_pyskl, write_skeleton5d

WRITERS: dict[str, Callable[[IO[bytes], Content, Tick], None]] = {
    "kaggle": write_kaggle,
    "skeleton5d": write_skeleton5d,
    "pyskl": write_pyskl,
}
TARGETS = (STORE, *WRITERS)


def convert(
    source: Path,
    target: Path,
    *,
    to: str,
    layout: str = "auto",
    options: ReadOptions = ReadOptions(),
    frames: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write what `source` holds (any readable layout, or a store) to `target` in the format `to`; return `target`.

    to      "store", "kaggle", "skeleton5d" or "pyskl"
    frames  T of a padded format; None: T of the source, or the longest clip where the source is ragged

    Memory does not grow with the file: a source that is no store becomes one beside the target first, the hidden
    ``.<target>.converting``, which is removed in the end. The file is written beside the target, read back, compared with what
    was meant, flushed to the disk, and only then gets its name. An older store is replaced, any other file is left alone.
    What no file but a store can hold: recorded lengths of an ``agcn`` folder (`valid` is counted again), 64-bit coordinates
    (rounded to 32), and, in an NPZ, the names of the clips.
    Raises `UsageError` for what the format cannot hold, `DataError` / `MissingInputError` for the source, `WriteError`
    (exit code 74) for the target.
    """
    source, target = Path(source), Path(target)
    if to not in TARGETS:
        raise UsageError(f"no format {to!r} to convert to{nearest(to, TARGETS)}", expected=", ".join(TARGETS))
    if frames is not None and (frames < 1 or to not in ("kaggle", "skeleton5d")):
        raise UsageError(f"frames={frames} for {to}", expected="1 or more, for kaggle and skeleton5d only")
    found, _ = resolve(source, layout)
    if source.resolve() in (target.resolve(), *target.resolve().parents):
        raise UsageError("the target is the source or lies in it", where=str(target), next_step="choose another place")
    if to == STORE:
        return prepare(source, target, layout=layout, options=options, progress=progress)
    with whole_file(target, kind=f"{to} file", replaceable=lambda path: False) as file:
        passes = 2 if found == STORE else 3  # over all clips: into the store, into the file, and out of it to compare
        with contextlib.ExitStack() as stack:
            made = source
            if found != STORE:
                # A fixed name, under the lock of the target: the next run replaces what a killed one left, then removes it.
                made = target.with_name(f".{target.name}.converting")
                prepare(source, made, layout=layout, options=options, progress=_pass(progress, 0, passes))
                stack.callback(made.unlink, missing_ok=True)
            stored = open_store(made)
            if found == STORE:
                stored.refuse(source, options)
            content = _content(source, stored, to, frames)
            count = sum(map(len, stored.clips.values()))
            WRITERS[to](file, content, ticker(_pass(progress, passes - 2, passes), count))
            file.flush()
            _verify(Path(file.name), to, content, _pass(progress, passes - 1, passes))
    return target


def _content(source: Path, stored: Stored, to: str, frames: int | None) -> Content:
    """What to write. Raises `UsageError` with the reason if `to` cannot hold it."""
    people = max(int(clips.people.max()) for clips in stored.clips.values())
    reasons = []
    if to == "kaggle" and stored.skeleton is not NTU25:
        reasons.append(f"its rows have {NTU25.joints} joints, these clips have {stored.skeleton.joints}")
    if to == "kaggle" and people > 2:
        reasons.append(f"its rows have two people, these clips up to {people}")
    if to == "kaggle" and len(stored.class_names) < 2:
        reasons.append("its labels need two columns at least")
    if reasons:
        what = f"the kaggle layout cannot hold this: {'; '.join(reasons)}"
        raise UsageError(what, where=str(source), expected="NTU clips", next_step="convert it to skeleton5d")
    longest = {split: int(clips.extent.max()) for split, clips in stored.clips.items()}
    if frames is not None and frames < max(longest.values()):
        raise UsageError(f"{frames} frames would cut clips", where=str(source), expected=f"at least {max(longest.values())}")
    if to == "pyskl" and (both := {*stored.clips["train"].ids.tolist()} & {*stored.clips["test"].ids.tolist()}):
        what = f"{len(both)} clips have the same name in both splits, first: {min(both)}"
        raise DataError(what, where=str(source), expected="different names, by which pyskl finds its clips")
    origin = f"converted from {stored.attributes.get('source_name')} ({stored.attributes.get('layout')})"
    return Content(
        clips=stored.clips,
        frames={split: frames or clips.frames or max(longest.values()) for split, clips in stored.clips.items()},
        people=max(clips.max_people for clips in stored.clips.values()),
        skeleton=stored.skeleton,
        class_names=stored.class_names,
        about=str(stored.attributes.get("about") or origin),
        protocol=_protocol(stored),
    )


def _protocol(stored: Stored) -> str:
    """The short name of the published protocol that these numbers of clips belong to, or nothing."""
    known = recognise(len(stored.class_names), len(stored.clips["train"]), len(stored.clips["test"]))
    return next((rule.name for rule in SPLIT_RULES if known and rule.protocol == known.name), "")


def _pass(progress: Progress | None, number: int, passes: int) -> Progress | None:
    """The `progress` of one of several passes over all clips."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, passes * total)


class _Digest:
    """`RowSink` that keeps a checksum of the rows in their order; all-zero rows do not count, as padding may come and go."""

    def __init__(self, joints: int, dtype: np.dtype[Any]) -> None:
        self._empty = np.empty((0, joints, 3), dtype)
        self.value = 0

    def append(self, rows: np.ndarray) -> None:
        flat = np.ascontiguousarray(rows, "<f4").reshape(len(rows), -1)
        self.value = zlib.crc32(flat[flat.any(-1)].data, self.value)

    def finish(self) -> np.ndarray:
        return self._empty


def _verify(path: Path, to: str, content: Content, progress: Progress | None) -> None:
    """Read the written file as a user will. Raises `DataError` unless it holds the clips, labels and names that were meant."""
    digests: dict[str, _Digest] = {}

    def sink(split: str, joints: int, dtype: np.dtype[Any]) -> RowSink:
        return digests.setdefault(split, _Digest(joints, dtype))

    options = ReadOptions(num_classes=len(content.class_names))
    read = read_source(path, to, Reading(options, sinks=sink, progress=progress))
    _, findings = settle(read, options)
    refuse_errors(findings, path)
    for split in SPLITS:
        meant, found = content.clips[split], read.splits[split].clips
        same = np.array_equal(meant.labels, found.labels) and digests[split].value == _digest(meant)
        if not same or (to == "pyskl" and meant.ids.tolist() != found.ids.tolist()) or read.class_names != content.class_names:
            raise DataError(
                f"the {split} split reads differently from what was written", where=str(path), expected="the same clips",
                next_step="the disk or the source changed meanwhile: run the same command again",
            )  # fmt: skip


def _digest(clips: Clips) -> int:
    """The checksum that `_Digest` finds for these clips."""
    digest = _Digest(clips.joints, clips.rows.dtype)
    for n in range(len(clips)):
        digest.append(clips.clip(n).transpose(1, 0, 2, 3).reshape(-1, clips.joints, 3))
    return digest.value
