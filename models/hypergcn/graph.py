"""The skeleton graph that Hyper-GCN starts from: real joints on their bones, virtual joints linked to every real one."""

from __future__ import annotations

import numpy as np

from shared_data.skeletons import Skeleton


def ensemble_adjacency(skeleton: Skeleton, hyper_joints: int, groups: int) -> np.ndarray:
    """(groups, V + h, V + h) float32 of zeros and ones, symmetric, every group alike, not normalised.

    Links: each joint with itself, with its parent and its children, and with each of the h virtual joints, which come last and
    are not linked with one another. Bones are those of the paper's reader, where both fingers of a hand hang on the hand; a
    layout without such a table gives its tree.
    """
    joints, pairs = skeleton.joints, skeleton.bone_tables.get("hypergcn", skeleton.edges)
    graph = np.eye(joints + hyper_joints, dtype=np.float32)
    for child, parent in pairs:
        graph[child, parent] = graph[parent, child] = 1.0
    graph[:joints, joints:] = graph[joints:, :joints] = 1.0
    return np.repeat(graph[None], groups, axis=0)
