"""Raw NTU RGB+D text files become the clips of the published NPZ files: held against a slow transcription of the published
preparation written here as plain loops, and against cases worked out by hand.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_data.check import check
from shared_data.datasets import open_data
from shared_data.errors import DataError, LabError, MissingInputError, UsageError
from shared_data.formats import ntu_bodies
from shared_data.formats.ntu_bodies import actors, denoise, prepare
from shared_data.formats.ntu_text import parse
from shared_data.formats.options import ReadOptions
from shared_data.formats.reading import detect

A, B, C, D = 72057594037927941, 72057594037927942, 72057594037927943, 72057594037927944  # equal as float64
Frame = list[tuple[int, np.ndarray]]


# --- writing ---------------------------------------------------------------------------------------------------------------


def skeleton_text(frames: list[Frame], newline: str = "\r\n") -> bytes:
    """The text of a file; a frame is a list of (body id, joints (25, 3))."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body, joints in bodies:
            lines += [f"{body} 0 1 1 0 0 0 0.1068 -0.2117 2", "25"]
            lines += [
                " ".join(f"{float(v):.9g}" for v in joint) + " 277.1 191.8 1036 519.9 -0.2 0.04 0.9 -0.02 2" for joint in joints
            ]
    return (newline.join(lines) + newline).encode()


def pose(rng: np.random.Generator, *, wide: bool = False, moving: float = 0.05) -> np.ndarray:
    """A body 1.5 m tall and 0.5 m wide, or the other way round, 3 m away; `moving` is the spread of its place."""
    joints = rng.uniform(-1, 1, (25, 3)) * [0.25, 0.75, 0.2]
    joints[0, 1], joints[1, 1] = -0.75, 0.75
    if wide:
        joints = joints[:, [1, 0, 2]]
    joints[:, 2] += 3
    return (joints + rng.normal(0, moving, 3)).astype(np.float32)


def scenario(seed: int) -> list[Frame]:
    """A recording with one to four bodies that come, go, overlap and look like furniture."""
    rng = np.random.default_rng(seed)
    length = int(rng.integers(13, 45))
    seen = []
    for body in rng.permutation([A, B, C, D])[: rng.integers(1, 5)]:
        start = int(rng.integers(0, max(1, length - 8)))
        span = np.arange(start, min(length, start + int(rng.integers(2, length + 1))))
        if rng.random() < 0.4:
            span = span[rng.random(len(span)) < 0.7]  # disappears and returns
        seen.append((int(body), set(span.tolist()), rng.choice([0.0, 0.3, 0.68, 0.72, 1.0]), rng.choice([0.01, 0.1, 0.5])))
    return [
        [(body, pose(rng, wide=rng.random() < wide, moving=moving)) for body, span, wide, moving in seen if frame in span]
        for frame in range(length)
    ]


# --- the published preparation, slowly -------------------------------------------------------------------------------------


def slow_motion(frames: list[list[float]]) -> float:
    total = 0.0
    for axis in range(3):
        values = [value for frame in frames for value in frame[axis::3]]
        mean = sum(values) / len(values)
        total += sum((value - mean) ** 2 for value in values) / len(values)
    return total


def slow_clip(text: bytes) -> list[list[list[float]]] | None:
    """Frames of one or two actors of 75 numbers, None for no body or noise alone. Plain loops over the text's lines."""
    lines = text.decode().splitlines()
    at, counted, bodies = 1, 0, {}
    for _ in range(int(lines[0])):
        here = int(lines[at])
        at += 1
        for _ in range(here):
            name = lines[at].split()[0]
            joints = []
            for joint in range(25):
                joints += [float(np.float32(number)) for number in lines[at + 2 + joint].split()[:3]]
            at += 27
            body = bodies.setdefault(name, {"frames": [], "interval": []})
            body["interval"].append(body["interval"][-1] + 1 if body["interval"] else counted)
            body["frames"].append(joints)
        counted += here > 0
    if not bodies:
        return None
    several = len(bodies) > 1
    if several:
        for body in bodies.values():
            body["motion"] = slow_motion(body["frames"])
        for name in list(bodies):
            if len(bodies[name]["frames"]) <= 11:
                del bodies[name]
        if not bodies:
            return None
        for name in list(bodies):
            if len(bodies) == 1:
                break
            good = [f for f in bodies[name]["frames"] if max(f[::3]) - min(f[::3]) <= 0.8 * (max(f[1::3]) - min(f[1::3]))]
            if 1 - len(good) / len(bodies[name]["frames"]) >= 0.69754:
                del bodies[name]
            else:
                bodies[name]["motion"] = min(bodies[name]["motion"], slow_motion(good))
    order = list(bodies.values())
    if len(order) == 1:
        clip = [[[0.0] * 75] for _ in range(counted)]
        for frame, joints in zip(order[0]["interval"], order[0]["frames"], strict=True):
            clip[frame][0] = joints
    else:
        order.sort(key=lambda body: body["motion"], reverse=True)
        clip = [[[0.0] * 75, [0.0] * 75] for _ in range(counted)]
        first, second = set(), set()
        for body in order:
            span = set(body["interval"])
            for actor, track in enumerate((first, second)):
                if span & track:
                    continue
                for frame, joints in zip(body["interval"], body["frames"], strict=True):
                    clip[frame][actor] = joints
                track.update(span)
                track.update(range(min(track), max(track)))  # a track has no gaps
                break
    if several:
        clip = [people for people in clip if sum(sum(person) for person in people) != 0]
    origin = next((people[0][3:6] for people in clip if any(people[0])), [0.0] * 3)
    for people in clip:
        for actor, person in enumerate(people):
            if len(people) == 2 and sum(person) == 0:
                continue
            people[actor] = [float(np.float32(value) - np.float32(origin[k % 3])) for k, value in enumerate(person)]
    return clip


