"""Features of a run's clips as files: one .npz for each part of its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine import records
from engine.assembly import fingerprint
from engine.trained import TrainedRun
from shared_data.atomic import whole_folder

FORMAT = 1  # of what is written: a newer one means that the same run gives something else
PARTS = ("train", "test")


def made_from(run: TrainedRun, **settings: Any) -> dict[str, Any]:
    """What features of `run` depend on, and no place on this machine but what its settings name."""
    return {
        "format": FORMAT, "run": run.config.identity(), "weights": run.weights, "weights_sha256": run.sha256,
        "clips": fingerprint(run.data), **settings,
    }  # fmt: skip


def write(folder: Path, run: TrainedRun, *, force: bool = False) -> bool:
    """Write ``train.npz`` and ``test.npz`` with ids, labels, features (N, D) and logits (N, K) of all clips into a new `folder`.

    The clips are seen as in evaluation, without augmentation. Returns False if that has been done before, from the same.
    Raises as `records.is_made`, `WriteError`, `DivergedError` and `OutOfMemoryError`.
    """
    from_this = made_from(run)
    if records.is_made(folder, from_this, force=force):
        return False
    with whole_folder(folder, kind="folder of features") as partial:
        counts = {}
        for part in PARTS:
            found = run.encoded(getattr(run.data, part))
            scores = found.scores
            file = partial / f"{part}.npz"
            np.savez(file, ids=scores.ids, labels=scores.labels, features=found.features, logits=scores.logits)
            counts[part] = len(found.features)
        records.write_record(partial / records.MADE, from_this, [f"{part}.npz" for part in PARTS], {"clips": counts})
    return True
