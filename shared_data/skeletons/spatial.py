"""The three adjacency matrices that CTR-GCN's blocks start from ("spatial" labelling, the only one that is configured)."""

from __future__ import annotations

import numpy as np

from shared_data.skeletons.layout import Skeleton


def spatial_adjacency(skeleton: Skeleton) -> np.ndarray:
    """(3, V, V) float32: self links, towards the parent, away from the parent.

    A map is applied as ``y[u] = sum_v A[u, v] x[v]``. The second one lets a joint *sum* its children (every child has one
    parent, so dividing the columns by their sums changes nothing); the third brings a joint its parent divided by the number
    of that parent's children.
    """
    inward = np.zeros((skeleton.joints, skeleton.joints), np.float64)
    for child, parent in skeleton.edges:
        inward[parent, child] = 1.0
    outward = inward.T
    columns = outward.sum(0)
    outward = outward / np.where(columns > 0, columns, 1.0)
    return np.stack([np.eye(skeleton.joints), inward, outward]).astype(np.float32)
