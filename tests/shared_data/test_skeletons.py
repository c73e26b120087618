"""The tables of every layout hang together, and say what the published readers do."""

from __future__ import annotations

import pytest

from shared_data.errors import LabError
from shared_data.skeletons import COCO17, KINETICS18, NTU25, SKELETONS, UCLA20, Skeleton, skeleton, with_joints

LAYOUTS = pytest.mark.parametrize("layout", SKELETONS.values(), ids=list(SKELETONS))
TABLES = pytest.mark.parametrize(
    ("layout", "name"), [(layout, name) for layout in SKELETONS.values() for name in layout.bone_tables], ids=str
)


def depths(links: tuple[tuple[int, int], ...], joints: int) -> dict[int, int]:
    """Links from each joint up to its root; fails if a joint has two parents or the links go round in a circle."""
    parent = {child: above for child, above in links if child != above}
    assert len(parent) == sum(child != above for child, above in links), "a joint has two parents"
    found = {}
    for joint in range(joints):
        at, steps = joint, 0
        while at in parent:
            at, steps = parent[at], steps + 1
            assert steps <= joints, f"joint {joint} hangs on a circle"
        found[joint] = steps
    return found


def mirrored(layout: Skeleton, links: tuple[tuple[int, int], ...]) -> set[frozenset[int]]:
    return {frozenset((layout.mirror[child], layout.mirror[parent])) for child, parent in links}


@LAYOUTS
def test_a_layout_is_whole(layout):
    v = layout.joints
    assert len(layout.joint_names) == len(set(layout.joint_names)) == v
    assert len(layout.edges) == v - 1
    assert [joint for joint, depth in depths(layout.edges, v).items() if depth == 0] == [layout.centre], "one tree, one root"
    assert layout.bones == layout.bone_table("ctrgcn"), "the default table has a name as well"
    assert skeleton(layout.name) is layout and with_joints(v) is layout


@LAYOUTS
def test_mirror_exchanges_left_and_right_and_nothing_else(layout):
    assert [layout.mirror[layout.mirror[joint]] for joint in range(layout.joints)] == list(range(layout.joints))
    for joint, name in enumerate(layout.joint_names):
        other = layout.joint_names[layout.mirror[joint]]
        side, _, rest = name.partition(" ")
        assert other == {"left": f"right {rest}", "right": f"left {rest}"}.get(side, name)
    assert mirrored(layout, layout.edges) == {frozenset(edge) for edge in layout.edges}


@LAYOUTS
def test_parts_hold_every_joint_once(layout):
    assert sorted(joint for part in layout.parts.values() for joint in part) == list(range(layout.joints))
    for name, part in layout.parts.items():
        inside = [link for link in layout.edges if set(link) <= set(part)]
        assert len(inside) == len(part) - 1, f"{name} hangs together"
        side, _, rest = name.partition(" ")
        if side in ("left", "right"):
            assert all(layout.joint_names[joint].startswith(side) for joint in part)
            other = layout.parts[f"{'right' if side == 'left' else 'left'} {rest}"]
            assert {layout.mirror[joint] for joint in part} == set(other)


@TABLES
def test_a_bone_table_gives_each_joint_one_parent(layout, name):
    table = layout.bone_table(name)
    assert sorted(child for child, _ in table) == list(range(layout.joints))
    assert sum(child == parent for child, parent in table) == 1
    assert list(depths(table, layout.joints).values()).count(0) == 1
    assert mirrored(layout, table) == {frozenset(pair) for pair in table}


def ntu(table: str) -> dict[int, int]:
    """1-based child -> parent, as the literature counts."""
    return {child + 1: parent + 1 for child, parent in NTU25.bone_table(table)}


def test_published_bone_tables_differ_where_they_are_known_to():
    usual, hyper, skate = ntu("ctrgcn"), ntu("hypergcn"), ntu("skateformer")
    common = "3-21 4-3 5-21 6-5 7-6 8-7 9-21 10-9 11-10 12-11 13-1 14-13 15-14 16-15 17-1 18-17 19-18 20-19 1-2"
    for child, parent in (map(int, pair.split("-")) for pair in common.split()):
        assert usual[child] == hyper[child] == skate[child] == parent
    joints = (2, 21, 22, 23, 24, 25)
    assert [usual[joint] for joint in joints] == [21, 21, 23, 8, 25, 12]
    assert [hyper[joint] for joint in joints] == [21, 21, 8, 8, 12, 12]
    assert [skate[joint] for joint in joints] == [2, 2, 8, 8, 12, 12]


@pytest.mark.parametrize(
    ("layout", "counts"),
    [(NTU25, [24, 22, 17, 12, 8, 4, 2, 0]), (UCLA20, [19, 15, 12, 8, 4, 2, 0])],
    ids=["ntu25", "ucla20"],
)
def test_the_tree_of_freqmixformer_is_as_deep_as_published(layout, counts):
    """The number of joints with an ancestor k links up, k = 1, 2, ..."""
    found = depths(layout.bone_table("freqmixformer"), layout.joints)
    assert [sum(depth >= k for depth in found.values()) for k in range(1, len(counts) + 1)] == counts


def test_degrees_of_the_ntu_and_kinetics_graphs():
    children = [sum(parent == joint for _, parent in NTU25.edges) for joint in range(25)]
    assert (children[20], children[0]) == (4, 2) and sum(count > 0 for count in children) == 20  # non-zeros of CTR-GCN's "Out"
    assert [parent for _, parent in KINETICS18.edges].count(1) == 3 and KINETICS18.joint_names[1] == "neck"
    assert dict(KINETICS18.bones)[1] == 0 and dict(KINETICS18.edges)[0] == 1, "bones hang on the nose, the graph on the neck"


def test_skateformer_drops_one_joint_of_ntu_and_none_of_ucla():
    order = NTU25.order("skateformer")
    assert len(order) == 24 and set(range(25)) - set(order) == {20}
    assert [NTU25.joint_names[joint] for joint in order[:4]] == ["left wrist", "left hand", "left hand tip", "left thumb"]
    assert order[-4:] == (1, 2, 0, 3)
    assert sorted(UCLA20.order("skateformer")) == list(range(20)) and UCLA20.order("skateformer")[0] == 4


def test_pku_joints_are_ntu_joints():
    assert skeleton("pku25") is NTU25


def test_unknown_names_are_told_the_known_ones():
    with pytest.raises(LabError, match="did you mean ntu25"):
        skeleton("ntu_25")
    with pytest.raises(LabError, match="no bone table called 'hyper-gcn'; did you mean hypergcn"):
        NTU25.bone_table("hyper-gcn")
    with pytest.raises(LabError, match="coco17 has no joint order called 'skateformer'"):
        COCO17.order("skateformer")
    assert with_joints(33) is None


def test_layouts_can_be_keys():
    assert {NTU25: 1}[skeleton("ntu25")] == 1
