"""MS-G3D's reader, with ST-GCN's augmentations, and its offline normalisation."""

from __future__ import annotations

import dataclasses

import numpy as np

from engine.parity.lines import Line
from engine.parity.readers.contract import Case, Limits, Reader, largest
from shared_data.batches.prenormalise import prenormalised
from shared_data.clips import Clips
from shared_data.pipelines import pipeline
from shared_data.pipelines.msg3d import Msg3dDraws

# The official code rounds intermediate steps of the normalisation to float32 (the fixtures' README).
_NORMALISED = Limits(value=3e-6, wsum=2e-5, sum=1e-2)


def replay(case: Case) -> np.ndarray:
    """The normalised clips, our batch for the recorded draws, or the test batch."""
    if _is_normalised(case):
        return _normalised(case)
    options = {{"window_size": "window"}.get(name, name): value for name, value in case.options.items()}
    ours = pipeline("msg3d_ntu", **options)
    if case.draws is None:
        return ours.test(case.clips, case.index).numpy()
    rows = case.draws
    shift, choose = case.options.get("random_shift"), case.options.get("random_choose")
    moved_to = np.array([row["start"] if shift else -1 for row in rows], np.int64)
    start = np.array([row["start"] if choose else 0 for row in rows], np.int64)
    ends = [[row.get(key, [still] * 2) for row in rows] for key, still in _ENDS]
    move = np.array(ends, np.float64).transpose(1, 2, 0)
    return ours.train(case.clips, case.index, Msg3dDraws(moved_to, start, move)).numpy()


_ENDS = (("angle_deg", 0.0), ("scale", 1.0), ("shift_x", 0.0), ("shift_y", 0.0))


def _is_normalised(case: Case) -> bool:
    return case.name.startswith("prenorm")


def _normalised(case: Case) -> np.ndarray:
    return np.concatenate(list(prenormalised(_moved(case).subset(case.index), case.group["shape"][1])))


def _moved(case: Case) -> Clips:
    """The clips with everybody who is there moved by the recorded offset."""
    rows = np.array(case.clips.rows, np.float32)
    rows[rows.any(axis=(1, 2))] += np.array(case.meta.get("offset", (0.0, 0.0, 0.0)), np.float32)
    return dataclasses.replace(case.clips, rows=rows)


def limits(case: Case) -> Limits:
    """Wider for the normalisation."""
    return _NORMALISED if _is_normalised(case) else Limits()


def checks(case: Case) -> list[Line]:
    """The first frames of all clips, and more frames of some, which the fixture holds completely; both ways to normalise."""
    if not _is_normalised(case):
        return []
    ours, lines = _normalised(case), []
    prefix = case.name.split("/")[0]
    if f"{prefix}/frame0" in case.arrays:
        lines.append(Line(f"{case.name} frame 0", largest(ours[:, :, 0], case.arrays[f"{prefix}/frame0"]), _NORMALISED.value))
    for name, official in case.arrays.items():
        # joint_first64 (rows, 3, 64, V, M) of the clips in joint_first64_rows
        rows = case.arrays.get(f"{name}_rows")
        if name.startswith(f"{case.name}_first") and rows is not None:
            lines.append(Line(name, largest(ours[rows][:, :, : official.shape[2]], official), _NORMALISED.value))
    batch = pipeline("msg3d_ntu", prenorm=True, frames=case.group["shape"][1]).test(_moved(case), case.index)
    lines.append(Line(f"{case.name} on the fly", largest(batch.numpy(), ours), 0.0))
    return lines


READER = Reader("clips_ntu.npz", replay, limits=limits, checks=checks)
