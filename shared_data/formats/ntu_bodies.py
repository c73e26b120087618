"""From the bodies that the sensor saw to the one or two actors of a clip, as the preparation of CTR-GCN does it.

The sensor loses and finds people, gives them new ids and takes furniture for bodies. The published NPZ files are the
product of the steps below, and so are all published results. Source: the published preparation, described in the
project's notes on data formats: collect, denoise, choose actors, translate. Its arithmetic is kept: float32 sums and
variances, float64 in the comparison of widths (the files were made before NumPy 2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shared_data.formats.ntu_text import JOINTS, Recording

NOISE_FRAMES = 11  # a body seen in as many frames or fewer is noise
WIDTH = 0.8  # a frame in which a body is wider than this times its height is implausible
IMPLAUSIBLE = 0.69754  # share of such frames from which on a body is noise
SHARED_FRAMES = 0  # up to so many common frames a body does not overlap a track
MIDDLE_OF_SPINE = 1  # joint 2 in the numbering of the literature


@dataclass(frozen=True)
class Body:
    """One body id over a recording: `joints` (n, 25, 3) in the frames start .. start + n - 1.

    motion  variance of x + of y + of z over all frames and joints, m^2
    """

    joints: np.ndarray
    start: int
    motion: float

    @property
    def end(self) -> int:
        """The frame after the last."""
        return self.start + len(self.joints)


def collect(recording: Recording) -> tuple[list[Body], int]:
    """The bodies in order of first appearance, and the number of frames that hold any body.

    Frames without a body do not count. A body that disappears and returns is compacted: its later frames follow directly
    on its earlier ones.
    """
    frames, number = np.unique(recording.frame, return_inverse=True)
    ids, first = np.unique(recording.body, return_index=True)
    bodies = []
    for row in np.sort(first):
        joints = recording.joints[recording.body == recording.body[row]] if len(ids) > 1 else recording.joints
        bodies.append(Body(joints, int(number[row]), _motion(joints) if len(ids) > 1 else 0.0))
    return bodies, len(frames)


def denoise(bodies: list[Body]) -> list[Body]:
    """Of two or more bodies those that are people, in the order given; may be empty."""
    kept = [body for body in bodies if len(body.joints) > NOISE_FRAMES]
    people: list[Body] = []
    for number, body in enumerate(kept):
        if not people and number == len(kept) - 1:  # the last body is never dropped
            people.append(body)
            continue
        plausible = _plausible(body.joints)
        if 1 - plausible.mean() >= IMPLAUSIBLE:
            continue
        if not plausible.all():
            body = replace(body, motion=min(body.motion, _motion(body.joints[plausible])))  # noqa: PLW2901
        people.append(body)
    return people


def actors(bodies: list[Body], frames: int) -> np.ndarray:
    """The clip (T, P, 25, 3) of one or more denoised bodies in a recording of `frames` frames; absent people are zero.

    P is 1 for a single body. Otherwise the body with the largest motion is actor 1; each next one continues actor 1's track
    if it does not overlap it, else actor 2's, else it is left out.
    """
    clip = np.zeros((frames, min(2, len(bodies)), JOINTS, 3), np.float32)
    tracks: list[tuple[int, int] | None] = [None] * clip.shape[1]  # first frame of the track and the one after its last
    for body in sorted(bodies, key=lambda body: -body.motion):  # equal motions stay in order
        for actor, track in enumerate(tracks):
            if track and min(track[1], body.end) - max(track[0], body.start) > SHARED_FRAMES:
                continue
            clip[body.start : body.end, actor] = body.joints
            tracks[actor] = (min(track[0], body.start), max(track[1], body.end)) if track else (body.start, body.end)
            break
    return clip


def centre(clip: np.ndarray) -> np.ndarray:
    """The clip (T, P, 25, 3) moved so that joint 2 of actor 1 is the origin where actor 1 first appears.

    One translation for the whole clip. Of two actors, frames in which one is absent are zero again; a single one's are not.
    """
    present = (clip[:, 0] != 0).any((1, 2))
    if not present.any():
        return clip
    moved: np.ndarray = clip - clip[present.argmax(), 0, MIDDLE_OF_SPINE]
    if clip.shape[1] > 1:
        moved[_sums(clip) == 0] = 0
    return moved


def prepare(recording: Recording) -> np.ndarray | None:
    """The clip (T, P, 25, 3) float32 of a recording, P 1 or 2; None if it holds no body, or noise alone."""
    bodies, frames = collect(recording)
    with np.errstate(over="ignore", invalid="ignore"):  # NaN and inf are found and reported where clips are collected
        if len(bodies) < 2:
            return centre(actors(bodies, frames)) if bodies else None
        people = denoise(bodies)
        if not people:
            return None
        clip = actors(people, frames)
        return centre(clip[clip.reshape(frames, -1).sum(1) != 0])


def _motion(joints: np.ndarray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(joints.reshape(-1, 3).var(axis=0).sum())


def _plausible(joints: np.ndarray) -> np.ndarray:
    """(n,) bool: in which frames a body is not too wide for its height."""
    extent = joints[:, :, :2].max(1) - joints[:, :, :2].min(1)
    extent = extent.astype(np.float64)
    return np.asarray(extent[:, 0] <= WIDTH * extent[:, 1])


def _sums(clip: np.ndarray) -> np.ndarray:
    """(T, P) float32 sum over each person's 75 numbers: 0 is what the published preparation calls absent."""
    return np.stack([clip[:, person].reshape(len(clip), -1).sum(1) for person in range(clip.shape[1])], 1)
