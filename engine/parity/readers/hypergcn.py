"""Hyper-GCN's NTU reader: crops as CTR-GCN's, or whole frames, which it draws at test time too."""

from __future__ import annotations

import numpy as np

from engine.parity.readers import ctrgcn
from engine.parity.readers.contract import Case, Group, Limits, Reader
from shared_data.batches.augment import rotation_matrices
from shared_data.batches.frames import frames_after_gaps
from shared_data.pipelines import pipeline
from shared_data.pipelines.hypergcn import HypergcnDraws

# With `align`: the official code rounds its matrix to float32 (the fixtures' README).
_ALIGNED = Limits(value=3e-6, wsum=2e-5, sum=1e-2)


def replay(case: Case) -> np.ndarray:
    """Our batch for the recorded draws, or the test batch."""
    given = case.options
    stream = ("b" if given.get("bone") else "j") + ("m" if given.get("motion") else "")
    options = {"stream": stream, "window": given["window"], **{name: bool(given.get(name)) for name in ("align", "random_rot")}}
    if "frame_sample" in given:
        options["frame_sample"] = given["frame_sample"]
    interval = tuple(given.get("p_interval", ()))
    if len(interval) == 1:
        options["test_p_interval"] = interval
    ours = pipeline("hypergcn_ntu", **options)
    if case.draws is None:
        return ours.test(case.clips, case.index).numpy()
    return ours.train(case.clips, case.index, draws_of(case, given["window"])).numpy()


def draws_of(case: Case, window: int) -> HypergcnDraws:
    """The recorded draws of all rows."""
    rows = case.draws or ()
    still = [0.0, 0.0, 0.0]
    matrices = rotation_matrices(np.array([row.get("angles", still) for row in rows], np.float64).reshape(len(rows), 3))
    whole = case.options.get("frame_sample", "resize") == "clips"
    frames = np.array([_whole_frames(row, window) if whole else [] for row in rows], np.int64)
    start, length = (np.array([0 if whole else row[key] for row in rows], np.int64) for key in ("start", "length"))
    return HypergcnDraws(start, length, matrices, frames.reshape(len(rows), -1))


def _whole_frames(row: Group, window: int) -> list[int]:
    """The frames (window,) of one clip from the start of its wrap-around, its gaps or its offsets in the segments."""
    steps = np.arange(window)
    if "start" in row:
        frames = (row["start"] + steps) % row["valid"]
    elif "gaps" in row:
        gaps = np.zeros((1, window + 1), bool)
        gaps[0, row["gaps"]] = True
        frames = frames_after_gaps(gaps)[0]
    else:
        frames = steps * row["valid"] // window + np.array(row["offsets"])
    return [int(frame) for frame in frames]


def limits(case: Case) -> Limits:
    """Wider where the clips are aligned."""
    return _ALIGNED if case.options.get("align") else Limits()


READER = Reader("clips_ntu.npz", replay, limits=limits, checks=ctrgcn.checks)
