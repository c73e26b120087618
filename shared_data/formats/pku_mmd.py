"""PKU-MMD phase 1 and 2 as published, text files: each labelled interval is a clip, or each video is one sequence.

The clips are those that MAMP and STARS prepare: the frames [start, end) of each label line, nothing centred, bodies in the
order of the file, cut after 300 frames, 51 classes in both phases. Their rows follow a directory listing; here they are
ordered by video, then by start. Source: the published preparation and readers; file formats see `pku_text`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared_data.classes import class_names
from shared_data.formats.listing import open_listing
from shared_data.formats.look import Look
from shared_data.formats.options import refuse_classes, refuse_options
from shared_data.formats.pku_folder import Folder, Notes, divide, open_folder, part_of
from shared_data.formats.pku_text import ACTIONS, JOINTS, PEOPLE, Interval, broken_line, paint
from shared_data.formats.ragged import RaggedBuilder
from shared_data.formats.source import Reading, Source, Split, ticker
from shared_data.sequences import SequenceBuilder, SequenceSource
from shared_data.skeletons import NTU25

FRAMES = 300  # T of the prepared files; longer clips are cut, not resampled


def recognise(seen: Look) -> str | None:
    """Why this is the layout, or None."""
    if seen.kind not in ("folder", "zip"):
        return None
    parts = [part for name in seen.names if (part := part_of(name))]
    videos = {video for part, video in parts if part == "skeleton"} & {video for part, video in parts if part == "label"}
    return f"a {seen.kind} with {len(videos)} videos in skeleton and label files like {min(videos)}.txt" if videos else None


def read(path: Path, how: Reading) -> Source:
    """Read a folder or a zip as clips; `how.options.split` is "subject", "view" or "auto", see `divide`.

    A clip is named VIDEO_ACTION_START_END. Files and label lines that cannot be read are error findings that name file and
    line. Intervals outside their video, overlapping or without anybody in them are warnings.
    """
    _check(path, how)
    notes, splits = Notes(), {}
    with open_listing(path, kind="zip of PKU-MMD text files") as listing:
        folder = open_folder(listing)
        chosen, findings, about = divide(folder, how.options.split, notes)
        tick = ticker(how.progress, len(folder.videos))
        for split, videos in chosen.items():
            builder = RaggedBuilder(how.sinks(split, JOINTS, np.dtype(np.float32)), joints=JOINTS, max_people=PEOPLE)
            labels, ids = [], []
            for video in videos:
                for interval, clip in _clips(folder, video, notes):
                    builder.add(clip[None])
                    labels.append(interval.action - 1)
                    ids.append(_clip_id(video, interval))
                tick()
            clips = builder.finish(np.array(labels, np.int64), np.array(ids, dtype="U"), frames=FRAMES)
            splits[split] = Split(clips, (len(ids),), builder.scan)
    findings += notes.findings()
    return Source("pku_mmd", how.reason, NTU25, ACTIONS, class_names(ACTIONS), splits, findings, about)


def read_sequences(path: Path, how: Reading) -> SequenceSource:
    """Read a folder or a zip as whole videos with a class per frame: 0 is background, then the 51 actions.

    Where intervals overlap, the one that starts later has the frame. Videos that hold NaN or cannot be read are error
    findings and left out, and so are those with a label line that cannot be used, whose frames would pass for background, and
    those in which nobody is ever seen (a warning).
    """
    _check(path, how)
    notes, splits = Notes(), {}
    with open_listing(path, kind="zip of PKU-MMD text files") as listing:
        folder = open_folder(listing)
        chosen, findings, about = divide(folder, how.options.split, notes)
        tick = ticker(how.progress, len(folder.videos))
        for split, videos in chosen.items():
            sink = how.sinks(split, JOINTS, np.dtype(np.float32))
            builder = SequenceBuilder(sink, joints=JOINTS, max_people=PEOPLE)
            for video in videos:
                frames = folder.read_frames(video, notes)
                if frames is not None and usable(folder.frames[video], frames, notes):
                    damaged = notes.count("label-damaged")
                    intervals = folder.read_intervals(video, len(frames), notes)
                    if notes.count("label-damaged") == damaged:
                        builder.add(video, frames, paint(intervals, len(frames)))
                tick()
            splits[split] = builder.finish()
    findings += notes.findings()
    return SequenceSource("pku_mmd", how.reason, NTU25, ("background", *class_names(ACTIONS)), splits, findings, about)


def usable(file: str, frames: np.ndarray, notes: Notes) -> bool:
    """Whether the sequence read from `file` can be trained on; if not, it is noted why."""
    if not frames.any():
        notes.add("sequence-blank", file)
        return False
    line = broken_line(frames)
    if line is not None:
        notes.add("sequence-nan", f"{file} line {line}")
    return line is None


def _check(path: Path, how: Reading) -> None:
    refuse_options(path, "pku_mmd", how.options, "skip_list", "repair")
    refuse_classes(path, how.options, ACTIONS, "both phases of PKU-MMD have")


def _clips(folder: Folder, video: str, notes: Notes) -> list[tuple[Interval, np.ndarray]]:
    """The clips of a video, each (T, 2, 25, 3) with T at most 300, in order of their start."""
    frames = folder.read_frames(video, notes)
    if frames is None:
        return []
    line = broken_line(frames)
    if line is not None:  # whether it matters, the clips will tell
        notes.add("line-nan", f"{folder.frames[video]} line {line}")
    clips = []
    for interval in folder.read_intervals(video, len(frames), notes):
        name, length = _clip_id(video, interval), interval.end - interval.start
        clip = frames[interval.start : interval.end][:FRAMES]
        if not clip.any():
            notes.add("clip-blank", name)
            continue
        if length > FRAMES:
            notes.add("clip-cut", f"{name} of {length} frames")
        clips.append((interval, clip))
    return clips


def _clip_id(video: str, interval: Interval) -> str:
    return f"{video}_{interval.action:02d}_{interval.start}_{interval.end}"
