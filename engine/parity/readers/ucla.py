"""The NW-UCLA readers: CTR-GCN's, FreqMixFormer's, and Hyper-GCN's, which also drops an axis and joints."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from engine.parity.lines import Line
from engine.parity.readers.contract import Case, Group, Reader, differing
from shared_data.pipelines import pipeline
from shared_data.pipelines.ucla import DroppingUclaDraws, DroppingUclaOptions, UclaDraws


def draws_of(rows: Sequence[Group], joints: int) -> UclaDraws:
    """Recorded draws of any of the readers, for clips of so many `joints`."""
    x, y = (np.array([row[key] for row in rows], np.int64) for key in ("angle_x_deg", "angle_y_deg"))
    scale = np.array([row["scale"] for row in rows], np.float64)
    frames = np.array([row["frames"] for row in rows], np.int64)
    if not any("drop_axis" in row for row in rows):
        return UclaDraws(x, y, scale, frames)
    axis = np.array([-1 if row["drop_axis"] is None else row["drop_axis"] for row in rows], np.int64)
    dropped, during = np.zeros((len(rows), joints), bool), np.zeros(frames.shape, bool)
    for n, row in enumerate(rows):
        if row["drop_joints"] is not None:
            dropped[n, row["drop_joints"]] = during[n, row["drop_frames"]] = True
    return DroppingUclaDraws(x, y, scale, frames, axis, dropped, during)


def replay(case: Case, name: str = "ctrgcn_ucla") -> np.ndarray:
    """Our batch for the recorded draws, or the test batch."""
    ours = pipeline(name, stream=case.options["data_type"], window=case.options["frames"])
    if case.draws is None:
        return ours.test(case.clips, case.index).numpy()
    return ours.train(case.clips, case.index, draws_of(case.draws, case.clips.joints)).numpy()


def checks(case: Case) -> list[Line]:
    """The clips' lengths, and the drops that follow from the recorded uniform numbers."""
    lines = []
    if "lengths" in case.meta:
        official = np.array(case.meta["lengths"])[case.group["clips"]]
        lines.append(Line(f"{case.name} frames", differing(case.clips.extent[case.index], official), 0.0))
    options = DroppingUclaOptions()
    for name in ("drop_axis", "drop_joints"):
        rows = [row for row in case.draws or () if f"{name}_u" in row]
        if rows:
            ours = np.array([row[f"{name}_u"] for row in rows]) < getattr(options, name)
            lines.append(Line(f"{case.name} {name}", differing(ours, np.array([row[name] is not None for row in rows])), 0.0))
    return lines


READER = Reader("clips_ucla.zip", replay, checks=checks)
HYPERGCN = Reader("clips_ucla.zip", partial(replay, name="hypergcn_ucla"), checks=checks)
