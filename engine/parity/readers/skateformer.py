"""SkateFormer's readers: the NTU one with its single operations and frame positions, and the NW-UCLA one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from engine.parity.lines import Line
from engine.parity.readers import ucla
from engine.parity.readers.contract import Case, Group, Reader, differing
from shared_data.batches.frames import crop_length, crop_resize, frames_after_gaps
from shared_data.clips import Clips
from shared_data.interaction import interaction_subset
from shared_data.pipelines.contract import Positioned
from shared_data.pipelines.skateformer import MODEL, ROOT, SkateformerNtu
from shared_data.pipelines.skateformer_augment import NOISE, combined, transfer_bone_lengths
from shared_data.pipelines.skateformer_plan import SkateformerNtuDraws, SkateformerNtuOptions, unaugmented
from shared_data.pipelines.skateformer_sampling import frame_positions, same_places, window_frames
from shared_data.pipelines.skateformer_ucla import SkateformerUcla, SkateformerUclaOptions
from shared_data.skeletons import NTU25

_OPERATIONS = "op/"  # groups of one operation each, on test outputs


def options(given: Group) -> dict[str, Any]:
    """Our options for the reader's."""
    ours = {key: given[key] for key in ("window", "thres", "uniform", "partition", "aug_method") if key in given}
    ours |= {key: float(given[key]) for key in ("intra_p", "inter_p") if key in given}
    interval = tuple(given["p_interval"])
    if len(interval) == 1:
        ours["test_p_interval"] = interval
    return {**ours, "stream": given.get("data_type", "j"), "p_interval": interval}


def _pipeline(case: Case) -> SkateformerNtu:
    """The pipeline of a group; that of its input for a single operation."""
    given = case.meta["groups"][case.group["input"]]["options"] if "input" in case.group else case.options
    return SkateformerNtu(SkateformerNtuOptions(**options(given)))


def _draws(case: Case, ours: SkateformerNtu) -> SkateformerNtuDraws:
    """The recorded draws as ours: those of a training group, or the fixed choices of a test with one operation."""
    rows = case.draws or []
    if case.name.startswith(_OPERATIONS):
        name = case.name.removeprefix(_OPERATIONS)
        # Bone lengths are no part of a chain; see `_transferred`.
        chains = [[{"op": name, **row}] if "applied" in row else [] for row in rows]
        return _operate(ours.test_draws(case.clips, case.index), chains)
    window, clips = ours.options.window, case.clips
    start, length = (np.array([row[key] for row in rows], np.int64) for key in ("start", "length"))
    if ours.options.uniform:
        frames = window_frames(start, length, np.array([_picked(row, window) for row in rows], np.int64))
    else:
        frames = crop_resize(start, length, window)
    partner = np.array([row.get("partner", -1) for row in rows], np.int64)
    draws = replace(
        unaugmented(frames),
        partner=partner,
        partner_frames=same_places(frame_positions(frames, clips.valid[case.index]), clips.valid[partner]),
        swap=np.array([row.get("swap", False) for row in rows], bool),
    )
    return _operate(draws, [row.get("ops", []) for row in rows])


def _picked(row: Group, window: int) -> np.ndarray:
    """(W,) frames counted from the start of the crop; 0 where it is stretched."""
    frames = np.zeros(window, np.int64)
    if "gaps" in row:
        frames += frames_after_gaps(np.isin(np.arange(window + 1), row["gaps"])[None])[0]
    elif "offsets" in row:
        frames += np.arange(window) * row["length"] // window + np.array(row["offsets"])
    return frames


def _off_diagonal(matrix: Sequence[Sequence[float]]) -> np.ndarray:
    """s1 and s2 of a shear matrix, see `shear_matrices`."""
    m = np.array(matrix)
    return np.concatenate([m[(0, 1, 2), (1, 0, 0)], m[(0, 1, 2), (2, 2, 1)]])


# operation -> what a recorded step of it sets for its clip
_SETS: dict[str, Callable[[Group], dict[str, Any]]] = {
    "shear": lambda step: {"shear": _off_diagonal(step["matrix"])},
    "rotate": lambda step: {"axis": step["axis"], "degrees": step["angle_deg"]},
    "scale": lambda step: {"factors": step["factors"]},
    "spatial_flip": lambda step: {"mirror": True},
    "temporal_flip": lambda step: {"reverse": True},
    "gaussian_noise": lambda step: {},  # added by `replay`
    "gaussian_filter": lambda step: {"sigma": step["sigma"]},
    "drop_axis": lambda step: {"dropped_axis": step["axis"]},
    "drop_joint": lambda step: {},  # sets of joints and frames, see below
}


def _operate(draws: SkateformerNtuDraws, chains: Sequence[Sequence[Group]]) -> SkateformerNtuDraws:
    """`draws` with the operations that were applied to each clip."""
    count = len(chains)
    linear = {"shear": np.zeros((count, 6)), "axis": np.zeros(count, np.int64), "degrees": np.zeros(count)}
    linear |= {"factors": np.ones((count, 3)), "dropped_axis": np.full(count, -1)}
    others = {"mirror": np.zeros(count, bool), "reverse": np.zeros(count, bool), "sigma": np.zeros(count)}
    joints, frames = draws.dropped_joints.copy(), draws.dropped_frames.copy()
    for row, chain in enumerate(chains):
        for step in chain:
            if step["applied"]:
                for key, value in _SETS[step["op"]](step).items():
                    (linear if key in linear else others)[key][row] = value
                if step["op"] == "drop_joint":
                    joints[row, step["joints"]] = frames[row, step["frames"]] = True
    return replace(draws, matrix=combined(**linear), **others, dropped_joints=joints, dropped_frames=frames)


