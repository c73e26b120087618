"""A folder or zip of PKU-MMD's text files: which videos there are, how they are divided, what is wrong with which file.

Frames lie in a folder with "skeleton" in its name, labels in one with "label", a file ``NAME.txt`` in each. Lists of
training videos may lie anywhere and are known by their content.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from shared_data.errors import DataError, UsageError, nearest
from shared_data.findings import ERROR, INFO, WARNING, Finding
from shared_data.formats.listing import Listing
from shared_data.formats.pku_text import (
    MAX_LABEL_BYTES,
    MAX_LIST_BYTES,
    MAX_VIDEO_BYTES,
    TEST_SUBJECTS,
    TRAIN_VIEWS,
    Interval,
    TrainingList,
    parse_frames,
    parse_intervals,
    parse_list,
    video_name,
)

KINDS = ("subject", "view")
ALIASES = {"xsub": "subject", "xview": "view"}
_NAMED = 3  # how many places a message spells out
_REPAIR = "correct these lines or copy the files again"

# code -> (severity, what was noticed in so many places, what to do)
_NOTES = {
    "clip-damaged": (ERROR, "damaged files", "copy these files again"),
    "line-nan": (WARNING, "skeleton files hold NaN or infinite values", _REPAIR),
    "label-damaged": (ERROR, "label lines that cannot be used", _REPAIR),
    "sequence-nan": (ERROR, "videos hold NaN or infinite values", _REPAIR),
    "label-missing": (WARNING, "videos without a label file were left out", ""),
    "skeleton-missing": (WARNING, "label files without a video were left out", ""),
    "list-missing": (WARNING, "videos of the training list are not there", "copy the missing files"),
    "interval-empty": (WARNING, "labelled intervals without a frame of their video were left out", _REPAIR),
    "interval-cut": (WARNING, "labelled intervals end after their video and were cut there", ""),
    "interval-twice": (WARNING, "labelled intervals written twice, taken once", ""),
    "interval-overlap": (WARNING, "labelled intervals begin before the one before has ended", ""),
    "clip-blank": (WARNING, "labelled intervals in which nobody is seen were left out", ""),
    "sequence-blank": (WARNING, "videos in which nobody is ever seen were left out", ""),
    "clip-cut": (WARNING, "clips longer than the longest that is kept, of which the rest was cut", ""),
    "length": (WARNING, "videos whose frames, labels and boundaries differ in number, cut to the shortest", ""),
    "boundary-differs": (INFO, "videos have other boundaries than their labels give; theirs are kept", ""),
    "mapping-background": (
        WARNING,
        "class 0 is taken for background, but has another name",
        "see that mapping.txt is the right one",
    ),
    "label-range": (ERROR, "videos with class ids that mapping.txt does not name", "correct the labels or mapping.txt"),
}


@dataclass
class Notes:
    """What was noticed about single files, collected by kind so that thousands of bad files make one finding."""

    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, code: str, place: str) -> None:
        """`place` is a file, line or interval; `code` is one of the table above."""
        self.places.setdefault(code, []).append(place)

    def count(self, code: str) -> int:
        """How many places were noted under `code`."""
        return len(self.places.get(code, ()))

    def findings(self) -> Iterator[Finding]:
        """One per kind, naming the first few places."""
        for code, (severity, what, step) in _NOTES.items():
            places = self.places.get(code, [])
            if places:
                more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
                text = f"{len(places)} {what}: {'; '.join(places[:_NAMED])}{more}"
                yield Finding(code, severity, text, count=len(places), next_step=step)


@dataclass(frozen=True)
class Folder:
    """The videos below a listing: name -> file of its frames, name -> file of its labels, the lists, how many other files."""

    listing: Listing
    frames: dict[str, str]
    labels: dict[str, str]
    lists: tuple[TrainingList, ...]
    others: int

    @property
    def videos(self) -> list[str]:
        """Names of the videos with frames and labels, sorted."""
        return sorted(self.frames.keys() & self.labels.keys())

    def read_frames(self, name: str, notes: Notes) -> np.ndarray | None:
        """(T, 2, 25, 3) float32 of a video; None, and noted, if the file is damaged."""
        file = self.frames[name]
        try:
            return parse_frames(self.listing.read(file, limit=MAX_VIDEO_BYTES), file)
        except DataError as error:
            notes.add("clip-damaged", _clause(error))
            return None

    def read_intervals(self, name: str, frames: int, notes: Notes) -> list[Interval]:
        """Intervals of a video of so many `frames`, sorted by start, all inside it; what had to be changed is noted."""
        file = self.labels[name]
        try:
            found, wrong = parse_intervals(self.listing.read(file, limit=MAX_LABEL_BYTES), file)
        except DataError as error:
            notes.add("label-damaged", _clause(error))
            return []
        for place in wrong:
            notes.add("label-damaged", place)
        kept: dict[Interval, None] = {}  # in order
        latest = 0  # end of the intervals so far
        for interval in found:
            place = f"{name} {interval.start} to {interval.end}"
            if interval.start >= min(interval.end, frames):
                notes.add("interval-empty", place + (f" of {frames}" if interval.start < interval.end else ""))
                continue
            if interval in kept:
                notes.add("interval-twice", place)
                continue
            if interval.end > frames:
                notes.add("interval-cut", f"{place} of {frames}")
            if interval.start < latest:
                notes.add("interval-overlap", place)
            latest = max(latest, interval.end)
            kept[interval] = None
        return [interval._replace(end=min(interval.end, frames)) for interval in kept]


def part_of(name: str) -> tuple[str, str] | None:
    """("skeleton" or "label", video) of a file by the name of its folder, None for any other file."""
    file = PurePosixPath(name)
    folder = file.parent.name.lower()
    if file.suffix != ".txt":
        return None
    return next(((part, file.stem) for part in ("skeleton", "label") if part in folder), None)


def open_folder(listing: Listing) -> Folder:
    """What lies below `listing`. Raises `DataError` if no video has both frames and labels, or one exists twice."""
    frames = listing.clips(lambda name: _stem(name, "skeleton"))
    labels = listing.clips(lambda name: _stem(name, "label"))
    if not frames.keys() & labels.keys():
        raise DataError(
            f"{len(frames)} skeleton and {len(labels)} label files, no video with both",
            where=str(listing.path),
            expected="skeleton/NAME.txt and label/NAME.txt",
        )
    rest = [name for name in listing.names if part_of(name) is None]
    lists = [_read_list(listing, name, frames) for name in rest if name.endswith(".txt")]
    found = tuple(each for each in lists if each is not None)
    return Folder(listing, frames, labels, found, len(rest) - len(found))


def _read_list(listing: Listing, name: str, known: Collection[str]) -> TrainingList | None:
    try:
        return parse_list(name, listing.read(name, limit=MAX_LIST_BYTES), known)
    except DataError:  # too large to be a list, or damaged: some other file
        return None


def divide(folder: Folder, split: str, notes: Notes) -> tuple[dict[str, list[str]], list[Finding], str]:
    """Sorted names of each split's videos, findings, and in words what decided.

    split  "subject" (xsub), "view" (xview), or "auto": the only list there is, else the only rule that the names allow
    A list of that kind decides before the names. Raises `UsageError` if nothing says who is trained on.
    """
    wanted = split_kind(split)
    for name in sorted(folder.frames.keys() - folder.labels.keys()):
        notes.add("label-missing", name)
    for name in sorted(folder.labels.keys() - folder.frames.keys()):
        notes.add("skeleton-missing", name)
    findings = [Finding("file-ignored", WARNING, f"{folder.others} other files were ignored", count=folder.others)]
    videos = folder.videos
    listed = [each for each in folder.lists if wanted in (each.kind, "auto")]
    if len(listed) > 1:
        files = ", ".join(each.file for each in listed)
        if wanted == "auto":
            raise UsageError(
                f"there are {len(listed)} lists: say which split: {files}", where="--split", expected=", ".join(KINDS)
            )
        raise DataError(
            f"{len(listed)} lists of training videos by {wanted}", where=f"{folder.listing.path}: {files}", expected="one",
            next_step="give a folder with one phase of PKU-MMD",
        )  # fmt: skip
    if listed:
        train, about = listed[0].videos, f"divided by {listed[0].kind}, {listed[0].file}"
        for name in sorted(train - folder.frames.keys()):
            notes.add("list-missing", name)
    else:
        kind = kind_by_name(videos, wanted)
        train, about = trained_on(videos, kind), f"divided by {kind}, as the names say"
    findings.append(Finding("split", INFO, about))
    chosen = {
        "train": [name for name in videos if name in train],
        "test": [name for name in videos if name not in train],
    }
    return chosen, findings if folder.others else findings[1:], about


def split_kind(split: str) -> str:
    """ "subject", "view" or "auto" for what a user calls the split; raises `UsageError` naming the nearest of them."""
    known = (*KINDS, "auto")
    wanted = ALIASES.get(split, split)
    if wanted not in known:
        raise UsageError(f"no split {split!r} of PKU-MMD{nearest(split, known)}", where="--split", expected=", ".join(known))
    return wanted


def kind_by_name(videos: Iterable[str], wanted: str) -> str:
    """The kind of split that the names of all `videos` allow. Raises `UsageError` if there is none or, for "auto", two."""
    names = {video: video_name(video) for video in videos}
    unknown = next((video for video, name in names.items() if name is None), None)
    if unknown is not None:
        raise UsageError(
            f"no list of training videos, and the name {unknown!r} says neither view nor subject",
            where="--split",
            expected="a list in the folder, or names like 0002-L or A01N02-L",
        )
    with_subject = all(name is not None and name.subject is not None for name in names.values())
    if wanted == "subject" and not with_subject:
        raise UsageError(
            "names of phase 1 do not say the subject, and there is no list of training videos by subject", where="--split",
            expected="the published list beside the folders of frames and labels, or --split view",
        )  # fmt: skip
    if wanted == "auto" and with_subject:
        raise UsageError(
            "PKU-MMD is divided in 2 ways: say which", where="--split", expected=", ".join(KINDS),
            next_step="for example --split subject",
        )  # fmt: skip
    return "view" if wanted == "auto" else wanted


def trained_on(videos: Iterable[str], kind: str) -> frozenset[str]:
    """The `videos` whose view is M or R, or whose subject is none of the three that are tested; all names must be known ones."""
    names = {video: name for video in videos if (name := video_name(video))}
    if kind == "view":
        return frozenset(video for video, name in names.items() if name.view in TRAIN_VIEWS)
    return frozenset(video for video, name in names.items() if name.subject not in TEST_SUBJECTS)


def _stem(name: str, part: str) -> str | None:
    found = part_of(name)
    return found[1] if found and found[0] == part else None


def _clause(error: DataError) -> str:
    return f"{error.where} ({error.what})"
