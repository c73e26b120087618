"""NW-UCLA as untrimmed sequences: its clips, joined. There is no recording of the pauses between them, so no frame is background.

About eight clips of one subject in one view make a sequence, in an order that follows from a seed and the names alone; every
clip is used once. Sequences of views 1 and 2 are for training, those of view 3 for testing. The protocol is ours: real motion
to learn segmentation on with little room and time, nothing to compare with published figures.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from shared_data.classes import NW_UCLA
from shared_data.clips import Clips
from shared_data.findings import INFO, Finding, refuse_errors
from shared_data.formats import nw_ucla
from shared_data.formats.duplicates import duplicates
from shared_data.formats.look import Look
from shared_data.formats.ragged import in_memory
from shared_data.formats.reading import settle
from shared_data.formats.source import Reading
from shared_data.sequences import SequenceBuilder, Sequences, SequenceSource

CLIPS = 8  # of a sequence, about
_ROOT, _LEVEL = 0, [0, 2]  # the hip centre, and the axes of the floor


def recognise(seen: Look) -> str | None:
    """Never: its files are clips unless somebody asks for sequences."""
    return None


def read_sequences(path: Path, how: Reading) -> SequenceSource:
    """The layout `nw_ucla` of sequences, joined by seed 0. Raises `DataError` as the reader of clips does."""
    return _joined_source(path, how, seed=0, clips=CLIPS)


def ucla_sequences(path: str | Path, *, seed: int = 0, clips: int = CLIPS) -> SequenceSource:
    """Sequences of about `clips` clips each, named sSS_vVV_NN. Classes: "background", which never occurs, and the ten actions.

    Each clip is moved along the floor so that its hips begin where those of the one before ended; heights stay as recorded (who
    sat down may stand up at once in the next clip). The sequence is then moved as a whole to where its clips were on average,
    so that it stays about where encoders of clips have seen people. The pose still jumps where clips meet. Two clips of the same
    action that follow each other are one segment. Raises `DataError` as the reader of clips does, also for clips of NaN.
    """
    return _joined_source(Path(path), Reading(), seed=seed, clips=clips)


def _joined_source(path: Path, how: Reading, *, seed: int, clips: int) -> SequenceSource:
    source = nw_ucla.read(path, replace(how, sinks=in_memory))
    held, findings = settle(source, how.options)
    refuse_errors(findings, path)
    splits: dict[str, Sequences] = {}
    for split, part in held.items():
        sink = how.sinks(split, nw_ucla.JOINTS, np.dtype(np.float32))
        builder = SequenceBuilder(sink, joints=nw_ucla.JOINTS, max_people=1)
        for take in sorted({_take(name) for name in part.ids.tolist()}):
            own = np.array([n for n, name in enumerate(part.ids.tolist()) if _take(name) == take])
            own = own[np.argsort([_draw(seed, str(part.ids[n])) for n in own], kind="stable")]
            for number, chosen in enumerate(np.array_split(own, max(1, round(len(own) / clips)))):
                builder.add(f"{take}_{number:02d}", *_joined(part, chosen))
        splits[split] = builder.finish()
    about = f"clips of NW-UCLA joined to sequences of about {clips}, seed {seed}"
    findings += [*duplicates(source.splits), Finding("joined", INFO, f"{about}; no frame is background")]
    return SequenceSource("nw_ucla", how.reason, source.skeleton, ("background", *NW_UCLA), splits, findings, about)


def _take(name: str) -> str:
    """Subject and view: "s01_v02" of a01_s01_e00_v02."""
    return f"{name[4:7]}_{name[-3:]}"


def _draw(seed: int, name: str) -> bytes:
    """A random number of a name: sorting by it gives the same order on every machine, whatever other clips there are."""
    return hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()


def _joined(part: Clips, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, 1, 20, 3) and class ids (T,) of the clips at `chosen`, one after the other."""
    recorded = [part.clip(int(n)) for n in chosen]
    moved, floor = [], recorded[0][0, 0, _ROOT, _LEVEL]
    for clip in recorded:
        at = clip.copy()
        at[..., _LEVEL] += floor - clip[0, 0, _ROOT, _LEVEL]
        floor = at[-1, 0, _ROOT, _LEVEL]
        moved.append(at)
    frames, before = np.concatenate(moved), np.concatenate(recorded)
    frames[..., _LEVEL] += (before - frames)[:, 0, _ROOT, _LEVEL].mean(0)
    labels = np.repeat(part.labels[chosen] + 1, [len(clip) for clip in recorded])
    return frames, labels
