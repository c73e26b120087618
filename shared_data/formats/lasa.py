"""PKU-MMD as the authors of DeST and LaSA package it for temporal segmentation: arrays per video and CSV lists.

``features/NAME.npy`` (T, 150), ``gt_arr/NAME.npy`` (T,) class ids, ``gt_boundary_arr/NAME.npy`` (T,) 0 or 1, ``mapping.txt``
with a line ``id name`` per class, lists ``train1.csv``, ``val1.csv``, ``test1.csv`` with the columns feature, label, boundary.
The official reader unpickles arrays; here nothing is ever unpickled. Source: the published reader and lists.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from shared_data.errors import DataError
from shared_data.findings import WARNING, Finding
from shared_data.formats.listing import Listing, open_listing
from shared_data.formats.look import Look
from shared_data.formats.npy import read_array, read_header
from shared_data.formats.options import refuse_options
from shared_data.formats.pku_folder import KINDS, Notes, kind_by_name, split_kind, trained_on
from shared_data.formats.pku_mmd import usable
from shared_data.formats.pku_text import JOINTS, MAX_FRAMES, MAX_LIST_BYTES, MAX_VIDEO_BYTES, NUMBERS, PEOPLE
from shared_data.formats.source import Reading, ticker
from shared_data.sequences import SequenceBuilder, Sequences, SequenceSource, boundaries
from shared_data.skeletons import NTU25

FEATURES, LABELS, BOUNDARIES, MAPPING = "features", "gt_arr", "gt_boundary_arr", "mapping.txt"
BACKGROUND = "background"
_LIST = re.compile(r"(train|val|test)[0-9]*\.csv")


def recognise(seen: Look) -> str | None:
    """Why this is the layout, or None."""
    if not seen.names or not seen.has_file(MAPPING):
        return None
    videos = {stem for name in seen.names if (stem := _stem(name, FEATURES))}
    videos &= {stem for name in seen.names if (stem := _stem(name, LABELS))}
    return f"{MAPPING} and {len(videos)} videos in {FEATURES} and {LABELS}" if videos else None


def read_sequences(path: Path, how: Reading) -> SequenceSource:
    """Read a folder or zip with one package, or with those of both splits if `how.options.split` says which.

    Without CSV lists the videos' names decide. Videos in none of the lists are the split "rest". Damaged videos are collected
    in one error finding and left out. Raises `DataError` if mapping or lists cannot be read.
    """
    refuse_options(path, "lasa", how.options, "skip_list", "num_classes", "repair")
    notes = Notes()
    with open_listing(path, kind="zip of a LaSA package") as whole:
        wanted = split_kind(how.options.split)
        listing = _only(whole, wanted)
        files = {part: listing.clips(lambda name, part=part: _stem(name, part)) for part in (FEATURES, LABELS, BOUNDARIES)}  # type: ignore[misc]
        videos = sorted(files[FEATURES].keys() & files[LABELS].keys())
        if not videos:
            raise DataError("no video has features and labels", where=str(path), expected=f"{FEATURES}/X.npy, {LABELS}/X.npy")
        names = _mapping(listing)
        if names[0] != BACKGROUND:
            notes.add("mapping-background", names[0])
        chosen = _lists(listing) or _by_name(videos, wanted)
        for missing in sorted({name for listed in chosen.values() for name in listed} - set(videos)):
            notes.add("list-missing", missing)
        listed = {name for split in chosen.values() for name in split}
        if rest := [name for name in videos if name not in listed]:
            chosen["rest"] = rest
        splits: dict[str, Sequences] = {}
        tick = ticker(how.progress, len(videos))
        for split, members in chosen.items():
            same = next((other for other in splits if chosen[other] == members), None)
            if same:
                splits[split] = splits[same]
                continue
            sink = how.sinks(split, JOINTS, np.dtype(np.float32))
            builder = SequenceBuilder(sink, joints=JOINTS, max_people=PEOPLE)
            for name in members:
                if name in files[FEATURES] and name in files[LABELS]:
                    video = _video(listing, [files[part].get(name) for part in files], len(names), notes)
                    if video:
                        builder.add(name, *video)
                tick()
            splits[split] = builder.finish()
    findings = list(notes.findings()) + _overlaps(chosen)
    return SequenceSource(
        "lasa", how.reason, NTU25, names, splits, findings, ", ".join(f"{k} {len(v)}" for k, v in chosen.items())
    )


def _video(
    listing: Listing, files: list[str | None], classes: int, notes: Notes
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Frames (T, 2, 25, 3) float32, labels (T,), boundary (T,) of one video; None, and noted why, if it cannot be used."""
    feature_file, label_file, boundary_file = files
    assert feature_file and label_file, "asked before"
    try:
        frames = _array(listing, feature_file, "f")
        if frames.ndim < 2 or not 1 <= len(frames) <= MAX_FRAMES or frames.size != len(frames) * NUMBERS:
            raise DataError(f"shape {frames.shape}", where=feature_file, expected=f"(T, {NUMBERS})")
        labels = _vector(listing, label_file, "iu")
        marked = _vector(listing, boundary_file, "iufb") if boundary_file else boundaries(labels)
    except DataError as error:
        notes.add("clip-damaged", f"{error.where} ({error.what})")
        return None
    length = min(len(frames), len(labels), len(marked))
    if not len(frames) == len(labels) == len(marked):
        notes.add("length", f"{feature_file} ({len(frames)}, {len(labels)}, {len(marked)})")
    with np.errstate(over="ignore"):
        frames = frames[:length].reshape(-1, PEOPLE, JOINTS, 3).astype(np.float32)
    labels, marked = labels[:length], marked[:length].astype(bool)
    if not length or labels.min() < 0 or labels.max() >= classes:
        notes.add("label-range", label_file)
        return None
    if not usable(feature_file, frames, notes):
        return None
    if not np.array_equal(marked, boundaries(labels)):
        notes.add("boundary-differs", feature_file)
    return frames, labels, marked


