"""Skeleton-Contrastive's reader: sheared or corrupted views and downstream crops, as frame vectors (``seq``) or plain."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from engine.parity.readers import views
from engine.parity.readers.contract import Case, Group, Reader
from shared_data.batches.representations import graph, sequence
from shared_data.pipelines.views import Views


def shear_or_corruption(plain: Views, draws: Sequence[Group]) -> Views:
    """`plain` views with the recorded operation of each row; USDRL records the same."""
    matrix, other, chosen = plain.matrix.copy(), np.zeros_like(plain.other), plain.chosen.copy()
    for row, draw in enumerate(draws):
        if draw["op"] == "shear":
            matrix[row, 0] = draw["matrix"]
        elif draw["op"] == "joint_corruption":
            chosen[row, 0, draw["joints"]] = True
            if draw["mode"] == "matrix":
                other[row, 0] = np.array(draw["matrix"]).T  # recorded for row vectors
            elif draw["mode"] != "zero":
                raise ValueError(f"unknown mode {draw['mode']!r}")
        else:
            raise ValueError(f"unknown operation {draw['op']!r}")
    return dataclasses.replace(plain, matrix=matrix, other=other, chosen=chosen)


def replay(case: Case) -> np.ndarray:
    """Our batch for the recorded draws, or the test batch, in the representation of the group."""
    if case.name.startswith("downstream"):
        batch = views.replay_downstream(case, "isc_downstream")
    else:
        batch = views.replay_views(case, "isc_pretrain", shear_or_corruption(views.cropped(case), case.draws or ()))
    vectors = sequence if len(case.group["shape"]) == 2 else graph
    return vectors(torch.from_numpy(batch)).numpy()


READER = Reader("clips_ntu.npz", replay, views.split, checks=views.checks)