def slow_array(text: bytes) -> np.ndarray | None:
    clip = slow_clip(text)
    return None if clip is None else np.array(clip, np.float32).reshape(len(clip), -1, 25, 3)


@pytest.mark.parametrize("seed", range(60))
def test_clips_equal_the_slow_transcription(seed):
    text = skeleton_text(scenario(seed), newline="\n" if seed % 2 else "\r\n")
    ours, expected = prepare(parse(text, "here")), slow_array(text)
    assert (ours is None) == (expected is None)
    if ours is not None:
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, expected)


def test_the_scenarios_reach_every_branch():
    """Otherwise the comparison above would say little."""
    shapes = [slow_array(skeleton_text(scenario(seed))) for seed in range(60)]
    people = [0 if clip is None else clip.shape[1] for clip in shapes]
    assert min(people.count(n) for n in (0, 1, 2)) >= 3
    bodies = [{body for frame in scenario(seed) for body, _ in frame} for seed in range(60)]
    assert sum(len(seen) > 1 and n == 1 for seen, n in zip(bodies, people, strict=True)) >= 5  # denoised to one


# --- by hand ---------------------------------------------------------------------------------------------------------------


def box(width: float, height: float, x: float = 0.0, y: float = 1.0) -> np.ndarray:
    """25 joints of which joint 1 and 2 span width and height; joint 2 is (x, y + height, 2)."""
    joints = np.full((25, 3), (x, y, 2.0), np.float32)
    joints[1] = (x, y + height, 2.0)
    joints[0] = (x + width, y, 2.0)
    return joints


def recording(*bodies: tuple[int, range, list[np.ndarray] | np.ndarray]) -> bytes:
    length = max(span.stop for _, span, _ in bodies)
    frames: list[Frame] = [[] for _ in range(length)]
    for body, span, joints in bodies:
        for number, frame in enumerate(span):
            frames[frame].append((body, joints[number] if isinstance(joints, list) else joints))
    return skeleton_text(frames)


def prepared(*bodies: tuple[int, range, list[np.ndarray] | np.ndarray]) -> np.ndarray:
    clip = prepare(parse(recording(*bodies), "here"))
    assert clip is not None
    return clip


def test_body_ids_are_exact():
    """The ids differ in their 17th digit only; as float64 they would be one body twice in a frame."""
    assert float(A) == float(B)
    read = parse(skeleton_text([[(A, box(0.1, 1)), (B, box(0.2, 1))]]), "here")
    assert read.body.tolist() == [A, B] and read.frames == 1 and read.frame.tolist() == [0, 0]
    np.testing.assert_array_equal(read.joints, [box(0.1, 1), box(0.2, 1)])


def test_one_person_is_moved_to_the_origin_and_bodyless_frames_are_dropped():
    clip = prepare(parse(skeleton_text([[], [(A, box(0.5, 1))], [], [(A, box(0.5, 1, x=1))], []]), "here"))
    assert clip is not None and clip.shape == (2, 1, 25, 3)
    assert clip[0, 0, 1].tolist() == [0, 0, 0] and clip[0, 0, 0].tolist() == [0.5, -1, 0]
    assert clip[1, 0, 1].tolist() == [1, 0, 0]  # one translation for all frames
    assert prepare(parse(skeleton_text([[], []]), "here")) is None
    assert prepare(parse(b"0\n", "here")) is None


