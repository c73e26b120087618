"""The store: one HDF5 file that holds a data set ragged, opened in milliseconds through a memory map.

Per split a group with one contiguous uncompressed dataset ``rows`` (R, V, 3) and the index arrays of `Clips`; provenance as
attributes of the file. Raggedness is the compression (about 6.5 times); codecs would cost 3 to 80 times the latency.
Opening verifies the index by its checksum and that the row of zeros, which stands for all padding, is zero. The other rows are
too many to read then; `verify` (``sal data check``) compares them with theirs.
`prepare` streams: its memory does not grow with the source, and its result appears under its name only when complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from shared_data.atomic import whole_file
from shared_data.clips import Clips
from shared_data.errors import DataError, MissingInputError
from shared_data.findings import Finding, finding_from_dict, refuse_errors
from shared_data.formats.duplicates import duplicates
from shared_data.formats.look import HDF5_START
from shared_data.formats.npz import Npz
from shared_data.formats.options import ReadOptions, refuse_classes, refuse_options
from shared_data.formats.ragged import FileRows, RowSink
from shared_data.formats.reading import STORE, detect, read_source, resolve, settle
from shared_data.formats.source import Progress, Reading, Source
from shared_data.skeletons import SKELETONS, Skeleton

SCHEMA = 1
FORMAT = "skeleton-action-lab store"
SEQUENCES = "skeleton-action-lab sequences"  # the `sequence_store`, of whole videos
SPLITS = ("train", "test")
_KINDS: dict[object, str] = {FORMAT: "clips", SEQUENCES: "untrimmed sequences"}
_INDEX = {"offset": "i8", "extent": "i4", "valid": "i4", "people": "i4", "labels": "i8"}
_CHUNK = 16 << 20
_ALIGN = 4096  # rows start on a page boundary


@dataclass(frozen=True)
class Stored:
    """What an opened store holds; `clips` are memory-mapped, read-only."""

    clips: dict[str, Clips]
    skeleton: Skeleton
    class_names: tuple[str, ...]
    findings: tuple[Finding, ...]
    attributes: dict[str, Any]
    rows_crc32: dict[str, int]

    def refuse(self, path: Path, options: ReadOptions) -> None:
        """Raise for what cannot be asked of a store: `UsageError` for flags without a meaning, `DataError` for another K."""
        refuse_options(path, STORE, options, "skip_list", "repair")
        refuse_classes(path, options, len(self.class_names), "the store says")


def prepare(
    source: Path,
    target: Path,
    *,
    layout: str = "auto",
    options: ReadOptions = ReadOptions(),
    progress: Progress | None = None,
) -> Path:
    """Convert `source` of any readable layout to a store at `target` and return `target`.

    The target appears when it is complete (`whole_file`); an older store is replaced, any other file is not. Twice the room of
    the store is needed on its disk.
    Raises `DataError` / `MissingInputError` for the source and `WriteError` (exit 74) for the target.
    """
    source, target = Path(source), Path(target)
    layout, reason = resolve(source, layout)
    if layout == STORE:
        raise DataError("the source is already a store", where=str(source), next_step="use it as it is, or copy it")
    with whole_file(target, kind="store", replaceable=is_store) as partial, contextlib.ExitStack() as stack:
        spills: dict[str, tuple[IO[bytes], int, np.dtype[Any]]] = {}

        def sink(split: str, joints: int, dtype: np.dtype[Any]) -> RowSink:
            # How many rows there will be is known at the end: until then they lie in a file without a name beside the target.
            spills[split] = stack.enter_context(tempfile.TemporaryFile(dir=target.parent)), joints, dtype
            return FileRows(*spills[split])

        digest = sha256(source)
        read = read_source(source, layout, Reading(options, reason, sink, progress))
        clips, findings = settle(read, options)
        refuse_errors(findings, source)
        findings += duplicates(read.splits)
        with new_hdf5(Path(partial.name)) as file:
            file.attrs.update(_attributes(source, read, digest))
            write_texts(file, read.class_names, findings)
            for split in SPLITS:
                write_split(file.create_group(split), clips[split], *spills[split])
        _refuse_unreadable(Path(partial.name), source)
    return target


@contextlib.contextmanager
def new_hdf5(partial: Path) -> Iterator[h5py.File]:
    """A new HDF5 file at `partial`, which `whole_file` holds under a lock; any HDF5 of the last decade reads it.

    A full disk is an `OSError` when HDF5 writes, but a `RuntimeError` when it closes a file or an object in it; here, always the
    first.
    """
    try:
        with h5py.File(partial, "w", alignment_threshold=_ALIGN, alignment_interval=_ALIGN, locking=False) as file:
            yield file
    except RuntimeError as error:
        raise OSError(f"HDF5: {str(error)[:200]}") from error


def _refuse_unreadable(made: Path, source: Path) -> None:
    """Raise `DataError` about the source if the store made of it could not be opened: none such gets its name."""
    try:
        open_store(made)
    except DataError as error:
        raise DataError(
            f"the store made of this could not be opened: {error.what}", where=str(source),
            expected="clips that each have a name of their own",
            next_step="look at the names of the clips, then run the same command again",
        ) from error  # fmt: skip


def open_store(path: Path) -> Stored:
    """Open a store through memory maps. Raises `MissingInputError`, or `DataError` for damage or a foreign HDF5 file."""
    path = Path(path)
    with open_hdf5(path, FORMAT) as (file, attributes, size):
        skeleton = stored_skeleton(path, attributes)
        names = tuple(name.decode() for name in dataset(file, "class_names")[()].tolist())
        findings = stored_findings(file)
        clips = {split: map_split(path, file, split, skeleton, size) for split in SPLITS}
        checks = {split: int(file[split].attrs["rows_crc32"]) for split in SPLITS}
    for split, part in clips.items():
        check_index(path, split, part, len(names))
    return Stored(clips, skeleton, names, findings, attributes, checks)


@contextlib.contextmanager
def open_hdf5(path: Path, kind: str) -> Iterator[tuple[h5py.File, dict[str, Any], int]]:
    """An open store of the format `kind`, its attributes, and its size in bytes.

    Raises `MissingInputError`, or `DataError` for a foreign HDF5 file, the other kind of store, and whatever turns out to be
    damaged while it is read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as raw:
            start = raw.read(8)
    except OSError as error:
        raise MissingInputError(f"cannot read the file: {error.strerror or error}", where=str(path)) from None
    if start != HDF5_START:
        raise DataError("not a store (not even HDF5)", where=str(path), next_step="make one with: sal data prepare")
    try:
        with h5py.File(path, "r", locking=False) as file:  # stores are replaced, never changed
            attributes = {key: _plain(file.attrs[key]) for key in file.attrs}
            found = attributes.get("format")
            if found != kind and found in _KINDS:
                raise DataError(
                    f"a store of {_KINDS[found]}, where one of {_KINDS[kind]} is wanted", where=str(path),
                    next_step=f"prepare the source again with{'' if kind == SEQUENCES else 'out'} --untrimmed",
                )  # fmt: skip
            if found != kind:
                raise DataError("an HDF5 file, but not a store of this lab", where=str(path), expected=f"format={kind!r}")
            if attributes.get("schema_version") != SCHEMA:
                raise DataError(
                    f"store of schema version {attributes.get('schema_version')}", where=str(path),
                    expected=f"version {SCHEMA}", next_step="prepare the store again from its source",
                )  # fmt: skip
            yield file, attributes, size
    except DataError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"a damaged store: {str(error)[:200]}", where=f"{path} ({size:,} bytes)",
            next_step="prepare it again from its source",
        ) from None  # fmt: skip


