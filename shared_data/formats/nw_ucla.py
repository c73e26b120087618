"""NW-UCLA: a folder or zip of JSON files ``aAA_sSS_eEE_vVV.json``, train = views 1 and 2, test = view 3.

Each file holds ``{"skeletons": [T][20][3]}``, one person. The rows stay float64, see `Clips`.
Source: the files as they are exchanged, and the published readers' protocol.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath

import numpy as np

from shared_data.classes import NW_UCLA
from shared_data.errors import DataError
from shared_data.findings import ERROR, WARNING, Finding
from shared_data.formats.listing import Listing, open_listing
from shared_data.formats.look import Look
from shared_data.formats.options import refuse_classes, refuse_options
from shared_data.formats.ragged import RaggedBuilder
from shared_data.formats.source import Reading, Source, Split, ticker
from shared_data.skeletons import UCLA20

NAME = re.compile(r"a(\d\d)_s(\d\d)_e(\d\d)_v(\d\d)")
ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)  # numbers in the file names -> class ids 0..9
TRAIN_VIEWS, TEST_VIEWS = (1, 2), (3,)
MAX_CLIP_BYTES = 64 << 20
MAX_FRAMES = 20_000
JOINTS = 20


def recognise(seen: Look) -> str | None:
    """Why this is the layout, or None."""
    clips = [name for name in seen.names if _clip_name(name)]
    if not clips or seen.kind not in ("folder", "zip"):
        return None
    return f"a {seen.kind} with {len(clips)} JSON files named like {PurePosixPath(clips[0]).name}"


def read(path: Path, how: Reading) -> Source:
    """Read a folder or a zip; clips are ordered by name. Raises `DataError` naming the file for anything malformed."""
    refuse_options(path, "nw_ucla", how.options, "skip_list", "repair")
    refuse_classes(path, how.options, len(NW_UCLA), "NW-UCLA has")
    with open_listing(path, kind="zip of NW-UCLA JSON files") as listing:
        files = listing.clips(_clip_name)
        if not files:
            raise DataError("no NW-UCLA clips found", where=str(path), expected="files named like a01_s01_e00_v01.json")
        findings, chosen = _choose(sorted(files), len(listing.names) - len(files))
        splits: dict[str, Split] = {}
        tick = ticker(how.progress, sum(len(names) for names in chosen.values()))
        for split, names in chosen.items():
            builder = RaggedBuilder(
                how.sinks(split, JOINTS, np.dtype(np.float64)), joints=JOINTS, max_people=1, dtype=np.float64, padded=False
            )
            for name in names:
                clip = _parse(listing, files[name])
                builder.add(clip[None, :, None])
                tick()
            labels = np.array([ACTIONS.index(int(name[1:3])) for name in names], np.int64)
            clips = builder.finish(labels, np.array(names, dtype="U"), frames=None)
            splits[split] = Split(clips, (len(names),), builder.scan)
    return Source("nw_ucla", how.reason, UCLA20, len(NW_UCLA), NW_UCLA, splits, findings)


def _choose(names: list[str], others: int) -> tuple[list[Finding], dict[str, list[str]]]:
    """Of the sorted clip `names` those of each split in order, and findings about files that belong to none."""
    findings = []
    if others:
        findings.append(Finding("file-ignored", WARNING, f"{others} other files were ignored", count=others))
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


def _clip_name(name: str) -> str | None:
    file = PurePosixPath(name)
    return file.stem if file.suffix == ".json" and NAME.fullmatch(file.stem) else None


def _parse(listing: Listing, file: str) -> np.ndarray:
    """One clip as (T, 20, 3) float64."""
    where = listing.where(file)
    text = listing.read(file, limit=MAX_CLIP_BYTES)
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
