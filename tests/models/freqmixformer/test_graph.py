"""The tree, the adjacencies, the ancestors and the transforms of FreqMixFormer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.freqmixformer.graph import ancestors, attention_transforms, cosine_transforms, parents, spatial_adjacency
from shared_data.skeletons import COCO17, KINETICS18, NTU25, UCLA20, Skeleton
from tests.models.freqmixformer.naive import adjacency, joint_transform

LAYOUTS = {"ntu25": NTU25, "ucla20": UCLA20}


def test_adjacency_of_ntu() -> None:
    graph = spatial_adjacency(NTU25)
    assert graph.dtype == np.float32 and np.array_equal(graph, adjacency(25).numpy())
    inward = {(0, 1): 1 / 2, (20, 1): 1 / 2, (2, 20): 1 / 3, (4, 20): 1 / 3, (8, 20): 1 / 3, (12, 0): 1 / 2, (16, 0): 1 / 2}
    for (child, parent), value in inward.items():
        assert graph[1, child, parent] == pytest.approx(value)
    assert np.count_nonzero(graph[1]) == 24 and np.count_nonzero(graph[1] == 1) == 24 - len(inward)
    assert not graph[1, 1].any()  # joint 2 has no parent
    assert set(graph[2].ravel().tolist()) == {0.0, 1.0} and np.array_equal(graph[2] > 0, graph[1].T > 0)


def test_adjacency_of_ucla() -> None:
    assert np.array_equal(spatial_adjacency(UCLA20), adjacency(20).numpy())


@pytest.mark.parametrize("layout", [COCO17, KINETICS18], ids=lambda layout: layout.name)
def test_other_layouts_give_their_tree(layout: Skeleton) -> None:
    found = parents(layout)
    assert found[layout.centre] is None and found.count(None) == 1
    assert {(child, parent) for child, parent in enumerate(found) if parent is not None} == set(layout.edges)


@pytest.mark.parametrize("hop", range(1, 9))
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_ancestors(layout: Skeleton, hop: int) -> None:
    matrix = np.eye(layout.joints)
    for joint, ancestor in enumerate(ancestors(layout, hop)):
        if ancestor is not None:
            matrix[joint, ancestor] -= 1.0
    assert np.array_equal(matrix, joint_transform(layout.joints, hop).numpy())


def test_depths() -> None:
    """Joints that have an ancestor so many steps away: nobody has one 8 steps away."""
    counts = {n: [n - ancestors(layout, hop).count(None) for hop in range(1, 9)] for n, layout in ((25, NTU25), (20, UCLA20))}
    assert counts == {25: [24, 22, 17, 12, 8, 4, 2, 0], 20: [19, 15, 12, 8, 4, 2, 0, 0]}
    assert ancestors(NTU25, 1)[1] is None  # joint 2 keeps its coordinates


@pytest.mark.parametrize("joints", [20, 25])
def test_cosine_transforms(joints: int) -> None:
    forward, inverse = cosine_transforms(joints)
    assert forward.dtype == np.float64
    np.testing.assert_allclose(forward @ inverse, np.eye(joints), atol=1e-14)
    n, k = np.arange(joints)[:, None], np.arange(joints)[None]
    np.testing.assert_allclose(forward, 2 * np.cos(math.pi * k * (2 * n + 1) / (2 * joints)), atol=1e-13)
    row = np.random.default_rng(0).normal(size=joints)
    assert (row @ forward)[0] == pytest.approx(2 * row.sum())


def test_attention_transforms() -> None:
    """Against the sums of the paper, row by row."""
    joints, groups = 5, 4
    domains, back = attention_transforms(joints, 3, groups)
    forward, inverse = cosine_transforms(joints)
    rows = np.random.default_rng(0).normal(size=joints)
    np.testing.assert_allclose(domains @ rows, np.concatenate([rows, rows @ forward]), rtol=1e-12)
    within, between = np.random.default_rng(1).normal(size=(2, groups, 2, joints))
    between = between[:-1]
    scaled = between[:, 1] * np.array([0.5, 0.5, 0.5, 1.5, 1.5])
    own = within[:, 0] + within[:, 1] @ inverse
    mixed = np.zeros((groups + 1, joints))
    mixed[1:-1] = between[:, 0] + scaled @ inverse
    expected = (own / 2 + (mixed[:-1] + mixed[1:]) / 4) / 2
    found = np.concatenate([within, between]).reshape(-1) @ back
    np.testing.assert_allclose(found.reshape(groups, joints), expected, rtol=1e-12)
