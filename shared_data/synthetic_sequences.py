"""Made-up untrimmed sequences that segmentation can be learned from, for machines without data. They say that they are synthetic.

The rigid-bone figures of `synthetic` do one action after the other, with pauses of standing by in between, without a jump
anywhere. Two of the classes are told apart by order alone: both are raising the arms and bowing, one after the other, so a
frame's class depends on what comes before and after it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from shared_data.atomic import whole_file
from shared_data.clips import Clips
from shared_data.errors import LabError
from shared_data.formats.ragged import RaggedBuilder, in_memory
from shared_data.pipelines.normalised import normalised
from shared_data.sequences import SequenceBuilder, Sequences, SequenceSource
from shared_data.skeletons import NTU25
from shared_data.synthetic import ABOUT, ACTIONS, FPS, JITTER, MOVES, Angles, Beat, Person, idle, is_synthetic, new_person, stand
from shared_data.writers import Content, write_kaggle

_RAISE, _BOW = ACTIONS.index("raise both arms"), ACTIONS.index("bow")
# class id - 1 -> name, and the motions that it consists of, one after the other
_CLASSES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("wave left hand", (ACTIONS.index("wave left hand"),)),
    ("raise both arms, then bow", (_RAISE, _BOW)),
    ("bow, then raise both arms", (_BOW, _RAISE)),
    *((name, (ACTIONS.index(name),)) for name in ("kick", "sit down", "clap", "jump", "wave right hand", "turn", "walk")),
)
_LASTING = ("yaw", "x", "z")  # where a person stands and looks after an action is where the next one begins
_EASE = 6  # frames that the way into an action and out of it takes
_TAIL = 3  # frames: the shortest action


def synthetic_sequences(
    *,
    classes: int = 6,
    train: int = 40,
    test: int = 12,
    actions: int = 6,
    lengths: tuple[int, int] = (40, 90),
    pauses: tuple[int, int] = (10, 40),
    seed: int = 0,
) -> SequenceSource:
    """Sequences of 2 x 25 joints in camera coordinates (metres), class 0 background; the same arguments give the same values.

    classes         2 to 10 actions besides background
    train, test     sequences; the people of train and test are different ones
    actions         of each sequence, in random order
    lengths, pauses frames of an action, and of the pause before, between and after actions: the smallest and the largest
    Persons, places, speed, amplitude, phase and noise vary; in one sequence of five a second person stands by.
    Raises `LabError` for impossible numbers.
    """
    shortest, longest = (low for low, _ in (lengths, pauses)), (high for _, high in (lengths, pauses))
    ok = all(1 <= low <= high <= 10_000 for low, high in zip(shortest, longest, strict=True)) and lengths[0] >= _TAIL
    if not (2 <= classes <= len(_CLASSES) and min(train, test, actions) >= 1 and actions <= 1000 and ok):
        raise LabError(
            f"{classes=}, {train=}, {test=}, {actions=}, {lengths=}, {pauses=}", where="synthetic sequences",
            expected=f"2 to {len(_CLASSES)} classes, 1 or more of the rest, rising pairs of frames from 1 (actions: {_TAIL}) on",
        )  # fmt: skip
    splits: dict[str, Sequences] = {}
    for number, (split, count) in enumerate((("train", train), ("test", test))):
        rng = np.random.default_rng([seed, 2 + number])
        bodies = [new_person(rng) for _ in range(max(2, min(24, count)))]
        builder = SequenceBuilder(in_memory(split, 25, np.dtype(np.float32)), joints=25, max_people=2)
        for n in range(count):
            labels, order = _plan(rng, classes, actions, lengths, pauses)
            builder.add(f"synthetic_{split}_{n:03d}", _scene(rng, bodies, labels, order), labels)
        splits[split] = builder.finish()
    names = ("background", *(name for name, _ in _CLASSES[:classes]))
    return SequenceSource("synthetic", "made up", NTU25, names, splits, [], ABOUT)


def write_synthetic_clips(path: str | Path, source: SequenceSource) -> Path:
    """The actions of synthetic `source` cut out, for pretraining without the pauses: an NPZ of the Kaggle layout.

    The classes are the same without background. Coordinates are those of `normalised`, so that an encoder learns from what it
    will be given when it segments. An older synthetic file is replaced, any other is left alone.
    Raises `LabError` if the file name does not contain "synthetic", `WriteError` if the file cannot be written.
    """
    path = Path(path)
    if "synthetic" not in path.name:
        raise LabError("the name of a synthetic data file must say so", where=str(path), expected="a name with 'synthetic'")
    clips = {split: _cut(part) for split, part in source.splits.items()}
    frames = max(int(part.extent.max()) for part in clips.values())
    content = Content(clips, dict.fromkeys(clips, frames), 2, source.skeleton, source.class_names[1:], ABOUT, "")
    with whole_file(path, kind="synthetic file", replaceable=is_synthetic) as file:
        write_kaggle(file, content, lambda _: None)
    return path


def _cut(sequences: Sequences) -> Clips:
    """Every run of frames of one action, normalised with its sequence."""
    builder = RaggedBuilder(in_memory("", 25, np.dtype(np.float32)), joints=25, max_people=2, padded=False)
    labels, ids = [], []
    for n, name in enumerate(sequences.ids.tolist()):
        classes = sequences.labels(n)
        points = normalised(sequences.frames(n), NTU25).reshape(2, 3, 25, -1).transpose(3, 0, 2, 1)
        ends = np.flatnonzero(np.diff(classes, append=-1)) + 1
        for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            if classes[start]:
                builder.add(points[None, start:end])
                labels.append(int(classes[start]) - 1)
                ids.append(f"{name}_{start}_{end}")
    return builder.finish(np.array(labels, np.int64), np.array(ids, dtype="U"), frames=None)


def _plan(
    rng: np.random.Generator, classes: int, actions: int, lengths: tuple[int, int], pauses: tuple[int, int]
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Class ids (T,) and the actions (class id, first frame, frame after the last) of one sequence."""
    parts, order, now = [], [], 0
    for turn in range(2 * actions + 1):
        pause = turn % 2 == 0
        low, high = pauses if pause else lengths
        length, label = int(rng.integers(low, high + 1)), 0 if pause else int(rng.integers(classes)) + 1
        parts.append(np.full(length, label, np.int64))
        if label:
            order.append((label, now, now + length))
        now += length
    return np.concatenate(parts), order


