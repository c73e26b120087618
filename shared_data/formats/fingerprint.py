"""Is a vector of 150 numbers really person, joint, xyz? Five other orders exist, and mixing them up raises nothing.

A sample of clips is decoded in every order. In the right one bones have human proportions and keep their length over time, and,
in files centred by the NTU scripts, joint 2 of person 1 is exactly 0 in the first frame that has person 1.
No single sign condemns a file: an absent person, a still one or a clip of one frame takes a sign away or feigns one.
Seen from the front, people look human without their depth too; so an order in which bodies are flat is none.
Source: ``loader.md`` section 6.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from shared_data.findings import ERROR, INFO, WARNING, Finding
from shared_data.skeletons import Skeleton

SAMPLED_CLIPS = 600
SAMPLED_FRAMES = 17
AXES = ("person", "joint", "xyz")
RIGHT = ", ".join(AXES)
ORIGIN_JOINT = 1
# usual bone lengths of an adult in metres, child -> parent, as a Kinect places the joints; hands, feet and fingers vary too much
PROPORTIONS = {
    (0, 1): 0.29, (1, 20): 0.23, (2, 20): 0.07, (3, 2): 0.14,
    (4, 20): 0.17, (5, 4): 0.27, (6, 5): 0.24, (8, 20): 0.17, (9, 8): 0.27, (10, 9): 0.24,
    (12, 0): 0.09, (13, 12): 0.4, (14, 13): 0.38, (16, 0): 0.09, (17, 16): 0.4, (18, 17): 0.38,
}  # fmt: skip
NO_BONE = 3.0  # the |log ratio| that a bone without length counts as
CENTRED = 0.9  # share of clips from which a file counts as centred
HUMAN = 0.35  # the largest misfit that real bodies may have; wrong orders have 0.4 and more
CLEARLY = 0.75  # an order is favoured if its measure is below this share of every other's
FLAT = 0.05  # the share of frames in which bodies may be flat
Decode = Callable[[np.ndarray], np.ndarray]  # block as the file holds it -> (B, T, M, V, 3)


def vector_orders(joints: int, people: int) -> dict[str, Decode]:
    """Every order that (B, T, people * joints * 3) vectors can have; the right one first."""
    size = {"person": people, "joint": joints, "xyz": 3}

    def decoder(order: tuple[str, ...]) -> Decode:
        shape, axes = [size[name] for name in order], [2 + order.index(name) for name in AXES]
        return lambda x: x.reshape(*x.shape[:2], *shape).transpose(0, 1, *axes)

    return _by_name(decoder, people)


def array_orders(joints: int, people: int) -> dict[str, Decode]:
    """What (B, 3, T, V, M) arrays are met as: right, or made from a vector that was taken to be in a wrong order."""
    place = {"xyz": 1, "joint": 3, "person": 4}

    def decoder(order: tuple[str, ...]) -> Decode:
        # Undo that order to get the vector back, then decode it rightly.
        axes = [0, 2, *(place[name] for name in order)]
        return lambda x: x.transpose(axes).reshape(x.shape[0], x.shape[2], people, joints, 3)

    return _by_name(decoder, people)


def _by_name(decoder: Callable[[tuple[str, ...]], Decode], people: int) -> dict[str, Decode]:
    """The decoders of all orders of `AXES`, the right one first. Where a single person is, his axis makes no difference."""
    if people == 1:
        return {", ".join(order): decoder(("person", *order)) for order in permutations(AXES[1:])}
    return {", ".join(order): decoder(order) for order in permutations(AXES)}


@dataclass(frozen=True)
class Decoding:
    """How one order looks.

    origin          share of the clips with a person 1 in whose first frame joint 2, and no other joint, is exactly 0
    second_empty    share of clips whose second person is all zero
    second_copied   share of clips whose second person equals the first
    bone_variation  median over clips of the mean over bones of (standard deviation / mean) of the bone length over time
    bone_wobble     the same without the division, in the file's unit: it decides, because orders that mix axes of an
                    uncentred file have long and therefore relatively steady "bones". 0 if nothing moves
    misfit          median over clips of the mean over bones of |log(length / usual length)|, the body's size taken out;
                    a bone without length counts as `NO_BONE`
    flat            share of the frames with anybody in which an axis of a person is 0 in all joints, or equals another axis of
                    this or the other person. An absent person or a copy makes that of orders that mix people and axes
    """

    order: str
    origin: float
    second_empty: float
    second_copied: float
    bone_variation: float
    bone_wobble: float
    misfit: float
    flat: float

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Verdict:
    """`order` the values are in, as far as that can be told (None: it cannot), and why, one clause."""

    order: str | None
    evidence: str


class Fingerprint:
    """Collects a sample of clips while a split is streamed, then judges it."""

    def __init__(self, orders: Mapping[str, Decode], skeleton: Skeleton, clips: int, time_axis: int) -> None:
        """`clips` in all will be added; T is axis `time_axis` of a block."""
        self._orders, self._skeleton, self._time_axis = orders, skeleton, time_axis
        self._every = max(1, clips // SAMPLED_CLIPS)
        self._frames: list[np.ndarray] = []  # some frames of each clip, as the file holds them
        self._first: dict[str, list[np.ndarray]] = {order: [] for order in orders}  # (V, 3) of person 1 in each order

    def add(self, start: int, block: np.ndarray) -> None:
        """Take a block as the file holds it; clips whose number is a multiple of the sampling step are kept."""
        with np.errstate(invalid="ignore"):  # NaN are counted elsewhere
            self._add(start, block)

    def _add(self, start: int, block: np.ndarray) -> None:
        for n in range(-start % self._every, len(block), self._every):
            clip = block[n : n + 1]
            decoded = {order: decode(clip)[0] for order, decode in self._orders.items()}
            seen = np.flatnonzero(_nonzero(next(iter(decoded.values()))))
            if not len(seen):
                continue
            picked = np.linspace(seen[0], seen[-1], SAMPLED_FRAMES).astype(int)
            self._frames.append(clip[0].take(picked, axis=self._time_axis - 1))
            for order, people in decoded.items():
                person = people[:, 0]
                self._first[order].append(np.array(person[int(_nonzero(person).argmax())], np.float64))

    def decodings(self) -> list[Decoding]:
        """The measures of every order, the right one first; empty if no clip had any frame."""
        if not self._frames:
            return []
        sample = np.stack(self._frames)
        with np.errstate(all="ignore"):  # bones without length, NaN
            return [self._measure(name, decode(sample).astype(np.float64)) for name, decode in self._orders.items()]

    def _measure(self, name: str, clips: np.ndarray) -> Decoding:
        """`clips` (S, F, M, V, 3)."""
        samples, people = len(clips), clips.shape[2]
        second: np.ndarray = clips[:, :, 1] if people > 1 else np.zeros_like(clips[:, :, 0])
        copied = (second == clips[:, :, 0]).reshape(samples, -1).all(-1)
        # Bones are measured on whoever of the first two is there more often; their absence must not look like motion.
        present = np.asarray(clips[:, :, :2].any((-1, -2)))  # (S, F, M)
        main = present.sum(1).argmax(-1)
        each = np.arange(samples)
        body, there = clips[each, :, main], present[each, :, main]
        child, parent = (np.array(column) for column in zip(*self._skeleton.edges, strict=True))
        with np.errstate(all="ignore"):
            length = np.linalg.norm(body[:, :, child] - body[:, :, parent], axis=-1)  # (S, F, bones)
            length[~there] = np.nan
            mean, spread = _mean(length, 1), np.sqrt(_mean((length - _mean(length, 1)[:, None]) ** 2, 1))
            real = mean > 0  # bones without length would feign steadiness
            wobble = _mean(np.where(real, spread, np.nan), -1)
            variation = _mean(np.where(real, spread / np.where(real, mean, 1), np.nan), -1)
        first = np.array(self._first[name])
        joints = np.asarray(first.any(-1))  # (S, V)
        exists = np.asarray(joints.any(-1))  # a zero because nobody is there says nothing
        zero = np.asarray(np.delete(joints, ORIGIN_JOINT, axis=1).all(-1) & ~joints[:, ORIGIN_JOINT])
        return Decoding(
            order=name,
            origin=float(zero[exists].mean()) if exists.any() else 0.0,
            second_empty=float((~_nonzero(second)).mean()) if people > 1 else 1.0,
            second_copied=float(copied.mean()) if people > 1 else 0.0,
            bone_variation=_median(variation),
            bone_wobble=_median(wobble),
            misfit=_median(self._misfit(mean)),
            flat=_flat(clips[:, :, :2], present),
        )

    def _misfit(self, length: np.ndarray) -> np.ndarray:
        """(S,) from mean lengths (S, bones), bones in the order of the skeleton's edges."""
        usual = np.array([PROPORTIONS.get(edge, np.nan) for edge in self._skeleton.edges])
        known = np.isfinite(usual)
        with np.errstate(all="ignore"):
            ratio = np.log(length[:, known] / usual[known])
            some = np.isfinite(ratio).any(1)
            ratio[some] -= np.nanmedian(np.where(np.isfinite(ratio), ratio, np.nan)[some], axis=1, keepdims=True)
        return np.asarray(np.where(np.isfinite(ratio), np.minimum(np.abs(ratio), NO_BONE), NO_BONE).mean(-1))


