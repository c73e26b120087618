"""Skeleton-Contrastive's reader (``specs/isc.md`` 3): each view is sheared, or some of its joints are corrupted."""

from __future__ import annotations

import dataclasses

import numpy as np

from shared_data.batches.combinations import random_set
from shared_data.pipelines import contract
from shared_data.pipelines.downstream import Downstream, DownstreamOptions
from shared_data.pipelines.views import ViewOptions, ViewPipeline, Views
from shared_data.skeletons import Skeleton, skeleton

CORRUPTED_JOINTS = 15
NUMBERS = 12  # shear or corruption, which corruption, which joints, nine entries of a matrix


def shear_or_corrupt(views: Views, u: np.ndarray, layout: Skeleton) -> Views:
    """One of two for each view, in USDRL's reader too, from uniform numbers `u` (B, K, 12).

    Shear: entries off the diagonal between -1 and 1. Corruption: 15 joints, either 0 or mapped by a matrix of such entries.
    """
    corrupted, mapped = u[..., 0] < 0.5, u[..., 1] < 0.5
    entries = (2 * u[..., 3:] - 1).reshape(*u.shape[:2], 3, 3)
    shear = np.where(np.eye(3, dtype=bool), 1.0, entries)
    return dataclasses.replace(
        views,
        matrix=np.where(corrupted[..., None, None], np.eye(3), shear),
        other=np.where((corrupted & mapped)[..., None, None], entries, 0.0),
        chosen=random_set(u[..., 2], layout.joints, CORRUPTED_JOINTS) & corrupted[..., None],
    )


def pretrain(name: str, options: ViewOptions, views: int) -> ViewPipeline:
    """The pipeline `name` of sheared or corrupted views, `views` of them unless the options say otherwise."""
    enough = skeleton(options.skeleton).joints >= CORRUPTED_JOINTS
    contract.check(enough, "skeleton", options.skeleton, f"a layout with {CORRUPTED_JOINTS} joints to corrupt")
    return ViewPipeline(name, options, views, NUMBERS, shear_or_corrupt)


def isc_pretrain(options: ViewOptions) -> ViewPipeline:
    """Pipeline `isc_pretrain`: two views."""
    return pretrain("isc_pretrain", options, views=2)


def isc_downstream(options: DownstreamOptions) -> Downstream:
    """Pipeline `isc_downstream`: a random half to the whole of a training clip, the centre 95 % of a test clip."""
    return Downstream("isc_downstream", options, ratio=(0.5, 1.0), test_ratio=(0.95,), random_from=0.5)