def replay(case: Case) -> np.ndarray:
    """Our batch for the recorded draws, or the test batch."""
    ours = _pipeline(case)
    if case.draws is None:
        return ours.test(case.clips, case.index).numpy()
    if case.name == f"{_OPERATIONS}bone_length_transfer":
        return _transferred(case, ours)
    batch = ours.train(case.clips, case.index, _draws(case, ours)).numpy()
    if case.name == f"{_OPERATIONS}gaussian_noise":
        # Any stream of normal numbers would do; to compare values we add the recorded one.
        shape = case.group["shape"]
        batch = batch + [np.random.RandomState(seed).normal(0, NOISE, shape) for seed in case.group["seeds"]]
    return batch


def _transferred(case: Case, ours: SkateformerNtu) -> np.ndarray:
    """Test outputs with the bone lengths of another clip's test output."""
    reference = np.array([row["reference_clip"] for row in case.draws or []])

    def people(index: np.ndarray) -> torch.Tensor:
        return ours.test(case.clips, index).permute(0, 4, 1, 2, 3).flatten(0, 1)

    moved = transfer_bone_lengths(people(case.index), people(reference), NTU25.bone_table(MODEL), ROOT)
    batch: np.ndarray = moved.unflatten(0, (len(reference), -1)).permute(0, 2, 3, 4, 1).numpy()
    return batch


def checks(case: Case) -> list[Line]:
    """Valid counts, crop lengths, frame positions, partner frames; once per fixture the two-person subset."""
    ours, draws = _pipeline(case), case.draws
    ours_draws = None if draws is None else _draws(case, ours)
    lines = _positions(case, ours, ours_draws)
    if draws and all("valid" in row and "length" in row for row in draws):
        valid = np.array([row["valid"] for row in draws])
        lines.append(Line(f"{case.name} valid frames", differing(case.clips.valid[case.index], valid), 0.0))
        if all("p" in row for row in draws):
            length = crop_length(valid, np.array([row["p"] for row in draws]), ours.options.thres)
            recorded = np.array([row["length"] for row in draws])
            lines.append(Line(f"{case.name} crop length", differing(length, recorded), 0.0))
    mixed = np.array([row for row, given in enumerate(draws or []) if "partner_frames" in given], np.int64)
    if len(mixed) and draws and ours_draws is not None:
        recorded = np.array([draws[row]["partner_frames"] for row in mixed])
        lines.append(Line(f"{case.name} partner frames", differing(ours_draws.partner_frames[mixed], recorded), 0.0))
    if case.name == next(iter(case.meta["groups"])):
        for split, clips in case.splits.items():
            if wanted := case.meta.get(f"interaction_subset_{split}"):
                lines += _interaction(split, clips, wanted)
    return lines


def _positions(case: Case, ours: Positioned, draws: Any) -> list[Line]:
    """Frame positions, recorded under the group's own name or for all test groups of one way of sampling."""
    kind = "" if "uniform" not in case.options else "uniform_" if case.options["uniform"] else "resize_"
    names = [f"{case.name}_index_t"] + ([f"test/{kind}index_t"] if case.name.startswith("test/") else [])
    recorded = next((case.arrays[name] for name in names if name in case.arrays), None)
    if recorded is None:
        return []
    return [Line(f"{case.name} frame positions", differing(ours.positions(case.clips, case.index, draws), recorded), 0.0)]


def _interaction(split: str, clips: Clips, wanted: Group) -> list[Line]:
    subset = interaction_subset(clips)
    ids = np.array(clips.ids)[np.array(wanted["rows"], np.int64)]
    return [
        Line(f"interaction subset {split} clips", differing(subset.ids, ids), 0.0),
        Line(f"interaction subset {split} labels", differing(subset.labels, np.array(wanted["labels"])), 0.0),
    ]


def _ucla_pipeline(case: Case) -> SkateformerUcla:
    # Only its name tells the group with the joints in their old order, for which no options are recorded.
    given = {"data_type": "j", "frames": case.group["shape"][1], "partition": "plain" not in case.name, **case.options}
    options = SkateformerUclaOptions(stream=given["data_type"], window=given["frames"], partition=given["partition"])
    return SkateformerUcla(options)


def ucla_replay(case: Case) -> np.ndarray:
    """Our NW-UCLA batch for the recorded draws, or the test batch."""
    ours = _ucla_pipeline(case)
    if case.draws is None:
        return ours.test(case.clips, case.index).numpy()
    return ours.train(case.clips, case.index, ucla.draws_of(case.draws, case.clips.joints)).numpy()


def ucla_checks(case: Case) -> list[Line]:
    """What all NW-UCLA readers are checked for, and frame positions."""
    draws = None if case.draws is None else ucla.draws_of(case.draws, case.clips.joints)
    return [*ucla.checks(case), *_positions(case, _ucla_pipeline(case), draws)]


READER = Reader("clips_ntu.npz", replay, checks=checks)
UCLA = Reader("clips_ucla.zip", ucla_replay, checks=ucla_checks)