def stored_skeleton(path: Path, attributes: dict[str, Any]) -> Skeleton:
    """The skeleton that a store names. Raises `DataError`."""
    skeleton = SKELETONS.get(str(attributes.get("skeleton")))
    if skeleton is None:
        raise DataError(f"unknown skeleton {attributes.get('skeleton')!r}", where=str(path), expected=", ".join(SKELETONS))
    return skeleton


def stored_findings(file: h5py.File) -> tuple[Finding, ...]:
    """What was noticed about the source of an open store."""
    return tuple(finding_from_dict(f) for f in json.loads(dataset(file, "findings")[()].tobytes()))


def write_texts(file: h5py.File, class_names: tuple[str, ...], findings: list[Finding]) -> None:
    """Names of the classes and findings of a new store."""
    file["class_names"] = np.array([name.encode() for name in class_names])
    file["findings"] = np.frombuffer(json.dumps([f.as_dict() for f in findings]).encode(), np.uint8)


def info(path: Path) -> dict[str, Any]:
    """What a file says about itself without reading its data, as plain values.

    A store: provenance, and clips, rows and bytes per split. Other layouts: the layout, why, and the arrays of an NPZ.
    """
    path = Path(path)
    layout, reason = detect(path)
    if layout != STORE:
        about: dict[str, Any] = {"path": str(path), "layout": layout, "reason": reason}
        if layout in ("kaggle", "skeleton5d"):
            with Npz(path) as npz:
                about["arrays"] = {
                    key: {"shape": list(m.shape), "dtype": str(m.dtype), "bytes": m.nbytes, "memory_mappable": m.stored}
                    for key, m in npz.members.items()
                }
        return about
    stored = open_store(path)
    splits = {
        name: {
            "clips": len(clips),
            "rows": len(clips.rows),
            "rows_mib": round(clips.rows.nbytes / 2**20, 3),
            "two_people": int((clips.people > 1).sum()),
            "padded_frames": clips.frames,
        }
        for name, clips in stored.clips.items()
    }
    return {
        "path": str(path), "bytes": path.stat().st_size, **stored.attributes,
        "classes": len(stored.class_names), "class_names": list(stored.class_names),
        "splits": splits, "findings": [finding.as_dict() for finding in stored.findings],
    }  # fmt: skip


