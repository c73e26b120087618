"""Reading a store of untrimmed sequences, one HDF5 file; `sequence_store` writes it.

As in the store of clips (`store`), frames are memory-mapped and the small rest is verified by checksums when it is opened.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import h5py
import numpy as np

from shared_data.clips import Clips
from shared_data.errors import DataError, UsageError, nearest
from shared_data.formats.look import Look
from shared_data.formats.options import refuse_classes, refuse_options
from shared_data.formats.pku_folder import ALIASES, KINDS
from shared_data.formats.source import Reading
from shared_data.sequences import Sequences, SequenceSource
from shared_data.store import SEQUENCES, check_index, dataset, is_store, map_split, open_hdf5, stored_findings, stored_skeleton

STORE = "store"
SPLITS = ("train", "test", "val", "rest")


def recognise(seen: Look) -> str | None:
    """Why this is the layout, or None. What else an HDF5 file may be, is told when it is opened."""
    return "an HDF5 file" if seen.kind == "hdf5" else None


def is_ours(seen: Look) -> bool:
    """Whether this is a store of sequences and not one of clips, nor another HDF5 file."""
    return seen.kind == "hdf5" and is_store(seen.path, SEQUENCES)


def read_sequences(path: Path, how: Reading) -> SequenceSource:
    """Open a store through memory maps; `how.sinks` is not asked for. Splits of the same content are the same object.

    Raises `MissingInputError`, or `DataError` for damage, a foreign file, a store of clips, or another division than asked for.
    """
    refuse_options(path, STORE, how.options, "skip_list", "repair")
    splits: dict[str, Sequences] = {}
    with open_hdf5(path, SEQUENCES) as (file, attributes, size):
        skeleton = stored_skeleton(path, attributes)
        names = tuple(name.decode() for name in dataset(file, "class_names")[()].tolist())
        findings = stored_findings(file)
        groups: dict[str, str] = json.loads(str(attributes["splits"]))
        for split, group in groups.items():
            if split not in SPLITS or group not in SPLITS:
                raise ValueError(f"an unknown split {split[:40]!r}")
            if group in splits:
                splits[split] = splits[group]
                continue
            clips = map_split(path, file, group, skeleton, size)
            check_index(path, split, clips, None)
            splits[split] = _sequences(file[group], clips, len(names))
    refuse_classes(path, how.options, len(names), "the store says")
    _refuse_division(path, how.options.split, str(attributes.get("division", "auto")))
    reason = f"{how.reason}, made from {attributes.get('source_name')} ({attributes.get('layout')})"
    return SequenceSource(STORE, reason, skeleton, names, splits, list(findings), str(attributes.get("about", "")))


def frames_check(sequences: Sequences) -> int:
    """CRC-32 of classes and boundaries, in the order of the sequences."""
    check = zlib.crc32(np.ascontiguousarray(sequences.classes, "<i4").data)
    return zlib.crc32(np.ascontiguousarray(sequences.boundary, "u1").data, check)


def _sequences(group: h5py.Group, clips: Clips, classes: int) -> Sequences:
    found, marked = dataset(group, "classes"), dataset(group, "boundary")
    lengths = clips.extent.astype(np.int64)
    shape = (int(lengths.sum()),)
    if found.shape != shape or marked.shape != shape or found.dtype.str != "<i4" or marked.dtype.str != "|u1":
        raise ValueError(f"{group.name}: classes or boundaries of a wrong shape or type")
    read = Sequences(clips, found[()].astype(np.int64), marked[()].astype(bool), np.cumsum(lengths) - lengths)
    if frames_check(read) != int(group.attrs["frames_crc32"]):
        raise ValueError(f"{group.name}: classes or boundaries differ from what was written")
    if not 0 <= read.classes.min() <= read.classes.max() < classes:
        raise ValueError(f"{group.name}: a class id that has no name")
    return read


def _refuse_division(path: Path, asked: str, stored: str) -> None:
    known = ("auto", stored, *KINDS, *ALIASES, "view3")  # the last is NW-UCLA's only one
    if asked not in known:
        raise UsageError(f"no split {asked!r}{nearest(asked, known)}", where="--split", expected=", ".join(dict.fromkeys(known)))
    if "auto" not in (asked, stored) and ALIASES.get(asked, asked) != ALIASES.get(stored, stored):
        raise DataError(
            f"the store was divided by {stored}, asked for is {asked}", where=str(path),
            next_step=f"prepare the source again with --split {asked}",
        )  # fmt: skip
