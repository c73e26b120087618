"""The folder of 2s-AGCN, MS-G3D and the contrastive methods: ``{train,val}_data_joint.npy`` (N, 3, T, 25, M) with labels beside.

    train_data_joint.npy   val_data_joint.npy
    train_label.pkl        val_label.pkl        pickled (names, labels), or *_label.npy with the labels alone
    train_num_frame.npy    val_num_frame.npy    optional: frames recorded, before the clip was repeated to fill T

Their generators normalise every clip and repeat it cyclically until T = 300 frames are full: there is no zero tail, and the
trainers use all T frames. So all T frames are kept (`Clips.extent`), and `Clips.valid`, the prefix length that croppers use,
is the number in num_frame. Without that file the recorded length cannot be known and `valid` counts the repeats.
A zero tail, where a generator left one, is taken as padding. The pickles are read without being run (`pickles`).

Source: ``formats.md`` sections 7 and 8, ``specs/msg3d.md`` section 5.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from shared_data.classes import class_names
from shared_data.errors import DataError, MissingInputError
from shared_data.findings import ERROR, INFO, WARNING, Finding, rows_finding
from shared_data.formats import labels as label_rows
from shared_data.formats.fingerprint import Fingerprint, array_orders, judge
from shared_data.formats.fourkeys import MAX_FRAMES, MAX_LABEL_BYTES
from shared_data.formats.look import Look
from shared_data.formats.npy import Npy
from shared_data.formats.options import refuse_options
from shared_data.formats.pickles import read_pickle
from shared_data.formats.ragged import RaggedBuilder
from shared_data.formats.sample_names import (
    file_names_in,
    name_findings,
    names_by_action,
    numbers_in,
    placed,
    renumbered,
    row_names,
)
from shared_data.formats.source import Reading, Source, Split, ticker
from shared_data.skeletons import NTU25

PARTS = {"train": "train", "test": "val"}  # our split -> the files' word
ORIGIN_JOINT = 1
MAX_PEOPLE = 8
LABEL_STEPS = 4_000_000  # operations of a label pickle; NTU-120 needs half a million
EXPECTED = "(N, 3, T, 25, M): clips, xyz, frames, joints, people"


def recognise(seen: Look) -> str | None:
    """Why this is the layout, or None. Only files directly in the folder count: each benchmark has a folder of its own."""
    wanted = [f"{part}_data_joint.npy" for part in PARTS.values()]
    if seen.kind != "folder" or not set(wanted) <= set(seen.names):
        return None
    return f"a folder with {' and '.join(wanted)}"


def read(path: Path, how: Reading) -> Source:
    """Read the folder, streaming; files in folders above or below are not looked at. Raises `DataError`."""
    refuse_options(path, "agcn", how.options, "skip_list", "repair")
    arrays = {split: _joints(path, part) for split, part in PARTS.items()}
    people = arrays["train"].shape[4]
    if arrays["test"].shape[4] != people:
        shapes = " and ".join(str(array.shape) for array in arrays.values())
        raise DataError("train and val differ in people", where=f"{path}, shapes {shapes}", expected="the same in both")
    findings: list[Finding] = []
    names: dict[str, list[str] | None] = {}
    decoded: dict[str, tuple[np.ndarray, int | None]] = {}
    for split, part in PARTS.items():
        names[split], labels, width, found = _labels(path, part, arrays[split].shape[0])
        decoded[f"{part}_label"] = labels, width
        findings += found
    classes, found = label_rows.class_count(decoded, how.options.num_classes)
    named = {key: names[split] or [] for split, key in zip(PARTS, decoded, strict=True)}
    anew = renumbered((named[key], labels) for key, (labels, _) in decoded.items())
    for key, (labels, _) in decoded.items():
        findings += name_findings(named[key], labels, f"{key}.pkl", anew=bool(anew))
    findings += found
    splits: dict[str, Split] = {}
    tick = ticker(how.progress, sum(array.shape[0] for array in arrays.values()))
    orders = array_orders(NTU25.joints, people)
    if people > 2:
        orders = {order: orders[order] for order in list(orders)[:1]}  # only two-person vectors were ever scrambled
    decode = next(iter(orders.values()))
    for split, part in PARTS.items():
        array, where = arrays[split], f"{part}_data_joint.npy"
        sink = how.sinks(split, NTU25.joints, np.dtype(np.float32))
        builder = RaggedBuilder(sink, joints=NTU25.joints, max_people=people)
        fingerprint = Fingerprint(orders, NTU25, array.shape[0], time_axis=2)
        wandering: list[int] = []
        for start, block in array.blocks():
            builder.add(decode(block))
            fingerprint.add(start, block)
            wandering += (start + np.flatnonzero(block[:, :, :, ORIGIN_JOINT, 0].any((1, 2)))).tolist()
            tick(len(block))
        count = array.shape[0]
        given = names[split]
        ids = np.array(given, dtype="U") if given and len(given) == count else row_names(split, count)
        labels = decoded[f"{part}_label"][0][:count]
        labels = np.concatenate([labels, np.full(count - len(labels), -1, np.int64)])
        clips = builder.finish(labels, ids, frames=array.shape[2])
        recorded, found = _recorded(path, part, clips.extent, array.shape[2])
        measured = fingerprint.decodings()
        told = judge(measured, where)
        findings += [*found, *([told] if told else []), _normalised(wandering, where)]
        clips = clips if recorded is None else replace(clips, valid=recorded)
        splits[split] = Split(clips, array.shape, builder.scan, tuple(d.as_dict() for d in measured))
    known = names_by_action(anew, classes) if anew else class_names(classes)
    return Source("agcn", how.reason, NTU25, classes, known, splits, findings)


def _joints(path: Path, part: str) -> Npy:
    """The joint file of one part, its shape checked."""
    file = path / f"{part}_data_joint.npy"
    if not file.exists():
        below = sorted(found.parent for found in path.glob(f"*/{file.name}"))
        step = f"give one of the folders that hold it: {', '.join(map(str, below[:4]))}" if below else ""
        raise MissingInputError(f"no {file.name} in this folder", where=str(path), expected=EXPECTED, next_step=step)
    array = Npy(file)
    shape = array.shape
    fits = len(shape) == 5 and shape[1] == 3 and shape[3] == NTU25.joints
    if not fits or not 1 <= shape[2] <= MAX_FRAMES or not 1 <= shape[4] <= MAX_PEOPLE:
        raise DataError(f"shape {shape}", where=str(file), expected=f"{EXPECTED}, T to {MAX_FRAMES}, M to {MAX_PEOPLE}")
    if array.dtype.kind not in "biuf":
        raise DataError(f"elements of type {array.dtype}", where=str(file), expected="numbers")
    return array


def _labels(path: Path, part: str, clips: int) -> tuple[list[str] | None, np.ndarray, int | None, list[Finding]]:
    """Names (None if the file has none), labels, one-hot width (None for integers), and findings."""
    pickled, plain = path / f"{part}_label.pkl", path / f"{part}_label.npy"
    file = pickled if pickled.exists() else plain
    if not file.exists():
        raise MissingInputError(
            f"no {pickled.name} or {plain.name} in this folder", where=str(path), expected="labels of each part"
        )
    try:
        if file == plain:
            values, width, findings = label_rows.decode(Npy(file).read(limit=MAX_LABEL_BYTES), file.name, clips)
            return None, values, width, findings
        content = read_pickle(file, steps=LABEL_STEPS)
        if not isinstance(content, (tuple, list)) or len(content) != 2:
            raise DataError("no pair of names and labels", expected="a pickled (names, labels)")
        names = file_names_in(content[0], "names")
        labels, width, findings = label_rows.decode(numbers_in(content[1], "labels"), file.name, clips)
    except DataError as error:
        raise placed(error, file) from None
    if len(names) != clips:
        text, step = f"{len(names)} names for {clips} clips", "every clip needs its own name"
        findings.append(Finding("name-count", ERROR, text, file.name, abs(len(names) - clips), next_step=step))
    return names, labels, width, findings


def _recorded(path: Path, part: str, extent: np.ndarray, frames: int) -> tuple[np.ndarray | None, list[Finding]]:
    """Recorded frames (N,) int32 from the num_frame file, at most `extent`; None where there is no usable file."""
    file = path / f"{part}_num_frame.npy"
    if not file.exists():
        text = "no num_frame file: how long clips were before they were repeated is not known, valid frames count all"
        return None, [Finding("num-frame-missing", INFO, text, f"{part}_data_joint.npy")]
    counts = Npy(file).read(limit=MAX_LABEL_BYTES)
    if counts.shape != extent.shape or counts.dtype.kind not in "iu":
        text, step = f"{counts.dtype} of shape {counts.shape} for {len(extent)} clips", "one integer per clip; or remove the file"
        return None, [Finding("num-frame", ERROR, text, file.name, next_step=step)]
    wrong = np.flatnonzero((counts < 1) | (counts > frames)).tolist()
    if wrong:
        text = f"frame counts outside 1 to {frames}"
        step = "make the file again; it must lie in the order of the clips"
        return None, [rows_finding("num-frame", ERROR, text, where=file.name, rows=wrong, next_step=step)]
    return np.minimum(counts, extent).astype(np.int32), []


def _normalised(wandering: list[int], where: str) -> Finding:
    if not wandering:
        text = "joint 2 of person 1 is the origin in every frame: normalised as this layout's generators do"
        return Finding("normalised", INFO, text, where)
    text = "clips whose joint 2 leaves the origin after the first frame: not normalised frame by frame, as published results need"
    return rows_finding("not-normalised", WARNING, text, where=where, rows=wandering)
