"""Is a vector of 150 numbers really person, joint, xyz? Three other orders exist, and mixing them up raises nothing.

A sample of clips is decoded in every order. In the right one joint 2 of person 1 is exactly 0 in the first frame (files
centred by the NTU scripts), the second person of most clips is empty, and bones keep their length over time.
Source: ``loader.md`` section 6.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared_data.findings import ERROR, INFO, WARNING, Finding
from shared_data.skeletons import Skeleton

SAMPLED_CLIPS = 600
SAMPLED_FRAMES = 17
RIGHT = "person, joint, xyz"
Decode = Callable[[np.ndarray], np.ndarray]  # block as the file holds it -> (B, T, M, V, 3)


def vector_orders(joints: int, people: int) -> dict[str, Decode]:
    """The orders in which (B, T, people * joints * 3) vectors are met; the right one first."""
    v, m = joints, people

    def order(shape: tuple[int, ...], axes: tuple[int, ...]) -> Decode:
        return lambda x: x.reshape(*x.shape[:2], *shape).transpose(0, 1, *(a + 2 for a in axes))

    if m == 1:
        return {"joint, xyz": order((v, 3, 1), (2, 0, 1)), "xyz, joint": order((3, v, 1), (2, 1, 0))}
    return {
        RIGHT: order((m, v, 3), (0, 1, 2)),
        "joint, xyz, person": order((v, 3, m), (2, 0, 1)),
        "xyz, joint, person": order((3, v, m), (2, 1, 0)),
        "person, xyz, joint": order((m, 3, v), (0, 2, 1)),
    }


def array_orders(joints: int, people: int) -> dict[str, Decode]:
    """What (B, 3, T, V, M) arrays are met as: right, or made from a 150-vector by one of the wrong orders above."""

    def scrambled(axes: tuple[int, ...]) -> Decode:
        # Undo the wrong order to get the original vector back, then decode that rightly.
        return lambda x: x.transpose(axes).reshape(x.shape[0], x.shape[2], people, joints, 3)

    right = {RIGHT: lambda x: x.transpose(0, 2, 4, 3, 1)}
    if people == 1:
        return {**right, "xyz, joint": scrambled((0, 2, 1, 3, 4))}
    return {
        **right,
        "joint, xyz, person": scrambled((0, 2, 3, 1, 4)),
        "xyz, joint, person": scrambled((0, 2, 1, 3, 4)),
        "person, xyz, joint": scrambled((0, 2, 4, 1, 3)),
    }


@dataclass(frozen=True)
class Decoding:
    """How one order looks.

    origin          share of clips with joint 2 of person 1 exactly 0 in the first frame
    second_empty    share of clips whose second person is all zero
    second_copied   share of clips whose second person equals the first
    bone_variation  median over clips of the mean over bones of (standard deviation / mean) of the bone length over time
    bone_wobble     the same without the division, in the file's unit: it decides, because orders that mix axes of an
                    uncentred file have long and therefore relatively steady "bones"
    """

    order: str
    origin: float
    second_empty: float
    second_copied: float
    bone_variation: float
    bone_wobble: float

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class Fingerprint:
    """Collects a sample of clips while a split is streamed, then judges it."""

    def __init__(self, orders: Mapping[str, Decode], skeleton: Skeleton, clips: int, time_axis: int) -> None:
        """`clips` in all will be added; T is axis `time_axis` of a block."""
        self._orders, self._skeleton, self._time_axis = orders, skeleton, time_axis
        self._every = max(1, clips // SAMPLED_CLIPS)
        self._parts: list[np.ndarray] = []
        self._right = next(iter(orders))

    def add(self, start: int, block: np.ndarray) -> None:
        """Take a block as the file holds it; clips whose number is a multiple of the sampling step are kept."""
        chosen = [n for n in range(len(block)) if (start + n) % self._every == 0]
        if not chosen:
            return
        taken = block[chosen]
        right = self._orders[self._right](taken)
        frames = right.shape[1]
        present = np.asarray(np.logical_or.reduce(np.ascontiguousarray(right).reshape(len(taken), frames, -1), axis=-1))
        for n, seen in enumerate(present):
            if not seen.any():
                continue
            first, last = int(seen.argmax()), frames - 1 - int(seen[::-1].argmax())
            picked = np.linspace(first, last, SAMPLED_FRAMES).astype(int)
            self._parts.append(taken[n].take(picked, axis=self._time_axis - 1))

    def decodings(self) -> list[Decoding]:
        """The measures of every order, the right one first; empty if no clip had any frame."""
        if not self._parts:
            return []
        sample = np.stack(self._parts)
        return [self._measure(name, decode(sample).astype(np.float64)) for name, decode in self._orders.items()]

    def _measure(self, name: str, clips: np.ndarray) -> Decoding:
        """`clips` (S, F, M, V, 3)."""
        first = clips[:, 0, 0]
        people = clips.shape[2]
        second: np.ndarray = clips[:, :, 1] if people > 1 else np.zeros_like(clips[:, :, 0])
        child, parent = (np.array(column) for column in zip(*self._skeleton.edges, strict=True))
        with np.errstate(all="ignore"):
            length = np.linalg.norm(clips[:, :, 0, child] - clips[:, :, 0, parent], axis=-1)  # (S, F, bones)
            spread, mean = length.std(1), length.mean(1)
            variation = np.where(mean > 0, spread / np.where(mean > 0, mean, 1), 0).mean(-1)
        shape = (len(clips), -1)
        copied = (second == clips[:, :, 0]).reshape(shape).all(-1)
        return Decoding(
            order=name,
            origin=float(((first[:, 1] == 0).all(-1) & first.reshape(shape).any(-1)).mean()),
            second_empty=float((~second.reshape(shape).any(-1)).mean()) if people > 1 else 1.0,
            second_copied=float(copied.mean()) if people > 1 else 0.0,
            bone_variation=_median(variation),
            bone_wobble=_median(spread.mean(-1)),
        )


def _median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else 0.0


def judge(decodings: list[Decoding], where: str) -> Finding | None:
    """The verdict on a split: error if another order fits, warning if nothing can be told, else confirmation."""
    if len(decodings) < 2:  # no clips, or a layout that has only one order
        return None
    right, others = decodings[0], decodings[1:]
    if right.origin >= 0.9:
        text = f"the values are ordered {right.order}: joint 2 of person 1 is the origin in {right.origin:.0%} of clips"
        return Finding("layout-confirmed", INFO, text, where)
    centred = max(others, key=lambda d: d.origin)
    if centred.origin >= 0.9:
        return _wrong(centred, f"only then is joint 2 of person 1 the origin ({centred.origin:.0%} of clips)", where)
    steady = min(others, key=lambda d: d.bone_wobble)
    told = f"bone lengths vary by {steady.bone_wobble:.4f} in that order, by {right.bone_wobble:.4f} in the right one"
    if steady.bone_wobble < 0.5 * right.bone_wobble and steady.second_empty >= right.second_empty:
        return _wrong(steady, told, where)
    if 0 < right.bone_wobble < 0.8 * steady.bone_wobble:
        text = f"the values are ordered {right.order} (steady bone lengths); clips are not centred at joint 2"
        return Finding("layout-confirmed", INFO, text, where)
    return Finding(
        "layout-unconfirmed", WARNING,
        f"the order of the values could not be confirmed and is taken to be {right.order}: clips are not centred at "
        "joint 2 and bone lengths are equally (un)steady in every order", where,
        next_step="draw a clip and look at it",
    )  # fmt: skip


def _wrong(decoding: Decoding, evidence: str, where: str) -> Finding:
    return Finding(
        "layout-scrambled", ERROR, f"the values are ordered {decoding.order}, not {RIGHT}: {evidence}", where,
        next_step=f"make the file again with vectors ordered {RIGHT} (coordinate fastest): only the order is wrong",
    )  # fmt: skip
