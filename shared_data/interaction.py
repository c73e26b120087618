"""NTU-Inter: the two-person actions of NTU RGB+D, which SkateFormer is also trained on (``specs/skateformer.md`` 5.2)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shared_data.clips import Clips

CLASSES = (*range(49, 60), *range(105, 120))  # ids from 0; the first eleven are those of NTU-60


def interaction_subset(clips: Clips) -> Clips:
    """The clips of the two-person classes, renumbered 0..25 (0..10 for NTU-60); their rows are shared, not copied."""
    subset = clips.subset(np.isin(clips.labels, CLASSES))
    return replace(subset, labels=np.searchsorted(CLASSES, subset.labels).astype(np.int64))
