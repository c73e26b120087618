"""The store of untrimmed sequences: one HDF5 file that a folder of a thousand videos becomes, opened in milliseconds.

Per split a group as in the store of clips (`store`), with ``classes`` and ``boundary`` of every frame beside the rows; any
skeleton, any number of people. Splits that are the same list in the source (published: val and test by view) are stored once.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from shared_data.atomic import whole_file, whole_folder
from shared_data.errors import DataError, UsageError
from shared_data.formats.lasa import BOUNDARIES, FEATURES, LABELS, MAPPING
from shared_data.formats.options import ReadOptions
from shared_data.formats.pku_text import NUMBERS
from shared_data.formats.ragged import FileRows, RowSink
from shared_data.formats.sequence_file import SPLITS, STORE, frames_check
from shared_data.formats.source import Progress
from shared_data.formats.untrimmed import open_sequences
from shared_data.sequences import Sequences, SequenceSource
from shared_data.store import SCHEMA, SEQUENCES, is_store, new_hdf5, sha256, verify_rows, write_split, write_texts

_Spill = tuple[IO[bytes], int, "np.dtype[Any]"]


def prepare_sequences(
    source: Path,
    target: Path,
    *,
    layout: str = "auto",
    options: ReadOptions = ReadOptions(),
    progress: Progress | None = None,
) -> Path:
    """Convert untrimmed data of any readable layout to a store at `target` and return `target`.

    Its memory does not grow with the frames. The target appears when it is complete; an older store of sequences is replaced,
    any other file is not. Raises `DataError` / `MissingInputError` for the source and `WriteError` (exit 74) for the target.
    """
    source, target = Path(source), Path(target)
    with whole_file(target, kind="store", replaceable=_replaceable) as partial, contextlib.ExitStack() as stack:
        spills: dict[str, _Spill] = {}

        def sink(split: str, joints: int, dtype: np.dtype[Any]) -> RowSink:
            spills[split] = stack.enter_context(tempfile.TemporaryFile(dir=target.parent)), joints, dtype
            return FileRows(*spills[split])

        read = open_sequences(source, layout=layout, options=options, sinks=sink, progress=progress)
        if read.layout == STORE:
            raise DataError("the source is already a store", where=str(source), next_step="use it as it is, or copy it")
        about = {"source_name": source.name, "source_sha256": sha256(source), "division": options.split}
        _write(Path(partial.name), read, spills, about, str(source))
    return target


def write_sequences(source: SequenceSource, target: Path) -> Path:
    """Write sequences that are in memory, or parts of a store, to a store at `target`, and return it.

    Raises `WriteError` (exit 74).
    """
    target = Path(target)
    with whole_file(target, kind="store", replaceable=_replaceable) as partial, contextlib.ExitStack() as stack:
        packed = {id(part): _packed(part) for part in source.splits.values()}
        spills: dict[str, _Spill] = {}
        for split, part in source.splits.items():
            rows = packed[id(part)].clips.rows
            spill = stack.enter_context(tempfile.TemporaryFile(dir=target.parent))
            spills[split] = spill, rows.shape[1], rows.dtype
            FileRows(*spills[split]).append(rows)
        splits = {split: packed[id(part)] for split, part in source.splits.items()}
        told = {"source_name": source.layout, "source_sha256": "", "division": "auto"}
        _write(Path(partial.name), replace(source, splits=splits), spills, told, source.layout)
    return target


def write_lasa(source: SequenceSource, folder: Path) -> Path:
    """Write sequences of 2 x 25 joints as the package that LaSA and DeST read (`formats.lasa`); the folder must be new.

    Raises `UsageError` for another skeleton or more people, and for names that no file can have, `WriteError` for the folder.
    """
    folder = Path(folder)
    for split, part in source.splits.items():
        joints, people = part.clips.joints, part.clips.max_people
        wrong = next((name for name in part.ids.tolist() if Path(name).name != name), None)
        if joints * people * 3 != NUMBERS or wrong is not None:
            raise UsageError(
                f"{people} people of {joints} joints, or a video named {wrong!r}, in the split {split}", where=str(folder),
                expected="2 people of 25 joints, and names without a folder",
            )  # fmt: skip
    with whole_folder(folder, kind="package of LaSA") as made:
        for kind in (FEATURES, LABELS, BOUNDARIES):
            (made / kind).mkdir()
        (made / MAPPING).write_text("".join(f"{n} {name}\n" for n, name in enumerate(source.class_names)), "utf-8")
        for split, part in source.splits.items():
            for n, name in enumerate(part.ids.tolist()):
                np.save(made / FEATURES / f"{name}.npy", part.frames(n).reshape(-1, NUMBERS).astype(np.float32))
                np.save(made / LABELS / f"{name}.npy", part.labels(n))
                np.save(made / BOUNDARIES / f"{name}.npy", part.boundaries(n).astype(np.int64))
            if split != "rest":  # in no list is what makes it so
                lines = [f"{FEATURES}/{i}.npy,{LABELS}/{i}.npy,{BOUNDARIES}/{i}.npy\n" for i in part.ids.tolist()]
                (made / f"{split}1.csv").write_text("feature,label,boundary\n" + "".join(lines), "utf-8")
    return folder


def verify_sequences(path: Path) -> None:
    """Read all rows once and compare them with the checksums. Raises `DataError`."""
    splits = open_sequences(path, layout=STORE).splits
    with h5py.File(path, "r", locking=False) as file:
        groups = json.loads(str(file.attrs["splits"]))
        checks = {split: int(file[group].attrs["rows_crc32"]) for split, group in groups.items()}
    verify_rows(path, {split: part.clips for split, part in splits.items() if groups[split] == split}, checks)


def _write(partial: Path, read: SequenceSource, spills: dict[str, _Spill], told: dict[str, str], source: str) -> None:
    unknown = [split for split in read.splits if split not in SPLITS]
    if unknown:
        raise UsageError(f"a split called {unknown[0]!r}", where=source, expected=", ".join(SPLITS))
    groups: dict[str, str] = {}
    for split, part in read.splits.items():
        same = next((other for other in groups.values() if read.splits[other] is part), split)
        if len(part):
            groups[split] = same
    with new_hdf5(partial) as file:
        file.attrs.update(
            {
                "format": SEQUENCES,
                "schema_version": SCHEMA,
                **told,
                "layout": read.layout,
                "reason": read.reason,
                "skeleton": read.skeleton.name,
                "units": "metre",
                "about": read.about,
                "splits": json.dumps(groups),
            }
        )
        write_texts(file, read.class_names, read.findings)
        for split in dict.fromkeys(groups.values()):
            group, part = file.create_group(split), read.splits[split]
            write_split(group, part.clips, *spills[split])
            group.create_dataset("classes", data=part.classes.astype("<i4"))
            group.create_dataset("boundary", data=part.boundary.astype("u1"))
            group.attrs["frames_crc32"] = frames_check(part)
    try:
        open_sequences(partial, layout=STORE)
    except DataError as error:
        raise DataError(
            f"the store made of this could not be opened: {error.what}", where=source,
            expected="sequences that each have a name of their own, and train and test",
            next_step="look at the names of the videos, then run the same command again",
        ) from error  # fmt: skip


def _packed(part: Sequences) -> Sequences:
    """The same sequences with rows, classes and boundaries of their own, one after the other."""
    every = range(len(part))
    lengths = part.lengths.astype(np.int64)
    return Sequences(
        clips=part.clips.compact(),
        classes=np.concatenate([*(part.labels(n) for n in every), np.zeros(0, np.int64)]),
        boundary=np.concatenate([*(part.boundaries(n) for n in every), np.zeros(0, bool)]),
        first=np.cumsum(lengths) - lengths,
    )


def _replaceable(path: Path) -> bool:
    return is_store(path, SEQUENCES)