@pytest.mark.parametrize(("frames", "kept"), [(11, 1), (12, 2)])
def test_eleven_frames_are_noise(frames, kept):
    clip = prepared((A, range(20), box(0.5, 1)), (B, range(frames), box(0.5, 1, x=1)))
    assert clip.shape == (20, kept, 25, 3)
    assert prepare(parse(recording((A, range(11), box(1, 1)), (B, range(5), box(1, 1))), "here")) is None


def test_a_single_body_is_never_noise():
    assert prepared((A, range(3), box(2, 1))).shape == (3, 1, 25, 3)


@pytest.mark.parametrize(("wide", "kept"), [(13, 2), (14, 1)])
def test_share_of_wide_frames(wide, kept):
    """13 of 20 are 0.65, 14 of 20 are 0.7: the limit 0.69754 lies between. Width 0.8 of the height is not wide."""
    frames = [box(0.85, 1)] * wide + [box(0.5, 1)] * (20 - wide)
    clip = prepared((A, range(20), box(0.5, 1)), (B, range(20), frames))
    assert clip.shape[1] == kept
    assert prepared((A, range(20), box(0.5, 1)), (B, range(20), box(0.75, 1))).shape[1] == 2


def test_the_last_body_stays_however_wide():
    """A is dropped for its width, then B is the only one left."""
    clip = prepared((A, range(20), box(3, 1)), (B, range(20), box(2, 1)))
    assert clip.shape == (20, 1, 25, 3) and clip[0, 0, 0].tolist() == [2, -1, 0]


def test_the_largest_motion_is_actor_one():
    still, moving = box(0.5, 1), [box(0.5, 1, x=0.1 * n) for n in range(20)]
    clip = prepared((A, range(20), still), (B, range(20), moving))
    assert clip[19, 0, 1, 0] == pytest.approx(1.9) and clip[19, 1, 1, 0] == 0
    for first, second in ((0.5, -0.5), (-0.5, 0.5)):  # mirrored: equal motions stay in order of appearance
        equal = prepared((A, range(20), box(first, 1)), (B, range(20), box(second, 1)))
        assert equal[0, :, 0, 0].tolist() == [first, second]


def test_motion_of_implausible_frames_does_not_count():
    """B is wildly displaced, but only where it is too wide: without those frames it moves less than A."""
    a = [box(0.5, 1, x=0.02 * n) for n in range(20)]
    b = [box(2, 1, x=50)] * 5 + [box(0.5, 1, x=3)] * 15
    clip = prepared((A, range(20), a), (B, range(20), b))
    assert clip[0, 0, 1].tolist() == [0, 0, 0] and clip[19, 1, 1, 0] == 3


def test_motion_is_lowered_but_never_raised():
    """B sways by 1 m in its plausible frames and rests in the others: over all it moves less than A, over those more."""
    b = [box(0.5, 1, x=(-1) ** n) if n < 10 else box(2, 1, x=-0.75) for n in range(20)]
    a = [box(0.5, 1, x=0.9 * (-1) ** n) for n in range(20)]
    everything, plausible, other = (ntu_bodies._motion(np.stack(frames)) for frames in (b, b[:10], a))
    assert everything < other < plausible
    clip = prepared((B, range(20), b), (A, range(20), a))
    assert clip[1, 0, 1, 0] == pytest.approx(-1.8)


def test_a_body_that_returns_is_compacted():
    """B is seen in frames 0-5 and 20-27: it is put in frames 0-13, where A is too."""
    b = [box(0.5, 1, x=5)] * 14
    frames: list[Frame] = [[(A, box(0.5, 1, x=0.1 * n))] for n in range(30)]
    for number, frame in enumerate([*range(6), *range(20, 28)]):
        frames[frame].append((B, b[number]))
    clip = prepare(parse(skeleton_text(frames), "here"))
    assert clip is not None and clip.shape == (30, 2, 25, 3)
    assert (clip[:14, 1] != 0).any((1, 2)).all() and not clip[14:].any((2, 3))[:, 1].any()


def test_bodies_continue_each_other_and_the_third_is_left_out():
    """By motion C, A, B: A does not overlap C and continues it; B overlaps both and is actor 2; D overlaps all tracks."""
    c = [box(0.5, 1, x=float(n)) for n in range(15)]
    a = [box(0.5, 1, x=0.5 * n) for n in range(15)]
    b = [box(0.5, 1, x=0.1 * n) for n in range(30)]
    clip = prepared((A, range(15), a), (C, range(15, 30), c), (B, range(30), b), (D, range(5, 25), box(0.6, 1, x=90)))
    assert clip.shape == (30, 2, 25, 3)
    assert clip[:, 0, 1, 0].tolist() == [0.5 * n for n in range(15)] + list(range(15))
    np.testing.assert_allclose(clip[:, 1, 1, 0], [0.1 * n for n in range(30)], atol=1e-6)


