"""Skeleton layouts: one table per layout, and nothing about a layout anywhere else.

A new layout is one module here with one table, and its name in `SKELETONS`.
"""

from __future__ import annotations

from shared_data.errors import LabError, nearest
from shared_data.skeletons.coco17 import COCO17
from shared_data.skeletons.kinetics18 import KINETICS18
from shared_data.skeletons.layout import Pairs, Skeleton
from shared_data.skeletons.ntu25 import NTU25
from shared_data.skeletons.ucla20 import UCLA20

__all__ = ["ALIASES", "COCO17", "KINETICS18", "NTU25", "SKELETONS", "UCLA20", "Pairs", "Skeleton", "skeleton", "with_joints"]

SKELETONS = {layout.name: layout for layout in (NTU25, UCLA20, KINETICS18, COCO17)}
ALIASES = {"pku25": NTU25, "openpose18": KINETICS18}  # other names of the same joints


def skeleton(name: str) -> Skeleton:
    """The layout called `name`; raises `LabError` naming the known ones."""
    known = {**SKELETONS, **ALIASES}
    if name not in known:
        raise LabError(f"unknown skeleton layout {name!r}{nearest(name, known)}", expected=", ".join(known))
    return known[name]


def with_joints(count: int) -> Skeleton | None:
    """The layout of so many joints, None if there is none."""
    return next((layout for layout in SKELETONS.values() if layout.joints == count), None)
