"""USDRL's readers: sheared or corrupted views, downstream crops as time or space vectors, detection clips with their labels."""

from __future__ import annotations

import numpy as np
import torch

from engine.parity.lines import Line
from engine.parity.readers import views
from engine.parity.readers.contract import Arrays, Case, Group, Reader, differing
from engine.parity.readers.isc import shear_or_corruption
from shared_data.batches.representations import REPRESENTATIONS
from shared_data.pipelines.usdrl import background, detection_clips, detection_draws


def replay(case: Case) -> np.ndarray:
    """Our batch for the recorded draws, or the test batch; downstream groups are called ``<use>/<joint...>_<time...>``."""
    if case.name.startswith("detection_clip"):
        return _detection(case)[0]
    if not case.name.startswith("downstream"):
        return views.replay_views(case, "usdrl_pretrain", shear_or_corruption(views.cropped(case), case.draws or ()))
    representation, vectors = case.name.rpartition("/")[2].split("_")
    batch = views.replay_downstream(case, "usdrl_downstream", representation=representation)
    return REPRESENTATIONS[vectors](torch.from_numpy(batch)).numpy()


def _detection(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Our detection clips and their labels."""
    window, draws = case.group["shape"][1], case.draws or ()
    segments = np.array([row["segment"] for row in draws], np.int64)
    share, front_share = (np.array([row[key] for row in draws]) for key in ("background_ratio", "front_u"))
    bounds = (np.array([row.get("left", 0) for row in draws]), np.array([row.get("right", 0) for row in draws]))
    made = detection_draws(case.clips, case.index, segments, background(share, front_share, window), bounds, window=window)
    frame = np.arange(int(case.clips.extent[case.index].max()))
    inside = (frame >= segments[:, 1:2]) & (frame < segments[:, 2:])
    batch, labels = detection_clips(case.clips, case.index, segments, inside * segments[:, :1], made, window=window)
    return batch.numpy(), labels


def checks(case: Case) -> list[Line]:
    """The usual ones; for detection clips the frame labels and which segments were cut out."""
    if not case.name.startswith("detection_clip"):
        return views.checks(case)
    return [Line(f"{case.name} frame labels", differing(_detection(case)[1], case.arrays[f"{case.name}_labels"]), 0.0)]


def whole(meta: Group, arrays: Arrays) -> list[Line]:
    """The orders after the downstream reader's shuffle: NumPy's old generator, as it was seeded."""
    lines = []
    for name, order in meta.items():
        if name.endswith("_order"):
            rows = np.array(order["rows"])
            ours = np.random.RandomState(order["seed"]).permutation(len(rows))
            lines.append(Line(name.replace("_", " "), differing(ours, rows), 0.0))
    return lines


READER = Reader("clips_ntu.npz", replay, views.split, checks=checks, whole=whole)