def test_a_track_reaches_to_its_furthest_frames():
    """By motion C (15-29), A (0-14), B (20-34): A goes before C in actor 1's track, which still ends with C."""
    c = [box(0.5, 1, x=float(n)) for n in range(15)]
    a = [box(0.5, 1, x=0.5 * n) for n in range(15)]
    clip = prepared((A, range(15), a), (C, range(15, 30), c), (B, range(20, 35), box(0.5, 1)))
    assert clip.shape == (35, 2, 25, 3) and clip[:30, 0, 1, 0].tolist() == [0.5 * n for n in range(15)] + list(range(15))
    assert clip[20:, 1].any((1, 2)).all() and not clip[:20, 1].any() and not clip[30:, 0].any()
    clip = prepared((C, range(15), c), (A, range(15, 30), a), (B, range(13), box(0.5, 1)))
    assert clip[:, 0, 1, 0].tolist() == list(range(15)) + [0.5 * n for n in range(15)]
    assert clip[:13, 1].any((1, 2)).all() and not clip[13:, 1].any()


def test_two_bodies_in_turn_are_one_track_of_a_clip_made_for_two():
    """Actor 2 stays empty, and frames between them that were only D's (noise) are removed."""
    clip = prepared((A, range(15), box(0.5, 1)), (D, range(12, 18), box(0.5, 1)), (B, range(18, 33), box(0.5, 1, x=2)))
    assert clip.shape == (30, 2, 25, 3)
    assert not clip[:, 1].any() and clip[:, 0, 1, 0].tolist() == [0] * 15 + [2] * 15


def test_absent_people_of_two_are_zero_and_not_minus_the_origin():
    moving = [box(0.5, 1, x=0.5 * n) for n in range(15)]
    clip = prepared((A, range(5, 20), moving), (B, range(15), box(0.5, 1, x=4)))
    assert clip.shape == (20, 2, 25, 3)
    assert not clip[:5, 0].any() and not clip[15:, 1].any()
    assert clip[5, 0, 1].tolist() == [0, 0, 0] and clip[0, 1, 1].tolist() == [4, 0, 0]


def test_a_frame_whose_numbers_cancel_is_absent():
    """The published preparation calls a person absent whose 75 numbers add up to 0."""
    cancelling = np.zeros((25, 3), np.float32)
    cancelling[0], cancelling[1] = (1, 2, 0), (-1, -2, 0)
    a = [box(0.5, 1, x=0.5 * n) for n in range(14)]
    clip = prepared((A, range(14), a), (B, range(14), [box(0.5, 1)] * 13 + [cancelling]))
    assert clip.shape == (14, 2, 25, 3) and clip[12, 1].any() and not clip[13, 1].any()


def test_a_person_of_zeros_alone_in_a_frame_becomes_constant():
    clip = prepared((A, range(2), [box(0.5, 1), np.zeros((25, 3), np.float32)]))
    assert clip.shape == (2, 1, 25, 3) and (clip[1, 0] == [0, -2, -2]).all()


def test_steps_by_themselves():
    """`denoise` keeps the order given, `actors` works on what it gets."""
    body = ntu_bodies.Body(np.stack([box(0.5, 1)] * 12), 3, 1.0)
    noise = ntu_bodies.Body(np.stack([box(0.5, 1)] * 3), 0, 9.0)
    assert denoise([noise, body]) == [body] and denoise([noise]) == []
    clip = actors([body], 20)
    assert clip.shape == (20, 1, 25, 3) and np.flatnonzero(clip.any((1, 2, 3))).tolist() == list(range(3, 15))


# --- files -----------------------------------------------------------------------------------------------------------------

NAMES_60 = [f"S{s:03}C{c:03}P{p:03}R001A{a:03}" for s, c, p, a in [
    (1, 1, 1, 1), (1, 2, 1, 1), (1, 3, 1, 1), (2, 1, 3, 50), (2, 2, 3, 50), (17, 3, 40, 60), (3, 1, 38, 7), (1, 1, 2, 9),
]]  # fmt: skip
NAMES_120 = [*NAMES_60, *(f"S{s:03}C{c:03}P{p:03}R002A{a:03}" for s, c, p, a in [
    (18, 1, 106, 61), (32, 2, 45, 120), (19, 3, 8, 106), (32, 1, 100, 99),
])]  # fmt: skip
GOOD_SEEDS = [seed for seed in range(24) if slow_clip(skeleton_text(scenario(seed))) is not None]


