"""What a joint layout is: its joints, how they hang together, and what each model makes of that.

Joint numbers are 0-based everywhere; `pairs` and `numbers` read the 1-based lists of the literature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from shared_data.errors import LabError, nearest

Pairs = tuple[tuple[int, int], ...]
Table = TypeVar("Table")


@dataclass(frozen=True)
class Skeleton:
    """A joint layout of V joints.

    edges        child -> parent links of the tree used by graph networks, V - 1 of them
    bones        child -> parent pairs of the usual bone stream, one per joint; a joint paired with itself has bone 0
    centre       the root of `edges`
    mirror       joint order after exchanging left and right
    parts        named groups of joints, every joint in exactly one: arms, legs, trunk
    bone_tables  model -> its pairs, in the form of `bones`: published readers do not agree on them, nor graphs on the tree of
                 their edges where a reader has no bones. "ctrgcn" is `bones`
    orders       model -> the joints that it keeps, in the order in which it wants them
    """

    name: str
    title: str
    joints: int
    joint_names: tuple[str, ...]
    edges: Pairs
    bones: Pairs
    centre: int
    mirror: tuple[int, ...]
    parts: Mapping[str, tuple[int, ...]] = field(hash=False)
    bone_tables: Mapping[str, Pairs] = field(hash=False)
    orders: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)

    def bone_table(self, name: str) -> Pairs:
        """The bone pairs of the model `name`; raises `LabError` naming those there are."""
        return _named(self.bone_tables, name, f"the layout {self.name} has no bone table")

    def order(self, name: str) -> tuple[int, ...]:
        """The joint order of the model `name`, possibly fewer than V joints; raises `LabError` naming those there are."""
        return _named(self.orders, name, f"the layout {self.name} has no joint order")


def _named(tables: Mapping[str, Table], name: str, what: str) -> Table:
    if name not in tables:
        known = ", ".join(tables) or "none, nobody has published one"
        raise LabError(f"{what} called {name!r}{nearest(name, tables)}", expected=known)
    return tables[name]


def pairs(text: str) -> Pairs:
    """'1-2 2-21' in the 1-based numbering of the literature -> ((0, 1), (1, 20))."""
    return tuple((int(a) - 1, int(b) - 1) for a, b in (pair.split("-") for pair in text.split()))


def numbers(text: str) -> tuple[int, ...]:
    """'7 8 22' in the 1-based numbering of the literature -> (6, 7, 21)."""
    return tuple(int(number) - 1 for number in text.split())