def verify(path: Path) -> None:
    """Read all rows once and compare them with the checksums written by `prepare`. Raises `DataError`."""
    stored = open_store(path)
    verify_rows(path, stored.clips, stored.rows_crc32)


def verify_rows(path: Path, splits: Mapping[str, Clips], rows_crc32: Mapping[str, int]) -> None:
    """Read all rows of each split once and compare them with its checksum. Raises `DataError`."""
    for split, clips in splits.items():
        found = 0
        flat = clips.rows.reshape(-1)
        step = _CHUNK // flat.itemsize
        for begin in range(0, flat.size, step):
            found = zlib.crc32(np.ascontiguousarray(flat[begin : begin + step]).data, found)
        if found != rows_crc32[split]:
            raise DataError(
                "the rows differ from what was written", where=f"{path}, split {split}",
                expected=f"CRC-32 {rows_crc32[split]:08x}, found {found:08x}",
                next_step="prepare the store again from its source",
            )  # fmt: skip


def sha256(path: Path) -> str:
    """SHA-256 of a file; of a folder: of its files' relative names and hashes, sorted by name."""
    if path.is_dir():
        lines = [
            f"{sha256(file)}  {file.relative_to(path).as_posix()}\n"
            for file in sorted(path.rglob("*"), key=lambda f: f.relative_to(path).as_posix())
            if file.is_file()
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise MissingInputError(f"cannot read the file: {error.strerror or error}", where=str(path)) from None
    return digest.hexdigest()


def _attributes(source: Path, read: Source, digest: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "schema_version": SCHEMA,
        "source_name": source.name,
        "source_sha256": digest,
        "layout": read.layout,
        "reason": read.reason,
        "skeleton": read.skeleton.name,
        "units": "metre",
        "about": read.about,
    }


def is_store(path: Path, kind: str = FORMAT) -> bool:
    """Whether a file is a store of this `kind`, whatever its version; somebody's weights are HDF5 as well."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return bool(file.attrs.get("format") == kind)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError):
        return False


def write_split(group: h5py.Group, clips: Clips, spill: IO[bytes], joints: int, dtype: np.dtype[Any]) -> None:
    """Copy the rows of a split from the spill file into a dataset of now known size, and write the index."""
    spill.seek(0, os.SEEK_END)
    row_bytes = joints * 3 * dtype.itemsize
    count = spill.tell() // row_bytes
    rows = group.create_dataset("rows", (count, joints, 3), dtype.newbyteorder("<"))
    spill.seek(0)
    step, check = max(1, _CHUNK // row_bytes), 0
    for begin in range(0, count, step):
        part = spill.read(min(step, count - begin) * row_bytes)
        check = zlib.crc32(part, check)
        rows[begin : begin + step] = np.frombuffer(part, dtype).reshape(-1, joints, 3)
    for name, kind in _INDEX.items():
        group.create_dataset(name, data=getattr(clips, name).astype(f"<{kind}"))
    group.create_dataset("ids", data=np.char.encode(clips.ids, "utf-8"))
    group.attrs["rows_crc32"] = check
    group.attrs["max_people"] = clips.max_people
    group.attrs["frames"] = clips.frames or 0
    group.attrs["index_crc32"] = _index_check(clips)


def _index_check(clips: Clips) -> int:
    """CRC-32 over everything but the rows: small, so it is verified whenever a store is opened."""
    check = zlib.crc32(f"{clips.max_people} {clips.frames} {clips.rows.dtype.str} ".encode())
    for name, kind in _INDEX.items():
        check = zlib.crc32(np.ascontiguousarray(getattr(clips, name), f"<{kind}").data, check)
    return zlib.crc32("\n".join(clips.ids.tolist()).encode(), check)


def dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """A dataset whose data lie in this very file; links and files that point elsewhere are refused."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{group.name}/{name} is missing or a link")
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual or dataset.dtype.hasobject:
        raise ValueError(f"{group.name}/{name} is not a plain dataset")
    if dataset.size * dataset.dtype.itemsize > group.file.id.get_filesize():
        raise ValueError(f"{group.name}/{name} claims more bytes than the file has")
    return dataset


