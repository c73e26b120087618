"""NW-UCLA: a folder or zip of JSON files ``aAA_sSS_eEE_vVV.json``, train = views 1 and 2, test = view 3.

Each file holds ``{"skeletons": [T][20][3]}``, one person. The rows stay float64, see `Clips`.
Source: the files as they are exchanged, and the published readers' protocol.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from shared_data.classes import NW_UCLA
from shared_data.errors import DataError, MissingInputError
from shared_data.findings import ERROR, WARNING, Finding
from shared_data.formats.look import Look
from shared_data.formats.npz import check_members, damage_as_data_error, open_zip
from shared_data.formats.ragged import RaggedBuilder
from shared_data.formats.source import Reading, Source, Split, refuse_options
from shared_data.skeletons import UCLA20

NAME = re.compile(r"a(\d\d)_s(\d\d)_e(\d\d)_v(\d\d)")
ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)  # numbers in the file names -> class ids 0..9
TRAIN_VIEWS, TEST_VIEWS = (1, 2), (3,)
MAX_CLIP_BYTES = 64 << 20
MAX_FRAMES = 20_000
JOINTS = 20


@dataclass(frozen=True)
class _Listing:
    """Clip name -> where to read it; how many other files lie beside; the open zip, None for a folder."""

    clips: dict[str, str]
    others: int
    archive: zipfile.ZipFile | None


def recognise(seen: Look) -> str | None:
    """Why this is the layout, or None."""
    clips = [name for name in seen.names if _clip_name(name)]
    if not clips or seen.kind not in ("folder", "zip"):
        return None
    return f"a {seen.kind} with {len(clips)} JSON files named like {PurePosixPath(clips[0]).name}"


def read(path: Path, how: Reading) -> Source:
    """Read a folder or a zip; clips are ordered by name. Raises `DataError` naming the file for anything malformed."""
    refuse_options(path, "nw_ucla", how.options, "skip_list")
    if how.options.num_classes not in (None, len(NW_UCLA)):
        raise DataError(
            f"{how.options.num_classes} classes were asked for", where=str(path), expected=f"{len(NW_UCLA)} for NW-UCLA"
        )
    with _listing(path) as listing:
        if not listing.clips:
            raise DataError("no NW-UCLA clips found", where=str(path), expected="files named like a01_s01_e00_v01.json")
        findings, chosen = _choose(listing)
        splits: dict[str, Split] = {}
        total, done = sum(len(names) for names in chosen.values()), 0
        for split, names in chosen.items():
            builder = RaggedBuilder(
                how.sinks(split, JOINTS, np.dtype(np.float64)), joints=JOINTS, max_people=1, dtype=np.float64, padded=False
            )
            for name in names:
                clip = _parse(path, listing, name)
                builder.add(clip[None, :, None])
                done += 1
                if how.progress:
                    how.progress(done, total)
            labels = np.array([ACTIONS.index(int(name[1:3])) for name in names], np.int64)
            clips = builder.finish(labels, np.array(names, dtype="U"), frames=None)
            splits[split] = Split(clips, (len(names),), builder.scan)
    return Source("nw_ucla", how.reason, UCLA20, len(NW_UCLA), NW_UCLA, splits, findings)


def _choose(listing: _Listing) -> tuple[list[Finding], dict[str, list[str]]]:
    """Names of each split in order, and findings about files that belong to none."""
    findings = []
    if listing.others:
        text = f"{listing.others} other files were ignored"
        findings.append(Finding("file-ignored", WARNING, text, count=listing.others))
    names = sorted(listing.clips)
    unknown = [name for name in names if int(name[1:3]) not in ACTIONS]
    if unknown:
        known = ", ".join(f"a{number:02d}" for number in ACTIONS)
        text = f"{len(unknown)} clips of actions outside the ten classes ({known}), first: {unknown[0]}"
        findings.append(Finding("label-range", ERROR, text, unknown[0], len(unknown), next_step="remove these files"))
    strange = [name for name in names if int(name[-2:]) not in TRAIN_VIEWS + TEST_VIEWS]
    if strange:
        text = f"{len(strange)} clips of views other than 1, 2, 3 were left out, first: {strange[0]}"
        findings.append(Finding("view-unknown", WARNING, text, strange[0], len(strange)))
    usable = [name for name in names if name not in set(unknown)]
    return findings, {
        "train": [name for name in usable if int(name[-2:]) in TRAIN_VIEWS],
        "test": [name for name in usable if int(name[-2:]) in TEST_VIEWS],
    }


@contextmanager
def _listing(path: Path) -> Iterator[_Listing]:
    if path.is_dir():
        try:
            files = [file for file in path.rglob("*") if file.is_file()]
        except OSError as error:
            raise MissingInputError(f"cannot list the folder: {error.strerror}", where=str(path)) from None
        yield _collect(path, [str(file) for file in files], None)
        return
    with open_zip(path, kind="zip of NW-UCLA JSON files") as archive:
        check_members(path, archive)
        yield _collect(path, [info.filename for info in archive.infolist() if not info.is_dir()], archive)


def _collect(path: Path, names: list[str], archive: zipfile.ZipFile | None) -> _Listing:
    clips: dict[str, str] = {}
    for name in names:
        clip = _clip_name(name)
        if clip is None:
            continue
        if clip in clips:
            raise DataError(f"clip {clip} exists twice", where=f"{path}: {clips[clip]} and {name}", expected="each clip once")
        clips[clip] = name
    return _Listing(clips, len(names) - len(clips), archive)


def _clip_name(name: str) -> str | None:
    file = PurePosixPath(name)
    return file.stem if file.suffix == ".json" and NAME.fullmatch(file.stem) else None


def _parse(path: Path, listing: _Listing, name: str) -> np.ndarray:
    """One clip as (T, 20, 3) float64. Nothing is extracted to the disk, so member paths do not matter."""
    place = listing.clips[name]
    where = f"{path}, {place}" if listing.archive else place
    if listing.archive:
        info = listing.archive.getinfo(place)
        size = info.file_size
    else:
        size = Path(place).stat().st_size
    if size > MAX_CLIP_BYTES:
        raise DataError(f"a clip of {size:,} bytes", where=where, expected=f"at most {MAX_CLIP_BYTES:,}")
    if listing.archive:
        with damage_as_data_error(path, place):
            text = listing.archive.read(info)
    else:
        try:
            text = Path(place).read_bytes()
        except OSError as error:
            raise MissingInputError(f"cannot read the clip: {error.strerror}", where=where) from None
    shape = "an object with the key 'skeletons': frames x 20 joints x 3 numbers"
    try:
        content = json.loads(text)
        skeletons = content["skeletons"] if isinstance(content, dict) else None
    except KeyError:
        raise DataError(f"missing key skeletons, found: {', '.join(list(content)[:8])}", where=where, expected=shape) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {str(error)[:120]}", where=where, expected=shape) from None
    try:
        clip = np.array(skeletons, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            "frames or joints of unequal length, or values that are not numbers", where=where, expected=shape
        ) from None
    if clip.ndim != 3 or clip.shape[1:] != (JOINTS, 3) or not 1 <= len(clip) <= MAX_FRAMES:
        raise DataError(
            f"skeletons of shape {clip.shape}", where=where, expected=f"(T, {JOINTS}, 3) with T from 1 to {MAX_FRAMES}"
        )
    return clip
