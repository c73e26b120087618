"""The trees of joints that LaSA's graph knows, where they are not those of a layout's `edges`."""

from __future__ import annotations

import dataclasses

from shared_data.skeletons import Pairs, Skeleton
from shared_data.skeletons.layout import pairs

_EDGES = pairs("2-1 3-2 4-3 5-4 6-1 7-6 8-7 9-8 10-1 11-10 12-10 13-11 14-13 15-14 16-10 17-16 18-17 19-18")
_BONES: Pairs = ((0, 0), *_EDGES)

LARA19 = Skeleton(
    name="lara19",
    title="19 joints of a motion capture suit, as DeST and LaSA package LARa",
    joints=19,
    joint_names=tuple(f"joint {number}" for number in range(1, 20)),  # whose names are not in the published lists
    edges=_EDGES,
    bones=_BONES,
    centre=0,
    mirror=(0, 5, 6, 7, 8, 1, 2, 3, 4, 9, 15, 11, 16, 17, 18, 10, 12, 13, 14),  # the symmetry of the tree
    parts={
        "one leg": (1, 2, 3, 4),
        "other leg": (5, 6, 7, 8),
        "one arm": (10, 12, 13, 14),
        "other arm": (15, 16, 17, 18),
        "trunk": (0, 9, 11),
    },
    bone_tables={"ctrgcn": _BONES, "lasa": _BONES},
)
"""It is here and not among the shared layouts because its joints have no known names. Source: LaSA's published list of edges."""


def tree(layout: Skeleton) -> Skeleton:
    """`layout` with the edges of LaSA's graph: of the layouts without a published one, its own."""
    if "lasa" not in layout.bone_tables:
        return layout
    return dataclasses.replace(layout, edges=tuple(pair for pair in layout.bone_table("lasa") if pair[0] != pair[1]))
