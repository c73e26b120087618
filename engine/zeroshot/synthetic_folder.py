"""A made-up world on disk, in the layout of the official features: for tests and demos."""

from __future__ import annotations

import math

import numpy as np

from engine.zeroshot import features
from engine.zeroshot.arrays import write_array
from engine.zeroshot.features import Features, Judged
from engine.zeroshot.plan import Plan
from engine.zeroshot.sources import Source
from engine.zeroshot.synthetic import World
from engine.zeroshot.task import Rows
from engine.zeroshot.text import rows as text_rows
from shared_data.atomic import whole_folder
from shared_data.withheld import SEEN_TO_UNSEEN
from shared_data.zeroshot_splits import Phase

LENGTH = 10.0  # of a text's row, about that of CLIP
KINDS = text_rows.MODES["lb_ad_md"]


def write(source: Source, world: World, plan: Plan, *, per_class: int = 20) -> None:
    """All that a run of `plan` reads below the `source`'s root, `per_class` clips of a class in each part.

    Labels, action and motion descriptions are three linear images of the world's text. Raises `WriteError` if a folder is there.
    """
    for phase in ("test", "val"):
        features.write(source.features_folder(len(plan.split(phase).unseen), phase), made_up(world, plan, phase, per_class))
    with whole_folder(source.text_folder, kind="folder of text features") as partial:
        width = world.text.shape[1]
        rng = np.random.default_rng([world.seed, 2])
        for kind in KINDS:
            image = np.linalg.qr(rng.normal(size=(width, width)))[0]  # a rotation: all kinds say the same
            write_array(partial / f"{kind}_{len(world.text)}.npy", (LENGTH * world.text @ image).astype(np.float32))


def made_up(world: World, plan: Plan, phase: Phase, per_class: int) -> Features:
    """The features of a phase; all its clips of unseen classes are also in the whole test set, as officially."""
    split = plan.split(phase)
    train = world.clips("train", split.seen, per_class, part=0)
    unseen = world.clips("ztest", split.unseen, per_class, part=1)
    if phase == "val":
        count = math.ceil(SEEN_TO_UNSEEN * len(unseen.labels) / len(split.seen))
        held = world.clips("val", split.seen, count, part=2)
        return Features(phase, split, train, _judged(world, unseen, split.seen), _judged(world, held, split.seen))
    known = world.clips("gtest", split.seen, per_class, part=3)
    everything = Rows("gtest", np.concatenate([known.features, unseen.features]), np.concatenate([known.labels, unseen.labels]))
    return Features(phase, split, train, Judged(unseen, None), _judged(world, everything, split.seen))


def _judged(world: World, rows: Rows, seen: tuple[int, ...]) -> Judged:
    return Judged(rows, world.logits(rows, seen))
