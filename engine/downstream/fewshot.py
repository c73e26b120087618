"""Classes that an encoder was not trained on, from a few clips of each: three protocols, each with a name of its own.

Source: `mamp_stars.md` 7. Published few-shot figures of STARS do not say which of these they are of.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.downstream.features import Features
from engine.downstream.neighbours import accuracies, nearest
from engine.downstream.results import Result
from shared_data.errors import DataError
from shared_data.novel_classes import EXEMPLARS, SEEN_BY_NTU60, novel, one_shot_parts
from shared_data.subsets import few_per_class

SHOTS = (1, 2, 5)
DRAWS = tuple(range(10))
NOVEL_GALLERY, FEW_SHOT, ONE_SHOT = "novel gallery k-NN", "novel K-shot prototypes", "NTU-120 one-shot"


def _novel(clips: Features) -> Features:
    """Those of A061 ... A120. Raises `DataError` where there are none."""
    rows = novel(clips.ids, clips.labels)
    if not len(rows):
        raise DataError(
            f"none of {len(clips)} clips is of the actions A061 ... A120", where="few-shot recognition",
            expected="NTU RGB+D 120 with NTU's names of clips",
        )  # fmt: skip
    return clips.at(rows)


def novel_gallery(
    train: Features, test: Features, ks: Sequence[int] = (1, 2, 5, 10), *, device: torch.device | str = "cpu"
) -> list[Result]:
    """(i) Nearest neighbours among all training clips of A061 ... A120, for the test clips of these actions."""
    gallery, queries = _novel(train), _novel(test)
    found = nearest(gallery.values, queries.values, max(ks), device=device)
    told = f"{len(gallery):,} clips in the gallery, {len(queries):,} queries"
    top1 = accuracies(found, gallery.labels, queries.labels, ks)
    return [Result(NOVEL_GALLERY, f"k = {k}", "none", (top1[k],), note=told) for k in ks]


def prototypes(train: Features, test: Features, shots: int, seeds: Sequence[int] = DRAWS) -> Result:
    """(ii) The nearest of prototypes by cosine, each the mean of `shots` training clips' unit features, for all novel test clips.

    seeds   one draw of clips each, the same clips whatever the order of the file
    Raises `UsageError` where a class has fewer clips.
    """
    gallery, queries = _novel(train), _novel(test)
    top1 = []
    for seed in seeds:
        drawn = gallery.at(few_per_class(gallery.ids, gallery.labels, shots, seed))
        classes, means = _means(drawn)
        nearest_class = classes[nearest(means, queries.values, 1).rows[:, 0]]
        top1.append(float((nearest_class == queries.labels).mean()))
    ways = len(np.unique(gallery.labels))
    return Result(
        FEW_SHOT, f"K = {shots}, {ways} classes", "none", tuple(top1), seeds=tuple(seeds), note=f"{len(queries):,} queries"
    )


def one_shot(clips: Features, *, pretrained_on: str = "") -> Result:
    """(iii) The official protocol: the nearest of 20 exemplars by cosine. `clips` are all of NTU-120, training and test together.

    pretrained_on   "ntu60": that those weights have seen half of the novel classes is told
    Raises `DataError` for clips without NTU's names and for missing exemplars.
    """
    parts = one_shot_parts(clips.ids)
    exemplars, queries = clips.at(parts == "exemplar"), clips.at(parts == "evaluation")
    found = exemplars.labels[nearest(exemplars.values, queries.values, 1).rows[:, 0]]
    note = f"{len(queries):,} queries"
    if pretrained_on == "ntu60":
        note += f"; the weights have seen {SEEN_BY_NTU60} of the {EXEMPLARS} novel classes, without labels"
    elif pretrained_on == "ntu120":
        note += f"; the weights may have seen all {EXEMPLARS} novel classes, without labels"
    return Result(ONE_SHOT, f"{EXEMPLARS} classes", "none", (float((found == queries.labels).mean()),), note=note)


def _means(drawn: Features) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Classes (C,) and the means (C, D) of their unit features."""
    values = drawn.values.astype(np.float64)
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-30)
    classes, which = np.unique(drawn.labels, return_inverse=True)
    sums = np.zeros((len(classes), values.shape[1]))
    np.add.at(sums, which.reshape(-1), unit)
    return classes, (sums / np.bincount(which.reshape(-1))[:, None]).astype(np.float32)
