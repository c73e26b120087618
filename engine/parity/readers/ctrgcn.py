"""CTR-GCN's NTU reader; FreqMixFormer's and MAMP's (window 120) give the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.parity.lines import Line
from engine.parity.readers.contract import Arrays, Case, Group, Reader, differing
from shared_data.batches.augment import rotation_matrices
from shared_data.batches.frames import crop_length
from shared_data.pipelines import NtuDraws, pipeline
from shared_data.subsets import semi_supervised


def options(given: Group) -> dict[str, Any]:
    """Our options for the reader's."""
    stream = ("b" if given.get("bone") else "j") + ("m" if given.get("motion") else "")
    interval = tuple(given["p_interval"])
    turned = bool(given.get("random_rot"))
    ours: dict[str, Any] = {"stream": stream, "window": given["window"], "p_interval": interval, "random_rot": turned}
    if len(interval) == 1:
        ours["test_p_interval"] = interval
    return ours


def replay(case: Case) -> np.ndarray:
    """Our batch for the recorded draws, or the test batch."""
    ours = pipeline("ctrgcn_ntu", **options(case.options))
    if case.draws is None:
        return ours.test(case.clips, case.index).numpy()
    start, length = (np.array([row[key] for row in case.draws], np.int64) for key in ("start", "length"))
    angles = np.array([row.get("angles", (0, 0, 0)) for row in case.draws], np.float64)
    return ours.train(case.clips, case.index, NtuDraws(start, length, rotation_matrices(angles))).numpy()


def checks(case: Case) -> list[Line]:
    """The valid counts, and the crop length that follows from each recorded uniform number."""
    if case.draws is None:
        return []
    valid = np.array([row["valid"] for row in case.draws])
    lines = [Line(f"{case.name} valid frames", differing(case.clips.valid[case.index], valid), 0.0)]
    interval = case.options.get("p_interval", ())
    if len(interval) == 2 and all("u" in row for row in case.draws):
        u = np.array([row["u"] for row in case.draws])
        length = crop_length(valid, u * (interval[1] - interval[0]) + interval[0])
        recorded = np.array([row["length"] for row in case.draws])
        lines.append(Line(f"{case.name} crop length", differing(length, recorded), 0.0))
    return lines


def whole(meta: Group, arrays: Arrays) -> list[Line]:
    """MAMP's semi-supervised rows."""
    train = [max(group["clips"]) for name, group in meta["groups"].items() if name.startswith("train")]
    return [
        Line(
            f"semi-supervised rows {ratio}",
            differing(semi_supervised(1 + max(train), float(ratio), kept["seed"]), np.array(kept["rows"])),
            0.0,
        )
        for ratio, kept in meta.get("semi_supervised_subset", {}).items()
    ]


READER = Reader("clips_ntu.npz", replay, checks=checks, whole=whole)
