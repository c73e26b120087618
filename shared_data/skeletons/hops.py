"""Disentangled multi-scale graphs: for each number k, who is exactly k hops away.

Source: MS-G3D (Liu et al., CVPR 2020), sections 3.2 and 3.3; LaSA takes those of one frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared_data.skeletons.layout import Skeleton


def hop_distance(skeleton: Skeleton) -> NDArray[np.float64]:
    """(V, V): bones on the shortest way between two joints; infinite where there is no way."""
    linked = np.eye(skeleton.joints, dtype=bool)
    for child, parent in skeleton.edges:
        linked[child, parent] = linked[parent, child] = True
    distance = np.full(linked.shape, np.inf)
    reached, hops = np.eye(skeleton.joints, dtype=bool), 0
    while np.isinf(distance[reached]).any():
        distance[reached & np.isinf(distance)] = hops
        reached, hops = reached @ linked, hops + 1
    return distance


def diameter(skeleton: Skeleton) -> int:
    """Hops between the two joints that are furthest apart."""
    distance = hop_distance(skeleton)
    return int(distance[np.isfinite(distance)].max())


def disentangled_adjacency(skeleton: Skeleton, scales: int, window: int = 1) -> NDArray[np.float32]:
    """(scales * W * V, W * V) float32: graph of k = 0, 1, ... hops over the W frames of a window, each symmetrically normalised.

    Row k * W * V + token is a receiver, a column a sender; tokens are (frame, joint), the joint fastest. All frames of a window
    are tied to each other, so a joint's own copy in another frame is one hop away, and a joint k > 1 hops away is so in every
    frame. Each graph has self links besides; k = 0 is these alone.

    The normalisation 1 / sqrt(row sum) is taken in IEEE float32, which is the same everywhere. The official tables come from
    NumPy's float32 power, whose last bit depends on the processor: they agree with these but for some last bits at W = 5.
    """
    distance = np.tile(hop_distance(skeleton), (window, window))
    itself = np.eye(len(distance), dtype=bool)
    distance = np.where(itself, 0.0, np.maximum(distance, 1.0))
    tables = []
    for hops in range(scales):
        links = ((distance == hops) | itself).astype(np.float32)
        scale = np.float32(1.0) / np.sqrt(links.sum(1))
        tables.append(scale[:, None] * links * scale)
    return np.concatenate(tables)