def _flat(clips: np.ndarray, present: np.ndarray) -> float:
    """`Decoding.flat` of clips (S, F, M, V, 3) of one or two people, `present` (S, F, M)."""
    axes = [(clips[:, :, person, :, axis], present[:, :, person], axis) for person in range(clips.shape[2]) for axis in range(3)]
    flat = np.zeros(present.shape[:2], bool)
    for number, (values, there, axis) in enumerate(axes):
        flat |= there & ~values.any(-1)
        for others, also, other in axes[:number]:
            if other != axis:
                flat |= there & also & (values == others).all(-1)
    return float(flat.sum() / max(1, present.any(-1).sum()))


def _nonzero(values: np.ndarray) -> np.ndarray:
    """Where anything is not zero, along the first axis."""
    return np.asarray(np.logical_or.reduce(np.ascontiguousarray(values).reshape(len(values), -1), axis=-1))


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is a finite number along `axis`, NaN where nothing is."""
    finite = np.isfinite(values)
    result: np.ndarray = np.where(finite, values, 0).sum(axis) / finite.sum(axis)
    return result


def _median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else 0.0


def verdict(decodings: list[Decoding]) -> Verdict:
    """Which order it is. Three signs can favour one order over every other; they must never contradict each other.

    One sign is enough to confirm the order that the layout promises, two are needed to say that it is another one.
    Orders that make bodies flat are left aside, unless nobody looks human without them: then people are drawn in a plane.
    """
    solid = [d for d in decodings if d.flat <= FLAT]
    possible = solid if any(d.misfit < HUMAN for d in solid) else decodings
    signs = {d.order: _signs(d, [other for other in possible if other is not d]) for d in possible}
    favoured = [order for order, found in signs.items() if found]
    if len(favoured) != 1 or (favoured[0] != decodings[0].order and len(signs[favoured[0]]) < 2):
        return Verdict(None, "; but ".join("; ".join(found) for found in signs.values() if found))
    return Verdict(favoured[0], "; ".join(signs[favoured[0]]))


def _signs(this: Decoding, others: list[Decoding]) -> list[str]:
    """What speaks for `this` order alone, among those that are possible."""
    found = []
    if this.origin >= CENTRED and all(other.origin < CENTRED for other in others):
        found.append(f"joint 2 of person 1 is the origin in {this.origin:.0%} of clips")
    lowest = min((other.misfit for other in others), default=NO_BONE)
    if this.misfit < min(HUMAN, CLEARLY * lowest):
        found.append(f"bone lengths are off human proportions by {this.misfit:.2f}, in any other by {lowest:.2f} or more")
    lowest = min((other.bone_wobble for other in others), default=0.0)
    # Steadier than the others is not yet steady: in a file that is in none of the known orders, some order is the steadiest.
    if this.misfit < HUMAN and 0 < this.bone_wobble < CLEARLY * lowest:
        found.append(f"bone lengths vary by {this.bone_wobble:.4f}, in any other by {lowest:.4f} or more")
    return found


def judge(decodings: list[Decoding], where: str) -> Finding | None:
    """The verdict on a split as a finding: error if another order fits, warning if nothing can be told, else confirmation."""
    if len(decodings) < 2:  # no clips, or a layout that has only one order
        return None
    right, found = decodings[0].order, verdict(decodings)
    if found.order == right:
        centred = "" if decodings[0].origin >= CENTRED else " (clips are not centred at joint 2)"
        return Finding("layout-confirmed", INFO, f"the values are ordered {right}: {found.evidence}{centred}", where)
    if found.order is not None:
        return Finding(
            "layout-scrambled", ERROR, f"the values are ordered {found.order}, not {right}: {found.evidence}", where,
            next_step="only the order is wrong: sal data prepare FILE --repair undoes it (or make the file again, ordered "
            f"{right}, coordinate fastest)",
        )  # fmt: skip
    why = f"the signs disagree ({found.evidence})" if found.evidence else "bones look alike in every order, clips are not centred"
    return Finding(
        "layout-unconfirmed", WARNING, f"the order of the values could not be confirmed and is taken to be {right}: {why}", where,
        next_step="draw a clip and look at it",
    )  # fmt: skip
