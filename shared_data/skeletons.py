"""Skeleton layouts: one table per layout, and nothing about a layout anywhere else.

Joint numbers are 0-based. Sources: the Kinect SDK's joint names, CTR-GCN's bone pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared_data.errors import LabError


@dataclass(frozen=True)
class Skeleton:
    """A joint layout.

    edges   child -> parent links of the tree used by graph networks, V - 1 of them
    bones   child -> parent pairs of the bone stream, one per joint; a joint paired with itself has bone 0
    centre  the root of the tree
    mirror  joint order after exchanging left and right
    """

    name: str
    title: str
    joints: int
    joint_names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    bones: tuple[tuple[int, int], ...]
    centre: int
    mirror: tuple[int, ...]


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    """'1-2 2-21' in the 1-based numbering of the literature -> ((0, 1), (1, 20))."""
    return tuple((int(a) - 1, int(b) - 1) for a, b in (pair.split("-") for pair in text.split()))


_NTU_EDGES = (
    "1-2 2-21 3-21 4-3 5-21 6-5 7-6 8-7 9-21 10-9 11-10 12-11 13-1 14-13 15-14 16-15 17-1 18-17 19-18 20-19 "
    "22-23 23-8 24-25 25-12"
)
_UCLA_EDGES = "1-2 2-3 4-3 5-3 6-5 7-6 8-7 9-3 10-9 11-10 12-11 13-1 14-13 15-14 16-15 17-1 18-17 19-18 20-19"

NTU25 = Skeleton(
    name="ntu25",
    title="Kinect v2, 25 joints (NTU RGB+D 60/120, PKU-MMD)",
    joints=25,
    joint_names=(
        "spine base", "spine middle", "neck", "head",
        "left shoulder", "left elbow", "left wrist", "left hand",
        "right shoulder", "right elbow", "right wrist", "right hand",
        "left hip", "left knee", "left ankle", "left foot",
        "right hip", "right knee", "right ankle", "right foot",
        "spine at the shoulders", "left hand tip", "left thumb", "right hand tip", "right thumb",
    ),
    edges=_pairs(_NTU_EDGES),
    bones=_pairs(_NTU_EDGES + " 21-21"),
    centre=20,
    mirror=(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22),
)  # fmt: skip

UCLA20 = Skeleton(
    name="ucla20",
    title="Kinect v1, 20 joints (NW-UCLA)",
    joints=20,
    joint_names=(
        "hip centre", "spine", "shoulder centre", "head",
        "left shoulder", "left elbow", "left wrist", "left hand",
        "right shoulder", "right elbow", "right wrist", "right hand",
        "left hip", "left knee", "left ankle", "left foot",
        "right hip", "right knee", "right ankle", "right foot",
    ),
    edges=_pairs(_UCLA_EDGES),
    bones=_pairs(_UCLA_EDGES + " 3-3"),
    centre=2,
    mirror=(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15),
)  # fmt: skip

SKELETONS = {layout.name: layout for layout in (NTU25, UCLA20)}


def skeleton(name: str) -> Skeleton:
    """The layout called `name`; raises `LabError` naming the known ones."""
    if name not in SKELETONS:
        raise LabError(f"unknown skeleton layout {name!r}", expected=", ".join(SKELETONS))
    return SKELETONS[name]
