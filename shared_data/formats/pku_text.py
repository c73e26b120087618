"""The text files of PKU-MMD: frames, labelled intervals and lists of training videos. No folder, no policy.

Source: the data set's own description and the published readers.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from shared_data.errors import DataError

PEOPLE, JOINTS, ACTIONS = 2, 25, 51
NUMBERS = PEOPLE * JOINTS * 3  # of one line: person 1, then person 2; joint by joint, x y z in metres
MAX_FRAMES = 100_000  # an hour at 30 frames per second; published videos last minutes
MAX_VIDEO_BYTES = 512 << 20
MAX_LIST_BYTES = 1 << 20
MAX_LABEL_BYTES = 256 << 10  # 10 000 intervals; published files have about 20
TEST_SUBJECTS = frozenset((2, 3, 7))  # of phase 2
TRAIN_VIEWS = frozenset("MR")

_NAME = re.compile(r"(?:[0-9]{4}|A[0-9]{2}N(?P<subject>[0-9]{2}))-(?P<view>[LMR])")


class VideoName(NamedTuple):
    """What the name of a video says: the view (L, M, R), and for phase 2 (``A01N02-L``) the subject; phase 1: ``0002-L``."""

    view: str
    subject: int | None


class Interval(NamedTuple):
    """Frames `start` to `end` - 1 of a video show `action` (1 to 51). Sorted as a tuple: by start."""

    start: int
    end: int
    action: int


@dataclass(frozen=True)
class TrainingList:
    """A published list: who is trained on. `kind` is "subject" or "view", `file` its name."""

    file: str
    kind: str
    videos: frozenset[str]


def video_name(text: str) -> VideoName | None:
    """The parts of a name like 0002-L or A01N02-L, None for anything else."""
    match = _NAME.fullmatch(text)
    if not match:
        return None
    return VideoName(match["view"], int(match["subject"]) if match["subject"] else None)


def parse_frames(text: bytes, where: str) -> np.ndarray:
    """(T, 2, 25, 3) float32, rounded from float64. Raises `DataError` naming the first line that is not 150 numbers.

    NaN and infinite values are numbers here; `broken_line` finds them. Blank lines at the end do not count.
    """
    lines = text.rstrip().splitlines()
    if not 1 <= len(lines) <= MAX_FRAMES:
        raise DataError(f"{len(lines):,} lines", where=where, expected=f"1 to {MAX_FRAMES:,} lines, one per frame")
    counts = np.fromiter((len(line.split()) for line in lines), np.int64, len(lines))
    wrong = np.flatnonzero(counts != NUMBERS)
    if len(wrong):
        raise _bad(where, int(wrong[0]), f"{counts[wrong[0]]} values")
    try:
        if b"_" in text:  # float() takes 1_000 for a number
            raise ValueError
        numbers = np.fromiter(map(float, chain.from_iterable(map(bytes.split, lines))), np.float64, len(lines) * NUMBERS)
    except ValueError:
        at, value = next((at, value) for at, line in enumerate(lines) for value in line.split() if not _is_number(value))
        raise _bad(where, at, f"{value[:40].decode('ascii', 'backslashreplace')!r} is not a number") from None
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32).reshape(-1, PEOPLE, JOINTS, 3)


def broken_line(frames: np.ndarray) -> int | None:
    """The 1-based line of the first frame that holds NaN or an infinite value, None if there is none."""
    bad = np.flatnonzero(~np.isfinite(frames.reshape(len(frames), -1)).all(1))
    return int(bad[0]) + 1 if len(bad) else None


def parse_intervals(text: bytes, where: str) -> tuple[list[Interval], list[str]]:
    """Intervals sorted by start, and what is wrong with which lines, one clause each; such lines give no interval.

    A line is: action from 1, start frame, end frame, confidence. Whether an interval fits its video is not asked here.
    """
    intervals, wrong = [], []
    for number, line in enumerate(text.decode("utf-8-sig", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        place, parts = f"{where} line {number}", [part.strip() for part in line.split(",")]
        whole = [int(part) for part in parts[:3] if re.fullmatch(r"-?[0-9]{1,9}", part)]
        if len(parts) != 4 or len(whole) != 3:
            wrong.append(f"{place} ({line.strip()[:40]!r} is not: action, start, end, confidence)")
        elif not 1 <= whole[0] <= ACTIONS:
            wrong.append(f"{place} (action {whole[0]} is not in 1 to {ACTIONS})")
        elif whole[1] < 0:
            wrong.append(f"{place} (starts at frame {whole[1]})")
        else:
            intervals.append(Interval(whole[1], whole[2], whole[0]))
    return sorted(intervals), wrong


def parse_list(file: str, text: bytes, known: Collection[str]) -> TrainingList | None:
    """The list of training videos in `text`, None if it is none: the second line names them, separated by commas.

    `known` are the videos that exist; one of them must be named. A file name that holds "subject" or "view" says which
    protocol it is; if it does not, a list by view leaves whole views to the test.
    """
    lines = text.decode("utf-8-sig", "replace").splitlines()
    if len(lines) < 2:
        return None
    videos = frozenset(name for part in lines[1].split(",") if (name := part.strip()))
    if not videos & set(known):
        return None
    if "subject" in file.lower() or "view" in file.lower():
        return TrainingList(file, "subject" if "subject" in file.lower() else "view", videos)
    tested = {name[-1:] for name in set(known) - videos}
    return TrainingList(file, "view" if tested.isdisjoint(name[-1:] for name in videos) else "subject", videos)


def paint(intervals: list[Interval], frames: int) -> np.ndarray:
    """(T,) int64 class of each frame: the action's number, 0 where there is none. Where intervals overlap the later wins."""
    labels = np.zeros(frames, np.int64)
    for interval in sorted(intervals):
        labels[interval.start : interval.end] = interval.action
    return labels


def _is_number(value: bytes) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return b"_" not in value


def _bad(where: str, at: int, what: str) -> DataError:
    return DataError(what, where=f"{where}, line {at + 1}", expected=f"{NUMBERS} numbers", next_step="copy the file again")
