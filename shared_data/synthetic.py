"""A small NTU-shaped data file that can be learned from, for machines without data. It says that it is synthetic.

Bodies are 25 rigid bones moved by joint angles: people differ in height, proportions, speed and the way they stand, and the
people of train and test are different ones. Ten actions (wave, kick, sit ...) vary in amplitude, speed and moment; up to 60
classes are made by combining them with five postures. The layout is that of the Kaggle files.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared_data.atomic import whole_file
from shared_data.errors import LabError
from shared_data.formats.npz import Npz
from shared_data.writers import npz_member

ACTIONS = (
    "wave left hand", "wave right hand", "kick", "sit down", "bow", "clap", "jump", "turn", "raise both arms", "walk",
)  # fmt: skip
POSTURES = ("", "leaning sideways", "legs apart", "leaning forward", "crouching", "twisted")
ABOUT = (
    "synthetic: rigid-bone figures moved by formulas, made by skeleton-action-lab for demonstrations and tests. "
    "No recording of any person; accuracies on this file say nothing about real data."
)
FPS = 30.0
JITTER = 0.002  # metres, standard deviation
_BLOCK = 256

# joint -> (parent, offset in metres of a body of 1.7 m standing upright, facing the camera: left is -x, forward is -z)
_BODY: dict[int, tuple[int, tuple[float, float, float]]] = {
    1: (0, (0, 0.28, 0)), 20: (1, (0, 0.24, 0)), 2: (20, (0, 0.07, 0)), 3: (2, (0, 0.14, -0.02)),
    4: (20, (-0.17, -0.03, 0)), 5: (4, (-0.03, -0.26, 0)), 6: (5, (0, -0.24, 0)), 7: (6, (0, -0.08, 0)),
    21: (7, (0, -0.08, 0)), 22: (7, (0.03, -0.03, -0.03)),
    8: (20, (0.17, -0.03, 0)), 9: (8, (0.03, -0.26, 0)), 10: (9, (0, -0.24, 0)), 11: (10, (0, -0.08, 0)),
    23: (11, (0, -0.08, 0)), 24: (11, (-0.03, -0.03, -0.03)),
    12: (0, (-0.09, -0.03, 0)), 13: (12, (0, -0.4, 0)), 14: (13, (0, -0.38, 0)), 15: (14, (0, -0.05, -0.12)),
    16: (0, (0.09, -0.03, 0)), 17: (16, (0, -0.4, 0)), 18: (17, (0, -0.38, 0)), 19: (18, (0, -0.05, -0.12)),
}  # fmt: skip
_ARMS, _LEGS = (4, 5, 6, 7, 8, 9, 10, 11, 21, 22, 23, 24), (12, 13, 14, 15, 16, 17, 18, 19)
# which rotation moves the bone that ends in a joint
_MOVED_BY = {
    1: "torso", 20: "torso", 2: "head", 3: "head", 4: "torso", 8: "torso", 12: "pelvis", 16: "pelvis",
    5: "arm_l", 6: "fore_l", 7: "fore_l", 21: "fore_l", 22: "fore_l",
    9: "arm_r", 10: "fore_r", 11: "fore_r", 23: "fore_r", 24: "fore_r",
    13: "thigh_l", 14: "shin_l", 15: "shin_l", 17: "thigh_r", 18: "shin_r", 19: "shin_r",
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """One body: offsets (25, 3) in metres, and habits."""

    offsets: np.ndarray
    tempo: float
    reach: float
    facing: float


class Angles(dict[str, np.ndarray]):
    """Joint angles in radians and the root's position in metres, one value per frame; what is not set is 0."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def __missing__(self, key: str) -> np.ndarray:
        return np.zeros(self.frames)