def write(folder: Path, names: list[str]) -> dict[str, bytes]:
    """One file for each name, every one another scenario, in two folders."""
    texts = {name: skeleton_text(scenario(seed)) for name, seed in zip(names, GOOD_SEEDS, strict=False)}
    assert len(texts) == len(names)
    for number, (name, text) in enumerate(texts.items()):
        place = folder / ("first" if number % 2 else "second")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.skeleton").write_bytes(text)
    return texts


def official_npz(path: Path, texts: dict[str, bytes], train: list[str], test: list[str], classes: int) -> Path:
    """What the published scripts write: padded to 300 frames of 150 numbers, one-hot float64 labels."""
    arrays = {}
    for split, names in (("train", train), ("test", test)):
        x = np.zeros((len(names), 300, 150), np.float32)
        for row, name in enumerate(names):
            clip = slow_array(texts[name])
            flat = clip.reshape(len(clip), -1)
            x[row, : len(flat), : flat.shape[1]] = flat
            if classes == 120 and flat.shape[1] == 75:
                x[row, : len(flat), 75:] = flat
        arrays |= {f"x_{split}": x, f"y_{split}": np.eye(classes)[[int(name[-3:]) - 1 for name in names]]}
    np.savez_compressed(path, **arrays)
    return path


TRAINED = {"xsub": ("P", {1, 2, 38, 8, 45, 100}), "xview": ("C", {2, 3}), "xset": ("S", {2, 18, 32})}


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize(("split", "classes"), [("xsub", 60), ("xview", 60), ("xsub", 120), ("xset", 120)])
def test_clips_are_those_of_the_published_npz(tmp_path, split, classes, form):
    texts = write(tmp_path / "raw", NAMES_60 if classes == 60 else NAMES_120)
    letter, trained = TRAINED[split]
    number = {name: int(name[name.index(letter) + 1 :][:3]) for name in texts}
    order = sorted(texts, key=lambda name: (number[name], name))
    names = {"train": [n for n in order if number[n] in trained], "test": [n for n in order if number[n] not in trained]}
    npz = open_data(official_npz(tmp_path / "official.npz", texts, names["train"], names["test"], classes))
    path = tmp_path / "raw"
    if form == "zip":
        path = tmp_path / "raw.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (tmp_path / "raw").rglob("*.skeleton"):
                archive.write(file, f"nturgb+d_skeletons/{file.name}")
            archive.writestr("__MACOSX/._S001C001P001R001A001.skeleton", b"junk")
    raw = open_data(path, options=ReadOptions(split=split))
    assert (raw.layout, raw.num_classes, raw.skeleton) == ("ntu_raw", classes, npz.skeleton)
    for side in ("train", "test"):
        ours, official = getattr(raw, side), getattr(npz, side)
        assert ours.ids.tolist() == names[side] and len(ours) >= 2
        for column in ("rows", "offset", "extent", "valid", "people", "labels"):
            mine, theirs = getattr(ours, column), getattr(official, column)
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs, err_msg=column)
        assert (ours.frames, ours.max_people) == (official.frames, official.max_people) == (300, 2)
    singles = [name for name in texts if slow_array(texts[name]).shape[1] == 1]
    copied = sum(finding.count for finding in raw.findings if finding.code == "copied-person")
    assert copied == (len(singles) if classes == 120 else 0) and singles
    ignored = [finding.count for finding in raw.findings if finding.code == "file-ignored"]
    assert ignored == ([1] if form == "zip" else [])


def test_sixty_classes_of_a_120_class_folder(tmp_path):
    write(tmp_path, NAMES_120)
    data = open_data(tmp_path, options=ReadOptions(split="xview", num_classes=60))
    assert sorted([*data.train.ids, *data.test.ids]) == sorted(NAMES_60) and data.num_classes == 60
    left_out = next(f for f in data.findings if f.code == "action-left-out")
    assert left_out.count == 4 and "S018C001P106R002A061" in left_out.message and "and 1 more" in left_out.message
    assert not [f for f in data.findings if f.code == "copied-person"]
    with pytest.raises(UsageError, match="no split 'xset' of NTU RGB\\+D with 60 classes"):
        open_data(tmp_path, options=ReadOptions(split="xset", num_classes=60))
    assert open_data(tmp_path, options=ReadOptions(split="xsub120")).num_classes == 120
    later = [name.replace("S001", "S018") for name in NAMES_60]  # setups beyond 17 alone tell it too
    write(tmp_path / "later", later)
    assert open_data(tmp_path / "later", options=ReadOptions(split="xset")).num_classes == 120


