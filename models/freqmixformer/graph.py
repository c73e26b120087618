"""What FreqMixFormer takes from a skeleton: its tree, the start adjacencies, who stands k steps towards the root, and the DCT.

The tree is not CTR-GCN's: FreqMixFormer writes it from parent to child, for NTU with the middle of the spine (joint 2) as root.
"""

from __future__ import annotations

import numpy as np
import torch
import torch_dct

from shared_data.skeletons import Skeleton

LOW, HIGH = 0.5, 1.5  # factors of the low and the high joint frequencies of mixed attention


def parents(skeleton: Skeleton) -> list[int | None]:
    """The parent of every joint, None for the root: the model's own tree where the layout has one, else the layout's."""
    found: list[int | None] = [None] * skeleton.joints
    for child, parent in skeleton.bone_tables.get("freqmixformer", skeleton.edges):
        if child != parent:
            found[child] = parent
    return found


def spatial_adjacency(skeleton: Skeleton) -> np.ndarray:
    """(3, V, V) float32: self links, [child, parent] = 1 / children of the parent, [parent, child] = 1.

    A map is applied from the right, ``y[w] = sum_v x[v] A[v, w]``: the second one brings a parent the mean of its children, the
    third brings every joint its parent.
    """
    away = np.zeros((skeleton.joints, skeleton.joints), np.float64)
    for child, parent in enumerate(parents(skeleton)):
        if parent is not None:
            away[parent, child] = 1.0
    inward = away.T
    columns = inward.sum(0)
    inward = inward / np.where(columns > 0, columns, 1.0)
    return np.stack([np.eye(skeleton.joints), inward, away]).astype(np.float32)


def ancestors(skeleton: Skeleton, hop: int) -> list[int | None]:
    """For every joint the joint `hop` steps nearer to the root, None where the path is shorter."""
    parent = parents(skeleton)
    reached: list[int | None] = list(range(skeleton.joints))
    for _ in range(min(hop, skeleton.joints)):
        reached = [None if joint is None else parent[joint] for joint in reached]
    return reached


def cosine_transforms(joints: int) -> np.ndarray:
    """(2, V, V) float64: the matrices of the DCT-II and of its inverse, both applied to rows, ``z @ matrix``.

    Unnormalised, as torch-dct defines them: ``X[k] = 2 sum_n x[n] cos(pi k (2n + 1) / 2V)``; they are inverse to each other.
    """
    unit = torch.eye(joints, dtype=torch.float64, device="cpu")
    return np.stack([torch_dct.dct(unit).numpy(), torch_dct.idct(unit).numpy()])


def attention_transforms(joints: int, split: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """What leads from features over joints into both domains, and from attention in both domains to the attention of a group.

    The first is (2V, V), unit matrix and DCT, float64. The second, (2G - 1, 2, V, G, V) as a matrix of 2 (2G - 1) V rows, sums
    the attention within each of G groups, then that between each and the next one: half and a quarter of each goes to the groups
    it belongs to, columns of mixed attention from `split` on are high frequencies, and the domains are averaged.
    """
    forward, inverse = cosine_transforms(joints)
    unit, scale = np.eye(joints), np.where(np.arange(joints) < split, LOW, HIGH)
    within = np.einsum("ig,dvw->idvgw", np.eye(groups), np.stack([unit, inverse]))
    neighbours = (np.eye(groups)[:-1] + np.eye(groups)[1:]) / 2
    between = np.einsum("ig,dvw->idvgw", neighbours, np.stack([unit, scale[:, None] * inverse]))
    return np.concatenate([unit, forward.T]), np.concatenate([within, between]).reshape(-1, groups * joints) / 4
