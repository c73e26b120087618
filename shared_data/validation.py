"""Which sequences an epoch may be chosen on: never those that are tested."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shared_data.errors import DataError
from shared_data.formats.pku_folder import ALIASES
from shared_data.formats.pku_text import TRAIN_VIEWS, video_name
from shared_data.sequences import Sequences, SequenceSource, hold_out

EVERY = 10


class Validation(NamedTuple):
    """What is trained on, what the epoch is chosen on, and the rule that says so: "val", "rest" or "tenth"; `told` in words."""

    train: Sequences
    val: Sequences
    rule: str
    told: str


def validation(source: SequenceSource, kind: str = "auto") -> Validation:
    """A validation set that shares nothing with training or test.

    kind  what `source` is divided by: "view", "subject", or any other name of a protocol (NW-UCLA's "view3")
    In this order: (val) the source's own validation list, unless it shares a video with the test list, as the published one by
    view does: that one *is* the test list; (rest) by view, the videos of training views that are in no list, 67 of the published
    lists, apparently the tenth that was meant; (tenth) every tenth training video, which then is not trained on.
    Raises `DataError` for a single training sequence.
    """
    train, tested = source.splits["train"], set(source.splits["test"].ids.tolist())
    val = source.splits.get("val")
    if val is not None and len(val) and not tested & set(val.ids.tolist()):
        kept = _without(train, val)
        if len(kept):
            return Validation(kept, val, "val", f"the {len(val)} videos of the validation list")
    rest = source.splits.get("rest")
    if ALIASES.get(kind, kind) == "view" and rest is not None:
        known = {*tested, *train.ids.tolist()}
        own = np.array([name not in known and _trained_view(name) for name in rest.ids.tolist()], bool)
        if own.any():
            told = f"{own.sum()} videos of the training views that are in no list"
            return Validation(train, rest.subset(own), "rest", told)
    if len(train) < 2:
        raise DataError(
            f"{len(train)} training sequences, none can be held out", where=source.layout, expected="at least 2",
            next_step="give more sequences, or a validation list that shares none with the test list",
        )  # fmt: skip
    kept, held = hold_out(train, min(EVERY, len(train)))
    return Validation(kept, held, "tenth", f"{len(held)} of {len(train)} training videos, every {min(EVERY, len(train))}th")


def _without(train: Sequences, val: Sequences) -> Sequences:
    shared = np.isin(train.ids, val.ids)
    return train.subset(~shared) if shared.any() else train


def _trained_view(name: str) -> bool:
    video = video_name(name)
    return video is not None and video.view in TRAIN_VIEWS