def test_the_split_must_be_named(tmp_path):
    write(tmp_path, NAMES_60)
    assert detect(tmp_path) == ("ntu_raw", "a folder with 8 files named like S001C001P002R001A009.skeleton")
    with pytest.raises(UsageError, match=r"60 classes is divided in 2 ways: say which[\s\S]*xsub, xview[\s\S]*--split xsub"):
        open_data(tmp_path)
    with pytest.raises(UsageError, match="did you mean xview"):
        open_data(tmp_path, options=ReadOptions(split="xveiw"))
    with pytest.raises(UsageError, match="60 or 120"):
        open_data(tmp_path, options=ReadOptions(split="xsub", num_classes=61))


def test_files_without_a_body_are_left_out_and_named(tmp_path):
    write(tmp_path, NAMES_60)
    (tmp_path / "S001C001P004R001A010.skeleton").write_bytes(skeleton_text([[], []]))
    (tmp_path / "S001C001P004R001A011.skeleton").write_bytes(recording((A, range(4), box(1, 1)), (B, range(4), box(1, 1))))
    report = check(tmp_path, options=ReadOptions(split="xsub"))
    assert report.ok and report.splits["train"].clips + report.splits["test"].clips == 8
    bodyless, noise = (next(f for f in report.findings if f.code == code) for code in ("clip-bodyless", "clip-noise"))
    assert bodyless.count == noise.count == 1 and "--skip-list" in bodyless.next_step
    assert "S001C001P004R001A010" in bodyless.message and "S001C001P004R001A011" in noise.message


@pytest.mark.parametrize("text", [
    "S001C001P001R001A001\nS001C002P001R001A001",
    "missing skeletons:\n\nS001C001P001R001A001.skeleton\r\n\r\nS001C002P001R001A001.skeleton\r\nS030C001P001R001A090\n",
])  # fmt: skip
def test_skip_lists(tmp_path, text):
    write(tmp_path / "raw", NAMES_60)
    (tmp_path / "raw" / "first" / "S001C002P001R001A001.skeleton").write_bytes(b"broken, but named in the list")
    (tmp_path / "list.txt").write_text(text)
    data = open_data(tmp_path / "raw", options=ReadOptions(split="xsub", skip_list=tmp_path / "list.txt"))
    assert sorted([*data.train.ids, *data.test.ids]) == sorted(NAMES_60[2:])
    told = [f for f in data.findings if f.code == "skip-list"]
    assert told[-1].count == 2 and len(told) == (2 if "missing" in text else 1)


