"""What the readers of Skeleton-Contrastive, SCD-Net and USDRL have in common: crops by the stored frame count, views, splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.parity.lines import Line
from engine.parity.readers.contract import Case, Group, differing
from shared_data.batches.frames import crop_length
from shared_data.pipelines import pipeline
from shared_data.pipelines.downstream import Crops
from shared_data.pipelines.views import Views, only_cropped


def split(name: str, group: Group) -> str:
    """Views are of training clips; downstream outputs are of test clips unless their name says otherwise."""
    return "train" if "view" in name.rsplit("/", maxsplit=1)[-1] or name.startswith("downstream_train") else "test"


def crops(draws: Sequence[Group]) -> tuple[np.ndarray, np.ndarray]:
    """(start, length) (n,) of recorded draws, beside the others or in an entry ``crop``."""
    found = [row.get("crop", row) for row in draws]
    start, length = (np.array([row[key] for row in found], np.int64) for key in ("start", "length"))
    return start, length


def cropped(case: Case) -> Views:
    """One view per row with the recorded crop, to which nothing else happens yet."""
    start, length = crops(case.draws or ())
    return only_cropped(start[:, None], length[:, None], case.clips.joints, case.options["frames"])


def replay_views(case: Case, name: str, views: Views, **options: Any) -> np.ndarray:
    """The batch (n, 3, W, V, M) that the pipeline `name` makes of `views` of one view per row."""
    ours = pipeline(name, views=1, window=views.hidden.shape[-1], **options)
    return ours.train(case.clips, case.index, views).numpy()[:, 0]


def replay_downstream(case: Case, name: str, **options: Any) -> np.ndarray:
    """The batch (n, 3, W, V, M) of the pipeline `name` for recorded crops, or its test batch."""
    ratio = tuple(case.options["ratio"])
    ours = pipeline(name, ratio=ratio, test_ratio=ratio, window=case.options["frames"], **options)
    if case.draws is None:
        return ours.test(case.clips, case.index).numpy()
    return ours.train(case.clips, case.index, Crops(*crops(case.draws))).numpy()


def checks(case: Case) -> list[Line]:
    """The stored frame counts, and the crop length that follows from each recorded uniform number."""
    lines = []
    counts = case.meta.get("num_frame")
    extent = case.clips.extent[case.index]
    if counts is not None:
        recorded = np.array(counts["train" if split(case.name, case.group) == "train" else "val"])[case.index]
        lines.append(Line(f"{case.name} frame count", differing(extent, recorded), 0.0))
    ratio = case.options.get("ratio", ())
    found = [row.get("crop", row) for row in case.draws or ()]
    if len(ratio) == 2 and found and all("u" in row and "length" in row for row in found):
        u = np.array([row["u"] for row in found])
        length = crop_length(extent, ratio[0] + u * (ratio[1] - ratio[0]))
        lines.append(Line(f"{case.name} crop length", differing(length, crops(found)[1]), 0.0))
    return lines
