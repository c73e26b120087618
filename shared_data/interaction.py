"""NTU-Inter: the two-person actions of NTU RGB+D, which SkateFormer is also trained on (``specs/skateformer.md`` 5.2)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shared_data.clips import Clips
from shared_data.datasets import DataSet

CLASSES = (*range(49, 60), *range(105, 120))  # ids from 0; the first eleven are those of NTU-60


def interaction_subset(clips: Clips) -> Clips:
    """The clips of the two-person classes, renumbered 0..25 (0..10 for NTU-60); their rows are shared, not copied."""
    subset = clips.subset(np.isin(clips.labels, CLASSES))
    return replace(subset, labels=np.searchsorted(CLASSES, subset.labels).astype(np.int64))


def two_person_actions(data: DataSet) -> DataSet:
    """NTU RGB+D with its two-person classes only, in both splits, under their own names."""
    kept = [k for k in CLASSES if k < data.num_classes]
    names = tuple(data.class_names[k] for k in kept) if data.class_names else ()
    train, test = interaction_subset(data.train), interaction_subset(data.test)
    return replace(data, num_classes=len(kept), class_names=names, train=train, test=test)