def test_skip_lists_that_are_none(tmp_path):
    write(tmp_path / "raw", NAMES_60)
    options = ReadOptions(split="xsub", skip_list=tmp_path / "list.txt")
    with pytest.raises(MissingInputError, match="no such skip list"):
        open_data(tmp_path / "raw", options=options)
    for content in (b"", b"\xff\xfe\x00 no names \n here"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(DataError, match="no sample names"):
            open_data(tmp_path / "raw", options=options)


def test_samples_that_fit_no_protocol(tmp_path):
    write(tmp_path, NAMES_60)
    text = skeleton_text(scenario(GOOD_SEEDS[0]))
    (tmp_path / "S001C004P001R001A001.skeleton").write_bytes(text)
    data = open_data(tmp_path, options=ReadOptions(split="xview"))
    strange = next(f for f in data.findings if f.code == "split-unknown")
    assert strange.count == 1 and "camera outside 1 to 3" in strange.message and len(data.train) + len(data.test) == 8
    (tmp_path / "S001C001P001R001A121.skeleton").write_bytes(text)
    (tmp_path / "S001C001P001R001A000.skeleton").write_bytes(text)
    with pytest.raises(DataError, match="2 samples of actions outside 1 to 120: S001C001P001R001A000"):
        open_data(tmp_path, options=ReadOptions(split="xview"))


def test_too_long_clips_are_cut_and_told(tmp_path):
    for name in NAMES_60[:2]:
        joints = [box(0.5, 1, x=float(n)) for n in range(302)]
        (tmp_path / f"{name}.skeleton").write_bytes(recording((A, range(302), joints)))
    data = open_data(tmp_path, options=ReadOptions(split="xview"))
    assert data.train.extent.tolist() == [300] and data.train.clip(0)[-1, 0, 1, 0] == 299
    assert next(f for f in data.findings if f.code == "clip-cut").count == 2


# --- damage ----------------------------------------------------------------------------------------------------------------

GOOD = skeleton_text([[(A, box(0.5, 1))], [(A, box(0.5, 1, x=1)), (B, box(0.5, 1))]], newline="\n")
LINES = GOOD.split(b"\n")


def with_line(at: int, line: bytes) -> bytes:
    return b"\n".join([*LINES[:at], line, *LINES[at + 1 :]])


DAMAGED = {
    "zero bytes": (b"", "the file is empty"),
    "blank": (b" \r\n\n", "the file is empty"),
    "NUL bytes": (bytes(1000), "line 1"),
    "not UTF-8": (GOOD.replace(b"0.5", b"0.\xff", 1), "not plain text"),
    "other digits": (GOOD.replace(b"0.5", "٠".encode(), 1), "not plain text"),
    "underscore": (GOOD.replace(b"277.1", b"2_7.1", 1), "not plain text"),
    "truncated in a line": (GOOD[: len(GOOD) - 40], "line 84: 4 fields"),
    "truncated at a line": (b"\n".join(LINES[:-3]), "the file ends in the middle of a body"),
    "truncated before a frame": (b"\n".join(LINES[:29]), "line 30: the file ends"),
    "truncated before a body": (b"\n".join(LINES[:30]), "line 31: the file ends"),
    "truncated before joints": (b"\n".join(LINES[:31]), "line 32: the file ends"),
    "more frames": (with_line(0, b"3"), "the file ends"),
    "huge frames": (with_line(0, b"99999999999"), "no number of frames"),
    "endless digits": (with_line(0, b"9" * 5000), "no number of frames"),
    "negative frames": (with_line(0, b"-1"), "no number of frames"),
    "fractional frames": (with_line(0, b"2.0"), "no number of frames"),
    "more bodies": (with_line(1, b"2"), "line 30: 1 fields"),
    "fewer bodies": (with_line(29, b"1"), None),
    "huge bodies": (with_line(1, b"1000000000"), "no number of bodies"),
    "negative bodies": (with_line(1, b"-1"), "no number of bodies"),
    "body id of letters": (with_line(2, b"x 0 1 1 0 0 0 0.1 -0.2 2"), "line 3: 10 fields, the first 'x'"),
    "body id beyond 64 bits": (with_line(2, b"99999999999999999999 0 1 1 0 0 0 0.1 -0.2 2"), "line 3"),
    "body with 9 fields": (with_line(2, b"7 0 1 1 0 0 0 0.1 -0.2"), "line 3: 9 fields"),
    "24 joints": (with_line(3, b"24"), "line 4: 24 joints"),
    "a joint too few": (b"\n".join(LINES[:10] + LINES[11:]), "line 29: 1 fields"),
    "26 joints": (with_line(3, b"26"), "no number of joints"),
    "11 fields": (with_line(5, LINES[5].rsplit(b" ", 1)[0]), "line 6: 11 fields"),
    "a word": (with_line(5, LINES[5].replace(b"0", b"zero", 1)), "a coordinate is 'zero"),
    "hexadecimal": (with_line(5, b"0x10 " + LINES[5].split(b" ", 1)[1]), "a coordinate is '0x10'"),
    "the same body twice": (GOOD.replace(str(B).encode(), str(A).encode()), "occurs twice in frame 2"),
    "a pickle": (b"\x80\x04\x95" + GOOD, "not plain text"),
    "one huge line": (b"1 " * 100_000, "no number of frames"),
}


def test_the_undamaged_file_is_good():
    assert parse(GOOD, "here").joints.shape == (3, 25, 3)
    assert parse(GOOD.rstrip(), "here").trailing == parse(GOOD + b"\n \n", "here").trailing == 0


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_text_is_named_with_its_line(case):
    text, expected = DAMAGED[case]
    if expected is None:  # the second frame then holds one body; the other is text after the end
        assert parse(text, "here").trailing == 27
        return
    with pytest.raises(DataError) as caught:
        parse(text, "here")
    assert expected in f"{caught.value.where.removeprefix('here, ')}: {caught.value.what}" and "here" in caught.value.where


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_damaged_files_are_collected(tmp_path, form):
    texts = write(tmp_path / "raw", NAMES_60)
    for name, text in zip(NAMES_60[:5], (b"", b"1\n", GOOD[:-99], b"\xff", b"3\n0\n"), strict=True):
        next((tmp_path / "raw").rglob(f"{name}.skeleton")).write_bytes(text)
    (next((tmp_path / "raw").rglob(f"{NAMES_60[5]}.skeleton"))).write_bytes(texts[NAMES_60[5]] + b"more\r\nthan said\r\n")
    path = tmp_path / "raw"
    if form == "zip":
        path = tmp_path / "raw.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted((tmp_path / "raw").rglob("*.skeleton")):
                archive.write(file, file.name)
        content = bytearray(path.read_bytes())
        content[content.index(texts[NAMES_60[6]][:3000]) + 2000] ^= 1  # a checksum that is wrong
        path.write_bytes(content)
    report = check(path, options=ReadOptions(split="xview"))
    assert not report.ok
    damaged = next(f for f in report.findings if f.code == "clip-damaged")
    assert damaged.severity == "error" and damaged.count == (6 if form == "zip" else 5)
    assert "skip list" in damaged.next_step and f"{NAMES_60[1]}.skeleton, line 2: the file ends" in damaged.message
    assert next(f for f in report.findings if f.code == "clip-trailing").count == 1
    with pytest.raises(DataError, match="damaged files"):
        open_data(path, options=ReadOptions(split="xview", on_bad="drop"))


def test_not_a_number_is_found_as_in_every_layout(tmp_path):
    write(tmp_path, NAMES_60)
    target = next(tmp_path.rglob(f"{NAMES_60[1]}.skeleton"))
    for value, code in ((b"nan", "clip-nan"), (b"1e999", "clip-inf"), (b"-inf", "clip-inf")):
        single = skeleton_text([[(A, box(0.5, 1))]], newline="\n").split(b"\n")
        single[4] = value + b" " + single[4].split(b" ", 1)[1]
        target.write_bytes(b"\n".join(single))
        with pytest.raises(DataError, match="clips holding"):
            open_data(tmp_path, options=ReadOptions(split="xview"))
        data = open_data(tmp_path, options=ReadOptions(split="xview", on_bad="drop"))
        assert len(data.train) + len(data.test) == 7 and code in [f.code for f in data.findings]


def test_a_person_of_zeros_is_an_empty_clip(tmp_path):
    write(tmp_path, NAMES_60)
    zeros = np.zeros((25, 3), np.float32)
    for bodies in ((A,), (A, B)):
        text = recording(*((body, range(12), zeros) for body in bodies))
        next(tmp_path.rglob(f"{NAMES_60[1]}.skeleton")).write_bytes(text)
        report = check(tmp_path, options=ReadOptions(split="xview"))
        assert not report.ok and "clip-empty" in [f.code for f in report.findings]


def test_doubled_clips_pipes_and_giants(tmp_path, monkeypatch):
    write(tmp_path, NAMES_60[:2])
    other = tmp_path / "second" / f"{NAMES_60[1]}.skeleton"
    other.write_bytes(GOOD)
    with pytest.raises(DataError, match=f"clip {NAMES_60[1]} exists twice"):
        open_data(tmp_path, options=ReadOptions(split="xview"))
    other.unlink()
    monkeypatch.setattr("shared_data.formats.ntu_raw.MAX_BYTES", 100)
    with pytest.raises(DataError, match=r"2 damaged files[\s\S]*bytes"):
        open_data(tmp_path, options=ReadOptions(split="xview"))
    (tmp_path / "first" / f"{NAMES_60[1]}.skeleton").unlink()
    os.mkfifo(tmp_path / "first" / f"{NAMES_60[1]}.skeleton")
    with pytest.raises(MissingInputError, match="not a plain file"):
        open_data(tmp_path, options=ReadOptions(split="xview"))


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no NTU RGB"):
        open_data(tmp_path, layout="ntu_raw", options=ReadOptions(split="xsub"))
    write(tmp_path, NAMES_60[:1])
    with pytest.raises(DataError, match="holds no clips"):
        open_data(tmp_path, options=ReadOptions(split="xsub"))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_are_refused_or_finite(tmp_path, data):
    text = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        match data.draw(st.sampled_from(["set", "cut", "copy", "drop"])):
            case "set":
                text[at] = data.draw(st.sampled_from(b"0123456789.-+e \n\rnaif\x00\xff"))
            case "cut":
                del text[max(1, at) :]
            case "copy":
                text[at:at] = text[at : at + data.draw(st.integers(1, 400))]
            case "drop":
                del text[at : at + data.draw(st.integers(1, 400))]
        text = text or bytearray(b"\n")
    for camera, content in ((1, GOOD), (2, GOOD), (3, bytes(text))):
        (tmp_path / f"S001C00{camera}P001R001A001.skeleton").write_bytes(content)
    try:
        read = open_data(tmp_path, options=ReadOptions(split="xview"))
    except LabError as error:
        assert error.exit_code == 65
        return
    assert np.isfinite(read.train.rows).all() and len(read.test) == 1