def map_split(path: Path, file: h5py.File, split: str, skeleton: Skeleton, size: int) -> Clips:
    """The clips of a split of an open store, rows memory-mapped. Raises ValueError and others for damage, see `open_hdf5`."""
    if not isinstance(file.get(split, getlink=True), h5py.HardLink) or not isinstance(file[split], h5py.Group):
        raise ValueError(f"no split {split}")
    group = file[split]
    rows = dataset(group, "rows")
    offset = rows.id.get_offset()
    if rows.ndim != 3 or rows.shape[1:] != (skeleton.joints, 3) or rows.dtype.str not in ("<f4", "<f8"):
        raise ValueError(f"{split}/rows has shape {rows.shape} of {rows.dtype}")
    nbytes = rows.shape[0] * skeleton.joints * 3 * rows.dtype.itemsize
    if rows.chunks is not None or offset is None or not 0 < offset <= size - nbytes or not rows.shape[0]:
        raise ValueError(f"{split}/rows is not one contiguous block inside the file (a truncated file?)")
    index = {name: dataset(group, name) for name in (*_INDEX, "ids")}
    count = index["labels"].shape
    if any(array.shape != count or array.ndim != 1 for array in index.values()):
        raise ValueError(f"{split}: index arrays of unequal length")
    if any(index[name].dtype.kind != "i" for name in _INDEX) or index["ids"].dtype.kind != "S":
        raise ValueError(f"{split}: index arrays of a wrong type")
    columns = {name: index[name][()].astype(kind) for name, kind in _INDEX.items()}
    clips = Clips(
        rows=np.memmap(path, rows.dtype, "r", offset, rows.shape),
        ids=_texts(index["ids"][()]),
        max_people=int(group.attrs["max_people"]),
        frames=int(group.attrs["frames"]) or None,
        **columns,
    )
    if _index_check(clips) != int(group.attrs["index_crc32"]):
        raise ValueError(f"{split}: the index differs from what was written")
    return clips


def check_index(path: Path, split: str, clips: Clips, classes: int | None) -> None:
    """No index may lead outside the rows: a wrong one would hand out another clip's frames or crash later.

    classes  that the labels must fit in; None where the labels mean nothing
    """
    people, extent = clips.people.astype(np.int64), clips.extent.astype(np.int64)
    inside = (clips.offset >= 0) & (clips.offset < len(clips.rows)) & (people >= 1) & (people <= clips.max_people) & (extent >= 1)
    inside &= clips.offset + people * extent <= len(clips.rows)
    inside &= (clips.valid >= 0) & (clips.valid <= extent)
    if classes is not None:
        inside &= (clips.labels >= 0) & (clips.labels < classes)
    bad = np.flatnonzero(~inside)
    if len(clips.rows) and any(clips.rows[clips.zero].tobytes()):
        raise DataError(
            "a damaged store: the row that stands for absent frames and people is not zero", where=f"{path}, split {split}",
            next_step="prepare it again from its source",
        )  # fmt: skip
    if len(bad) or not len(clips) or len(set(clips.ids.tolist())) != len(clips):
        what = f"clip {bad[0]} points outside the rows or the classes" if len(bad) else "no clips, or two of the same name"
        raise DataError(f"a damaged store: {what}", where=f"{path}, split {split}", next_step="prepare it again")


def _texts(values: np.ndarray) -> np.ndarray:
    """UTF-8 (N,) to text. Nearly all names are ASCII, and for those there is a way that takes a tenth of the time."""
    try:
        return values.astype("U")
    except UnicodeDecodeError:
        return np.char.decode(values, "utf-8")


def _plain(value: Any) -> Any:
    """An HDF5 attribute as a Python value."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