def write_synthetic(
    path: str | Path,
    *,
    classes: int = 10,
    train_per_class: int = 32,
    test_per_class: int = 8,
    frames: int = 300,
    seed: int = 0,
    sizes: tuple[int, int] | None = None,
    deflated: bool = False,
) -> Path:
    """Write a Kaggle-layout NPZ, stored unless `deflated`, and return its path. The same arguments give the same bytes.

    sizes  clips of train and of test in all, shared evenly among the classes, instead of a number per class

    Rows are ordered performer by performer like the real files. 30 to `frames` frames per clip (gamma, mean about 83), about
    one clip in ten has a bystander as second person. Labels are one-hot float64. Memory does not grow with the clips.
    An older file that this function has written is replaced, any other is left alone.
    Raises `LabError` if the file name does not contain "synthetic", or for impossible numbers, `WriteError`
    if the file cannot be written.
    """
    path = Path(path)
    if "synthetic" not in path.name:
        raise LabError("the name of a synthetic data file must say so", where=str(path), expected="a name with 'synthetic'")
    most = len(ACTIONS) * len(POSTURES)
    counts = sizes or (classes * train_per_class, classes * test_per_class)
    if not 2 <= classes <= most or min(counts) < classes or not 1 <= frames <= 10_000:
        raise LabError(
            f"classes={classes}, train_per_class={train_per_class}, test_per_class={test_per_class}, sizes={sizes}, "
            f"frames={frames}",
            expected=f"2 to {most} classes, at least one clip each, 1 to 10000 frames",
        )
    with contextlib.suppress(OSError):  # what is wrong with the folder is told by `whole_file`
        path.parent.mkdir(parents=True, exist_ok=True)
    compression = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with (
        whole_file(path, kind="synthetic file", replaceable=is_synthetic) as file,
        zipfile.ZipFile(file, "w", compression, compresslevel=1) as archive,
    ):
        for number, (split, count) in enumerate(zip(("train", "test"), counts, strict=True)):
            rng = np.random.default_rng([seed, number])
            bodies = [new_person(rng) for _ in range(max(2, min(24, count // classes)))]
            labels, owners = _plan(rng, classes, count, len(bodies))
            with npz_member(archive, f"x_{split}", (count, frames, 150), "<f4") as stream:
                for start in range(0, count, _BLOCK):
                    part = slice(start, start + _BLOCK)
                    stream.write(_clips(rng, labels[part], [bodies[o] for o in owners[part]], bodies, frames).data)
            with npz_member(archive, f"y_{split}", (count, classes), "<f8") as stream:
                for start in range(0, count, _BLOCK):
                    stream.write(np.eye(classes)[labels[start : start + _BLOCK]].data)
        for key, text in (("about", np.array(ABOUT)), ("class_names", np.array(names(classes)))):
            with npz_member(archive, key, text.shape, text.dtype.newbyteorder("<").str) as stream:
                stream.write(text.tobytes())
    return path


def is_synthetic(path: Path) -> bool:
    """Whether a file says that `write_synthetic` made it."""
    try:
        with Npz(path) as npz:
            about = npz.members.get("about")
            written = about is not None and about.dtype.kind == "U" and about.shape == ()
            return written and str(npz.read("about", limit=1 << 16)).startswith(ABOUT.partition(" ")[0])
    except LabError:
        return False


def names(classes: int) -> tuple[str, ...]:
    """What the classes of a synthetic file show."""
    shown = ((ACTIONS[k % len(ACTIONS)], POSTURES[k // len(ACTIONS)]) for k in range(classes))
    return tuple(f"{action}, {posture}" if posture else action for action, posture in shown)


def _plan(rng: np.random.Generator, classes: int, count: int, people: int) -> tuple[np.ndarray, np.ndarray]:
    """(labels, performer numbers), ordered by performer; every performer shows many classes."""
    labels = np.sort(np.arange(count) % classes)
    owners = (np.arange(len(labels)) + labels) % people
    order = rng.permutation(len(labels))
    order = order[np.argsort(owners[order], kind="stable")]
    return labels[order], owners[order]


def new_person(rng: np.random.Generator) -> Person:
    offsets = np.zeros((25, 3))
    for joint, (_, offset) in _BODY.items():
        offsets[joint] = offset
    offsets *= rng.uniform(1.5, 1.95) / 1.7
    offsets[list(_ARMS)] *= rng.uniform(0.93, 1.07)
    offsets[list(_LEGS)] *= rng.uniform(0.93, 1.07)
    offsets[:, 0] *= rng.uniform(0.88, 1.15)
    return Person(offsets, rng.uniform(0.8, 1.25), rng.uniform(0.8, 1.1), rng.uniform(-0.35, 0.35))


def _clips(rng: np.random.Generator, labels: np.ndarray, owners: list[Person], bodies: list[Person], frames: int) -> np.ndarray:
    """(B, frames, 150) float32, one clip per label: centred, zero-padded."""
    out = np.zeros((len(labels), frames, 2, 25, 3), np.float32)
    low = min(30, frames)
    for n, (label, owner) in enumerate(zip(labels, owners, strict=True)):
        length = int(np.clip(rng.gamma(3.2, 26.0), low, frames))
        root = np.array([rng.normal(0, 0.4), rng.normal(0, 0.05), rng.uniform(2.0, 3.8)])
        people = [_perform(rng, owner, int(label), length) + root]
        if rng.random() < 0.1:
            beside = np.array([rng.choice([-1.0, 1.0]) * rng.uniform(0.8, 1.3), 0.0, rng.uniform(-0.4, 0.4)])
            people.append(_perform(rng, bodies[rng.integers(len(bodies))], -1, length) + root + beside)
        for m, body in enumerate(people):
            noisy = body + rng.normal(0, JITTER, body.shape)
            out[n, :length, m] = noisy
        out[n, :length, : len(people)] -= out[n, 0, 0, 1].copy()
    return out.reshape(len(labels), frames, 150)


def idle(rng: np.random.Generator, body: Person, frames: int) -> Angles:
    """Standing by. Nobody stands still: slow small motions everywhere, so that a class is not just "which joint moves at all"."""
    time = np.arange(frames) / FPS
    pose = Angles(frames)
    for joint in ("arm_l_x", "arm_r_x", "fore_l_x", "fore_r_x", "torso_x", "torso_z", "head_x", "thigh_l_x", "thigh_r_x"):
        pose[joint] = rng.normal(0.05, 0.06) + rng.uniform(0.02, 0.08) * _wave(time, rng.uniform(0.2, 0.9), rng.random())
    pose["arm_l_z"], pose["arm_r_z"] = -np.full(frames, rng.uniform(0.05, 0.2)), np.full(frames, rng.uniform(0.05, 0.2))
    pose["fore_l_x"], pose["fore_r_x"] = pose["fore_l_x"] + 0.15, pose["fore_r_x"] + 0.15
    pose["yaw"] = np.full(frames, body.facing + rng.normal(0, 0.25))
    return pose


def _perform(rng: np.random.Generator, body: Person, label: int, frames: int) -> np.ndarray:
    """One person doing one action (-1: standing by): (frames, 25, 3) in metres, pelvis near the origin."""
    time = np.arange(frames) / FPS
    pose = idle(rng, body, frames)
    if label >= 0:
        seconds = frames / FPS
        beat = Beat(
            time=time - rng.uniform(0, min(0.6, 0.25 * seconds)),
            seconds=seconds,
            rate=body.tempo * rng.uniform(0.8, 1.25),
            size=body.reach * rng.uniform(0.75, 1.1),
            shift=rng.random(),
        )
        _POSTURE[label // len(ACTIONS)](pose)
        MOVES[label % len(ACTIONS)](pose, beat)
    return stand(pose, body.offsets)


@dataclass(frozen=True)
class Beat:
    """How an action is done this time: `time` (T,) since it began, `rate` and `size` relative to 1, `shift` of the phase."""

    time: np.ndarray
    seconds: float
    rate: float
    size: float
    shift: float

    def swing(self, hertz: float) -> np.ndarray:
        """-1..1, periodic."""
        return _wave(self.time, hertz * self.rate, self.shift)

    def pulses(self, hertz: float) -> np.ndarray:
        """0..1, periodic, starting with the action."""
        return np.where(self.time > 0, 0.5 - 0.5 * np.cos(2 * np.pi * hertz * self.rate * self.time), 0.0)

    def once(self, seconds: float) -> np.ndarray:
        """0 to 1, smoothly, in about `seconds` (less in a short clip)."""
        x = np.clip(self.time / min(seconds / self.rate, 0.7 * self.seconds), 0, 1)
        return x * x * (3 - 2 * x)


def _wave(time: np.ndarray, hertz: float, shift: float) -> np.ndarray:
    return np.sin(2 * np.pi * (hertz * time + shift))


def _wave_left(p: Angles, b: Beat) -> None:
    up = b.once(0.5)
    p["arm_l_z"] = p["arm_l_z"] - up * (1.6 + 0.5 * b.size)
    p["fore_l_z"] = up * (0.3 + 0.6 * b.size * b.swing(1.6))


def _wave_right(p: Angles, b: Beat) -> None:
    up = b.once(0.5)
    p["arm_r_z"] = p["arm_r_z"] + up * (1.6 + 0.5 * b.size)
    p["fore_r_z"] = -up * (0.3 + 0.6 * b.size * b.swing(1.6))


def _kick(p: Angles, b: Beat) -> None:
    pulse = b.pulses(0.8)
    p["thigh_r_x"] = p["thigh_r_x"] + 1.2 * b.size * pulse
    p["shin_r_x"] = -0.9 * np.sin(np.pi * pulse) * b.size
    p["torso_x"] = p["torso_x"] - 0.15 * pulse


def _sit(p: Angles, b: Beat) -> None:
    down = b.once(1.3) * min(1.0, b.size)
    for side in ("l", "r"):
        p[f"thigh_{side}_x"] = p[f"thigh_{side}_x"] + 1.5 * down
        p[f"shin_{side}_x"] = -1.5 * down
    p["y"] = p["y"] - 0.42 * down
    p["torso_x"] = p["torso_x"] + 0.6 * np.sin(np.pi * down)


def _bow(p: Angles, b: Beat) -> None:
    pulse = b.pulses(0.5)
    p["torso_x"] = p["torso_x"] + 1.0 * b.size * pulse
    p["head_x"] = p["head_x"] + 0.4 * pulse


def _clap(p: Angles, b: Beat) -> None:
    up, swing = b.once(0.4), b.swing(1.8)
    for side, sign in (("l", 1.0), ("r", -1.0)):
        p[f"arm_{side}_x"] = p[f"arm_{side}_x"] + 0.8 * up
        p[f"fore_{side}_x"] = p[f"fore_{side}_x"] + 0.8 * up
        p[f"arm_{side}_y"] = -sign * up * (0.35 + 0.3 * b.size * swing)


def _jump(p: Angles, b: Beat) -> None:
    phase = b.swing(1.0)
    fly, crouch = np.clip(phase, 0, None), np.clip(-phase, 0, None)
    p["y"] = p["y"] + b.size * (0.3 * fly - 0.15 * crouch)
    for side in ("l", "r"):
        p[f"thigh_{side}_x"] = p[f"thigh_{side}_x"] + 0.8 * b.size * crouch
        p[f"shin_{side}_x"] = -1.4 * b.size * crouch
        p[f"arm_{side}_x"] = p[f"arm_{side}_x"] + 0.7 * fly - 0.4 * crouch


def _turn(p: Angles, b: Beat) -> None:
    p["yaw"] = p["yaw"] + np.pi * (0.7 + 0.5 * b.size) * b.once(1.8) * (1 if b.shift < 0.5 else -1)


def _raise_arms(p: Angles, b: Beat) -> None:
    pulse = b.pulses(0.6)
    p["arm_l_z"] = p["arm_l_z"] - 2.6 * b.size * pulse
    p["arm_r_z"] = p["arm_r_z"] + 2.6 * b.size * pulse


def _walk(p: Angles, b: Beat) -> None:
    swing, push = b.swing(0.9), b.swing(1.8)
    for side, sign in (("l", 1.0), ("r", -1.0)):
        p[f"thigh_{side}_x"] = p[f"thigh_{side}_x"] + sign * 0.5 * b.size * swing
        p[f"shin_{side}_x"] = -0.5 * b.size * np.clip(-sign * b.swing(0.9), 0, None)
        p[f"arm_{side}_x"] = p[f"arm_{side}_x"] - sign * 0.4 * b.size * swing
    p["y"] = p["y"] + 0.02 * push
    way = 0.7 * b.rate * np.clip(b.time, 0, None)
    p["x"], p["z"] = p["x"] - np.sin(p["yaw"]) * way, p["z"] - np.cos(p["yaw"]) * way


MOVES: tuple[Callable[[Angles, Beat], None], ...] = (
    _wave_left, _wave_right, _kick, _sit, _bow, _clap, _jump, _turn, _raise_arms, _walk,
)  # fmt: skip


def _lean_sideways(p: Angles) -> None:
    p["torso_z"] = p["torso_z"] + 0.4


def _legs_apart(p: Angles) -> None:
    p["thigh_l_z"], p["thigh_r_z"] = p["thigh_l_z"] - 0.4, p["thigh_r_z"] + 0.4


def _lean_forward(p: Angles) -> None:
    p["torso_x"] = p["torso_x"] + 0.5


def _crouch(p: Angles) -> None:
    for side in ("l", "r"):
        p[f"thigh_{side}_x"], p[f"hold_{side}"] = p[f"thigh_{side}_x"] + 0.9, np.full(p.frames, -1.5)


def _twist(p: Angles) -> None:
    p["torso_y"] = p["torso_y"] + 0.7


_POSTURE: tuple[Callable[[Angles], None], ...] = (
    lambda p: None, _lean_sideways, _legs_apart, _lean_forward, _crouch, _twist,
)  # fmt: skip


def stand(p: Angles, offsets: np.ndarray) -> np.ndarray:
    """Joint angles to positions (T, 25, 3) by forward kinematics; bones keep their length exactly."""
    pelvis = _about_y(p["yaw"])
    torso = pelvis @ _about_y(p["torso_y"]) @ _about_z(p["torso_z"]) @ _about_x(-p["torso_x"])
    turn = {"pelvis": pelvis, "torso": torso, "head": torso @ _about_x(-p["head_x"])}
    for side in ("l", "r"):
        arm = torso @ _about_y(p[f"arm_{side}_y"]) @ _about_z(p[f"arm_{side}_z"]) @ _about_x(p[f"arm_{side}_x"])
        thigh = pelvis @ _about_z(p[f"thigh_{side}_z"]) @ _about_x(p[f"thigh_{side}_x"])
        turn[f"arm_{side}"], turn[f"thigh_{side}"] = arm, thigh
        turn[f"fore_{side}"] = arm @ _about_z(p[f"fore_{side}_z"]) @ _about_x(p[f"fore_{side}_x"])
        turn[f"shin_{side}"] = thigh @ _about_x(p[f"shin_{side}_x"] + p[f"hold_{side}"])
    joints = np.zeros((p.frames, 25, 3))
    joints[:, 0] = np.stack([p["x"], p["y"], p["z"]], -1)
    for joint, (parent, _) in _BODY.items():  # parents come before their children
        joints[:, joint] = joints[:, parent] + turn[_MOVED_BY[joint]] @ offsets[joint]
    return joints


def _about_x(angle: np.ndarray) -> np.ndarray:
    """(T,) -> (T, 3, 3); positive lifts a hanging limb forward (towards -z)."""
    c, s, o, i = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([i, o, o, o, c, -s, o, s, c], -1).reshape(-1, 3, 3)


def _about_y(angle: np.ndarray) -> np.ndarray:
    c, s, o, i = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([c, o, s, o, i, o, -s, o, c], -1).reshape(-1, 3, 3)


def _about_z(angle: np.ndarray) -> np.ndarray:
    c, s, o, i = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([c, -s, o, s, c, o, o, o, i], -1).reshape(-1, 3, 3)
