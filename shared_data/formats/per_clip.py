"""Own recordings: a folder or zip of one CSV, NPY or JSON file per clip, with a table labels.csv that says what each shows.

docs/your-data.md describes the files. Nothing is guessed in silence: what was inferred (split, classes, units) is a finding.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from shared_data.errors import DataError, nearest
from shared_data.findings import ERROR, INFO, WARNING, Finding
from shared_data.formats.clip_files import MAX_CLIP_BYTES, SUFFIXES, clip_of, header_of, parse, skeleton_of
from shared_data.formats.label_table import (
    DESCRIPTIONS,
    LABELS,
    MAX_DESCRIPTION,
    Description,
    Entry,
    class_ids,
    read_description,
    read_labels,
)
from shared_data.formats.listing import Listing, open_listing
from shared_data.formats.look import Look
from shared_data.formats.options import refuse_options
from shared_data.formats.ragged import RaggedBuilder
from shared_data.formats.source import Reading, Source, Split, ticker

TEST_SHARE = 0.2
_NAMED = 5  # files that a message spells out


def recognise(seen: Look) -> str | None:
    """Why this is the layout, or None."""
    if seen.kind not in ("folder", "zip", "npz") or not seen.has_file(LABELS):
        return None
    clips = [name for name in seen.names if _is_clip(name)]
    return f"a {'folder' if seen.kind == 'folder' else 'zip'} with {LABELS} and {len(clips)} clip files" if clips else None


def read(path: Path, how: Reading) -> Source:
    """Read a folder or a zip, one clip at a time. Raises `DataError` naming file and line for anything malformed."""
    refuse_options(path, "per_clip", how.options, "skip_list", "repair")
    with open_listing(path, kind=f"folder or zip with {LABELS}") as listing:
        root = _root(listing)
        entries, findings = read_labels(listing.read(root + LABELS, limit=MAX_CLIP_BYTES), listing.where(root + LABELS))
        described = _description(listing, root)
        ids, names, found = class_ids(entries, described.classes, how.options.num_classes, listing.where(root + LABELS))
        findings += [*found, *_files(listing, root, entries)]
        chosen, found = divide(entries, ids, listing.where(root + LABELS))
        findings += found
        layout = described.skeleton
        if layout is None:
            first = min(entries, key=lambda entry: entry.file).file
            layout = skeleton_of(_values(listing, root + first)[0], listing.where(root + first))
            text = f"{layout.joints} joints in {first}: taken for {layout.name}, {layout.title}"
            findings.append(Finding("skeleton-inferred", INFO, text))
        if described.per_metre != 1:
            text = f"all values were divided by {described.per_metre:g}: the description says that they are not metres"
            findings.append(Finding("unit-converted", INFO, text))
        people, tick = 1, ticker(how.progress, len(entries))
        headers: dict[str, str] = {}  # file -> first line that was left out
        splits: dict[str, Split] = {}
        for split, numbers in chosen.items():
            sink = how.sinks(split, layout.joints, np.dtype(np.float32))
            builder = RaggedBuilder(sink, joints=layout.joints, max_people=people, padded=False)
            for n in numbers:
                name = root + entries[n].file
                values, header = _values(listing, name)
                if header:
                    headers[entries[n].file] = header
                clip = clip_of(values, layout, listing.where(name))
                people = max(people, clip.shape[1])
                with np.errstate(invalid="ignore"):  # NaN is judged later, with all clips
                    builder.add(clip[None] / described.per_metre)
                tick()
            clips = builder.finish(ids[numbers], np.array([entries[n].file for n in numbers], "U"), frames=None)
            splits[split] = Split(clips, (len(numbers),), builder.scan)
        if headers:
            first, line = min(headers.items())
            text = f"the first line of {len(headers)} CSV files names columns and was left out ({_told([first, line[:60]])})"
            findings.append(Finding("header-skipped", INFO, text, count=len(headers)))
        # How many people there are is known only after the last clip.
        splits = {name: replace(split, clips=replace(split.clips, max_people=people)) for name, split in splits.items()}
    about = ": ".join(text for text in (described.name, described.about) if text)
    return Source("per_clip", how.reason, layout, len(names), names, splits, findings, about)


def divide(entries: list[Entry], ids: np.ndarray, where: str) -> tuple[dict[str, list[int]], list[Finding]]:
    """Positions of the entries of each split, ordered by subject, then file; and how they were divided.

    By the split column if there is one. Else whole subjects are held out, in the order of a hash of their names, until they
    are 20 % of the clips. Else 20 % of each class are, in the order of a hash of the file names. Both are the same on every
    machine. Raises `DataError` if there is only one subject.
    """
    order = sorted(range(len(entries)), key=lambda n: (entries[n].subject, entries[n].file))
    findings = []
    if entries[0].split:
        test = {n for n in order if entries[n].split == "test"}
        both = {entries[n].subject for n in test} & {entries[n].subject for n in order if n not in test} - {""}
        if both:
            text = f"{len(both)} subjects are in train and test: {_told(sorted(both))}"
            findings.append(
                Finding(
                    "subject-in-both",
                    WARNING,
                    text,
                    LABELS,
                    len(both),
                    next_step="give each subject one split, unless cameras or days divide them",
                )
            )
    elif entries[0].subject:
        held, test = [], set()
        for subject in sorted({entry.subject for entry in entries}, key=_hash)[:-1]:
            if len(test) >= TEST_SHARE * len(entries):
                break
            held.append(subject)
            test |= {n for n in order if entries[n].subject == subject}
        if not held:
            raise DataError("all clips are of one subject, nobody can be held out", where=where, expected="a split column")
        text = f"no split column: the clips of {len(held)} subjects ({_told(held)}) are the test split, {len(test)} clips"
        findings.append(Finding("split-by-subject", INFO, text, LABELS, len(test)))
    else:
        per_class = defaultdict(list)
        for n in sorted(order, key=lambda n: _hash(entries[n].file)):
            per_class[int(ids[n])].append(n)
        test = {n for members in per_class.values() for n in members[: _share(len(members))]}
        text = f"no split and no subject column: {len(test)} clips, about {TEST_SHARE:.0%} of each class, are the test split"
        step = "add a column split or subject: the same people in train and test make accuracies too high"
        findings.append(Finding("split-by-hash", WARNING, text, LABELS, len(test), next_step=step))
    return {"train": [n for n in order if n not in test], "test": [n for n in order if n in test]}, findings


def _share(clips: int) -> int:
    """How many of so many clips of a class are for testing; the only clip of a class is trained on."""
    return max(1, round(TEST_SHARE * clips)) if clips > 1 else 0


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _is_clip(name: str) -> bool:
    """Whether a file is a clip by its name; files that systems hide or add are none."""
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in SUFFIXES and path.name != LABELS and not hidden


def _root(listing: Listing) -> str:
    """The folder of labels.csv inside the listing: "" or a path that ends in /."""
    places = sorted((n for n in listing.names if PurePosixPath(n).name == LABELS), key=lambda n: n.count("/"))
    if not places:
        raise DataError(f"no {LABELS}", where=str(listing.path), expected="a table with the columns file, label beside the clips")
    if len(places) > 1 and places[0].count("/") == places[1].count("/"):
        raise DataError(f"more than one {LABELS}", where=f"{listing.path}: {places[0]} and {places[1]}", expected="one")
    return places[0][: -len(LABELS)]


def _description(listing: Listing, root: str) -> Description:
    found = [name for name in DESCRIPTIONS if root + name in listing.names]
    if len(found) > 1:
        raise DataError(f"both {found[0]} and {found[1]}", where=str(listing.path), expected="one of them")
    if not found:
        return Description()
    name = root + found[0]
    return read_description(found[0], listing.read(name, limit=MAX_DESCRIPTION), listing.where(name))


def _files(listing: Listing, root: str, entries: list[Entry]) -> list[Finding]:
    """Findings about clip files without a label. Raises `DataError` for a label without a file or of an unknown kind."""
    there = {name[len(root) :] for name in listing.names if name.startswith(root)}
    listed = {entry.file for entry in entries}
    for entry in entries:
        at = f"{listing.where(root + LABELS)}, line {entry.line}"
        if entry.file not in there:
            missing = len(listed - there)
            more = f" ({missing} files are missing in all)" if missing > 1 else ""
            raise DataError(
                f"no file {entry.file}{nearest(entry.file, there)}{more}", where=at, expected="a file beside the table"
            )
        if not _is_clip(entry.file):
            raise DataError(f"{entry.file} is no clip", where=at, expected=f"a file ending in {', '.join(SUFFIXES)}")
    extra = sorted(name for name in there - listed if _is_clip(name))
    if not extra:
        return []
    text = f"{len(extra)} clip files have no line in {LABELS}: {_told(extra)}"
    return [Finding("clip-unlabelled", ERROR, text, LABELS, len(extra), next_step="add a line for each, or move them elsewhere")]


def _values(listing: Listing, name: str) -> tuple[np.ndarray, str]:
    """The numbers of a clip file, and the header of a CSV that has one."""
    data = listing.read(name, limit=MAX_CLIP_BYTES)
    return parse(name, data, listing.where(name)), header_of(name, data)


def _told(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return shown.encode("utf-8", "replace").decode()  # names on a disk need not be text