def _array(listing: Listing, file: str, kinds: str) -> np.ndarray:
    raw = listing.read(file, limit=MAX_VIDEO_BYTES)
    stream = io.BytesIO(raw)
    header = read_header(stream, len(raw), file)
    if header.dtype.kind not in kinds:
        raise DataError(f"elements of type {header.dtype}", where=file, expected=f"numbers of kind {' or '.join(kinds)}")
    return read_array(stream, header)


def _vector(listing: Listing, file: str, kinds: str) -> np.ndarray:
    array = _array(listing, file, kinds)
    if array.ndim != 1:
        raise DataError(f"shape {array.shape}", where=file, expected="(T,)")
    return array


def _mapping(listing: Listing) -> tuple[str, ...]:
    """Class names by id. Raises `DataError` unless the ids are 0, 1, 2 ... each once."""
    files = [name for name in listing.names if PurePosixPath(name).name == MAPPING]
    if len(files) != 1:
        raise DataError(
            f"{len(files)} files {MAPPING}", where=str(listing.path), expected="one",
            next_step="give the folder of one package, or say --split subject or --split view",
        )  # fmt: skip
    found: dict[int, str] = {}
    for number, line in enumerate(_text(listing, files[0]).splitlines(), start=1):
        key, _, name = line.strip().partition(" ")
        if not line.strip():
            continue
        if not re.fullmatch("[0-9]{1,6}", key) or not name.strip() or int(key) in found:
            raise DataError(
                f"{line.strip()[:40]!r}", where=f"{listing.where(files[0])}, line {number}", expected="id name, each id once"
            )
        found[int(key)] = name.strip()
    if not found or set(found) != set(range(len(found))):
        raise DataError(f"{len(found)} class ids", where=listing.where(files[0]), expected="0, 1, 2 ... without a gap")
    return tuple(found[n] for n in range(len(found)))


def _lists(listing: Listing) -> dict[str, list[str]]:
    """Split -> names of its videos in the order of its CSV list; {} without lists."""
    chosen: dict[str, list[str]] = {}
    for file in sorted(listing.names, key=lambda name: ("train", "val", "test").index(_role(name) or "train")):
        role = _role(file)
        if role is None:
            continue
        if role in chosen:
            raise DataError(
                f"more than one {role} list", where=listing.where(file), expected="one of train, val and test each",
                next_step="give a folder with the lists of one split, or say --split subject or --split view",
            )  # fmt: skip
        try:
            rows = list(csv.DictReader(io.StringIO(_text(listing, file))))
        except csv.Error as error:
            raise DataError(f"not a CSV list: {error}", where=listing.where(file)) from None
        features = [row.get("feature") for row in rows]
        if not features or not all(features):
            raise DataError("no column feature, or rows without it", where=listing.where(file), expected="feature,label,boundary")
        chosen[role] = list(dict.fromkeys(PurePosixPath(str(feature).replace("\\", "/")).stem for feature in features))
    return chosen


def _by_name(videos: list[str], wanted: str) -> dict[str, list[str]]:
    train = trained_on(videos, kind_by_name(videos, wanted))
    return {"train": [v for v in videos if v in train], "test": [v for v in videos if v not in train]}


def _overlaps(chosen: dict[str, list[str]]) -> list[Finding]:
    """Lists that share videos: the published validation list by view is its test list."""
    findings = []
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = set(chosen.get(a, ())) & set(chosen.get(b, ()))
        if shared:
            text = f"{len(shared)} videos are in the lists of {a} and {b}, first: {min(shared)}"
            step = "choose the epoch on videos of your own choice, for example the split rest"
            findings.append(Finding("list-overlap", WARNING, text, count=len(shared), next_step=step))
    return findings


def _only(listing: Listing, wanted: str) -> Listing:
    """The listing without files of the other split's package."""
    others = [kind for kind in KINDS if wanted not in (kind, "auto")]
    return replace(listing, names=tuple(n for n in listing.names if not any(kind in n.lower() for kind in others)))


def _text(listing: Listing, file: str) -> str:
    return listing.read(file, limit=MAX_LIST_BYTES).decode("utf-8-sig", "replace")


def _role(name: str) -> str | None:
    match = _LIST.fullmatch(PurePosixPath(name).name)
    return match[1] if match else None


def _stem(name: str, part: str) -> str | None:
    file = PurePosixPath(name)
    return file.stem if file.suffix == ".npy" and file.parent.name == part else None