def _scene(rng: np.random.Generator, bodies: list[Person], labels: np.ndarray, order: list[tuple[int, int, int]]) -> np.ndarray:
    """(T, 2, 25, 3) float32."""
    body = bodies[rng.integers(len(bodies))]
    pose = idle(rng, body, len(labels))
    for label, start, end in order:
        motions = _CLASSES[label - 1][1]
        edges = np.linspace(start, end, len(motions) + 1).astype(int)
        for motion, first, last in zip(motions, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            _act(rng, body, pose, MOVES[motion], slice(first, last))
    root = np.array([rng.normal(0, 0.4), rng.normal(0, 0.05), rng.uniform(2.0, 3.8)])
    frames = np.zeros((len(labels), 2, 25, 3))
    frames[:, 0] = stand(pose, body.offsets) + root
    if rng.random() < 0.2:
        other = bodies[rng.integers(len(bodies))]
        beside = np.array([rng.choice([-1.0, 1.0]) * rng.uniform(0.8, 1.3), 0.0, rng.uniform(-0.4, 0.4)])
        frames[:, 1] = stand(idle(rng, other, len(labels)), other.offsets) + root + beside
    frames += rng.normal(0, JITTER, frames.shape) * frames.any((2, 3), keepdims=True)
    return frames.astype(np.float32)


def _act(rng: np.random.Generator, body: Person, pose: Angles, move: Callable[[Angles, Beat], None], span: slice) -> None:
    """Change `pose` in the frames of `span`: into the motion and out of it without a jump."""
    frames = span.stop - span.start
    before = Angles(frames)
    before.update({name: values[span].copy() for name, values in pose.items()})
    done = Angles(frames)
    done.update({name: values.copy() for name, values in before.items()})
    beat = Beat(
        time=np.arange(frames) / FPS,
        seconds=frames / FPS,
        rate=body.tempo * rng.uniform(0.8, 1.25),
        size=body.reach * rng.uniform(0.75, 1.1),
        shift=rng.random(),
    )
    move(done, beat)
    ease = np.minimum(np.arange(frames), np.arange(frames)[::-1]) / max(1, min(_EASE, (frames - 1) // 2))
    share = np.clip(ease, 0, 1)
    for name, values in done.items():
        whole = pose[name].copy()
        if name in _LASTING:
            whole[span] = values
            whole[span.stop :] += values[-1] - before[name][-1]
        else:
            whole[span] = before[name] + share * (values - before[name])
        pose[name] = whole
