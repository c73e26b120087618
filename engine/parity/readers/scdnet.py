"""SCD-Net's reader: views with up to five changes, each change alone on a downstream output, downstream outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from engine.parity.lines import Line
from engine.parity.readers import views
from engine.parity.readers.contract import Case, Group, Reader, differing
from shared_data.batches.frames import centre_crop
from shared_data.pipelines.scdnet import BLOCKS, joint_totals, rotations, spatial_mask
from shared_data.pipelines.views import Views, only_cropped
from shared_data.skeletons import NTU25


def changed(plain: Views, operations: Sequence[Sequence[Group]]) -> Views:
    """`plain` views with the recorded operations of each row, in their order."""
    swapped, matrix, chosen, hidden = (getattr(plain, name).copy() for name in ("swapped", "matrix", "chosen", "hidden"))
    for row, done in enumerate(operations):
        for operation in done:
            kind = operation["op"]
            if kind == "rotate":
                matrix[row, 0] = rotations(np.array(operation["angles_deg"])) @ matrix[row, 0]
            elif kind == "shear":
                matrix[row, 0] = np.array(operation["matrix"]) @ matrix[row, 0]
            elif kind == "swap_sides":
                swapped[row, 0] = True
            elif kind == "spatial_mask":
                chosen[row, 0, operation["joints"]] = True
            elif kind == "temporal_mask":
                hidden[row, 0].reshape(BLOCKS, -1)[operation["blocks"]] = True
            else:
                raise ValueError(f"unknown operation {kind!r}")
    return dataclasses.replace(
        plain, swapped=swapped, matrix=matrix, other=np.zeros_like(plain.other), chosen=chosen, hidden=hidden
    )


def _operations(case: Case) -> list[list[dict[str, Any]]]:
    """What was done to each row; in a group ``op/<name>`` that is <name> alone."""
    if case.name.startswith("op/"):
        return [[{**row, "op": case.name.rpartition("/")[2]}] for row in case.draws or ()]
    return [list(row.get("ops", ())) for row in case.draws or ()]


def _representation(name: str, options: Group) -> str:
    """Recorded among the options of views, in the name of a downstream group."""
    return str(options.get("representation", name.rsplit("/", maxsplit=1)[-1]))


def replay(case: Case) -> np.ndarray:
    """Our batch for the recorded draws, or the test batch."""
    if case.name.startswith("downstream"):
        return views.replay_downstream(case, "scdnet_downstream", representation=_representation(case.name, case.options))
    name, options, plain = case.name, case.options, None
    if name.startswith("op/"):
        name = case.group["input"]
        options = case.meta["groups"][name]["options"]
        start, length = centre_crop(case.clips.extent[case.index], options["ratio"][0])
        plain = only_cropped(start[:, None], length[:, None], case.clips.joints, options["frames"])
    made = changed(plain or views.cropped(case), _operations(case))
    return views.replay_views(case, "scdnet_pretrain", made, representation=_representation(name, options))


def checks(case: Case) -> list[Line]:
    """The usual ones, and which joints a stable sort masks for the recorded seed joints."""
    lines = views.checks(case)
    masks = list(_masks(case))
    if masks:
        seeds, totals, joints = (
            np.array([mask[key] for mask in masks]) for key in ("seed_joints", "totals", "joints_by_stable_sort")
        )
        ours = joint_totals(seeds, NTU25)
        lines.append(Line(f"{case.name} spatial mask totals", differing(ours, totals), 0.0))
        chosen = np.sort(np.nonzero(spatial_mask(totals))[1].reshape(len(totals), -1), axis=1)
        lines.append(Line(f"{case.name} spatial mask joints", differing(chosen, np.sort(joints, axis=1)), 0.0))
    return lines


def _masks(case: Case) -> Iterator[Group]:
    for done in _operations(case):
        for operation in done:
            if operation["op"] == "spatial_mask" and "joints_by_stable_sort" in operation:
                yield operation


READER = Reader("clips_ntu.npz", replay, views.split, checks=checks)
