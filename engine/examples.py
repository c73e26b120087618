"""A few test clips of a finished run, kept beside their predictions so that the report can draw them."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from engine.runfolder import RunFolder
from shared_data.clips import Clips
from shared_data.datasets import DataSet

FRAMES = 48


def save_examples(folder: RunFolder, data: DataSet, count: int = 6) -> None:
    """Write `examples.npz` (not if the scores are gone): half confident hits, half confident mistakes, if any."""
    try:
        logits, labels = _scores(folder.path / "scores.npz")
    except (OSError, ValueError, KeyError, BadZipFile):
        return  # the report says that there are none
    predictions = logits.argmax(1)
    order = np.argsort(-logits.max(1), kind="stable")
    hits, misses = order[predictions[order] == labels[order]], order[predictions[order] != labels[order]]
    mistakes = _one_per_class(misses, labels)[: count // 2]
    chosen = np.concatenate([_one_per_class(hits, labels)[: count - len(mistakes)], mistakes])
    folder.write_arrays(
        "examples.npz",
        clips=np.stack([_thinned(data.test, int(n)) for n in chosen]) if len(chosen) else np.zeros((0, FRAMES, 1, 1, 3)),
        ids=data.test.ids[chosen],
        labels=labels[chosen],
        predictions=predictions[chosen],
        skeleton=np.array(data.skeleton.name),
    )


def _scores(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as scores:
        return scores["logits"], scores["labels"]


def _one_per_class(index: np.ndarray, labels: np.ndarray) -> np.ndarray:
    _, first = np.unique(labels[index], return_index=True)
    return index[np.sort(first)]


def _thinned(clips: Clips, n: int) -> np.ndarray:
    """Clip n as (FRAMES, max_people, V, 3) float32, frames evenly spaced."""
    clip = clips.clip(n)
    frames = np.linspace(0, len(clip) - 1, FRAMES).round().astype(int)
    result = np.zeros((FRAMES, clips.max_people, clips.joints, 3), np.float32)
    result[:, : clip.shape[1]] = clip[frames]
    return result
