"""Open a data file of any known layout as train and test clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shared_data import inplace
from shared_data.clips import Clips
from shared_data.errors import DataError
from shared_data.findings import INFO, Finding, refuse_errors
from shared_data.formats import nw_ucla
from shared_data.formats.duplicates import duplicates
from shared_data.formats.options import ReadOptions
from shared_data.formats.ragged import nowhere
from shared_data.formats.reading import STORE, read_source, resolve, settle
from shared_data.formats.source import Progress, Reading, Source
from shared_data.protocols import recognise
from shared_data.skeletons import SKELETONS, Skeleton

HELD_OUT_SUBJECTS = 2
TAIL = 0.1


@dataclass(frozen=True)
class DataSet:
    """A data set, ready to be sampled.

    layout    a name of `formats.reading.LAYOUTS`
    reason    why that layout was recognised, one sentence
    findings  what was noticed; errors are never among them, they were refused
    """

    name: str
    path: Path
    layout: str
    reason: str
    skeleton: Skeleton
    num_classes: int
    class_names: tuple[str, ...]
    train: Clips
    test: Clips
    findings: tuple[Finding, ...]


def open_data(
    path: str | Path,
    *,
    layout: str = "auto",
    options: ReadOptions = ReadOptions(),
    progress: Progress | None = None,
) -> DataSet:
    """Open `path`, a file or folder of any layout in `LAYOUTS`.

    A store is memory-mapped, and so is a large Kaggle NPZ that is not compressed (`inplace`; its first opening reads it once).
    Any other file is streamed into the ragged form in memory: 10 GB of padded frames take about 1.5 GB.
    options  classes, split, what to do with bad clips ..., see `ReadOptions`; num_classes is needed for integer labels only if
             the largest label does not occur, otherwise it is checked
    Raises `DataError` (65) or `MissingInputError` (66).
    """
    path = Path(path)
    layout, reason = resolve(path, layout)
    if layout == STORE:
        return _from_store(path, reason, options)
    if layout == inplace.LAYOUT and inplace.suits(path, options) and (data := _in_place(path, reason, options, progress)):
        return data
    return _data_set(path, reason, *_read(path, layout, Reading(options, reason, progress=progress)))


def _read(path: Path, layout: str, how: Reading, *, in_place: bool = False) -> tuple[Source, dict[str, Clips], list[Finding]]:
    """The source, its clips after the policy for bad ones, and all findings. Raises `DataError` if one of these is an error."""
    source = read_source(path, layout, how)
    if in_place:
        source = inplace.placed(source)
    clips, findings = settle(source, how.options)
    refuse_errors(findings, path)
    return source, clips, findings + duplicates(source.splits)


def _data_set(path: Path, reason: str, source: Source, clips: dict[str, Clips], findings: Sequence[Finding]) -> DataSet:
    return DataSet(
        path.stem, path, source.layout, reason, source.skeleton, source.num_classes, source.class_names,
        clips["train"], clips["test"], tuple(findings),
    )  # fmt: skip


def _in_place(path: Path, reason: str, options: ReadOptions, progress: Progress | None) -> DataSet | None:
    """The data with its frames left in the file, which is read once unless its index is kept; None where that cannot be."""
    index, told = inplace.load_index(path, options)
    if index is None:
        source, parts, findings = _read(path, inplace.LAYOUT, Reading(options, reason, nowhere, progress), in_place=True)
        index = inplace.keep_index(path, options, source=source, clips=parts, findings=findings)
    skeleton = SKELETONS[index.skeleton]
    clips = inplace.mapped(path, index.clips, skeleton.joints)
    if clips is None:
        return None
    return DataSet(
        path.stem, path, inplace.LAYOUT, reason, skeleton, len(index.class_names), index.class_names,
        clips["train"], clips["test"], (*index.findings, *told),
    )  # fmt: skip


def _from_store(path: Path, reason: str, options: ReadOptions) -> DataSet:
    from shared_data.store import open_store  # h5py is loaded only for those who use a store

    stored = open_store(path)
    stored.refuse(path, options)
    classes = len(stored.class_names)
    reason = f"{reason}; store made from {stored.attributes.get('source_name')} ({stored.attributes.get('layout')})"
    return DataSet(
        path.stem, path, STORE, reason, stored.skeleton, classes, stored.class_names,
        stored.clips["train"], stored.clips["test"], stored.findings,
    )  # fmt: skip


def honest(data: DataSet) -> DataSet:
    """The same data with `test` replaced by people (or views) held out of `train`; the real test split is not used at all.

    The rule, also recorded as a finding:
    - clips with NW-UCLA names: the two highest subject numbers in train are held out;
    - NTU-60 cross-view (recognised by its counts): rows are ordered by camera, the same performance occurs once per camera, so
      the second half of train, which is nearly camera 3, is held out;
    - otherwise: rows of the NTU files are ordered by performer (or setup), so the last 10 % of train is held out, which is nearly
      the last performers (the one at the boundary is in both parts). A file in another order is not split by people this way.
    Raises `DataError` if nothing would be left on either side.
    """
    train = data.train
    matches = [nw_ucla.NAME.fullmatch(str(name)) for name in train.ids]
    protocol = recognise(data.num_classes, len(train), len(data.test))
    if matches and all(matches):
        subjects = np.array([int(match.group(2)) for match in matches if match])
        held = sorted(set(subjects.tolist()))[-HELD_OUT_SUBJECTS:]
        out = np.isin(subjects, held)
        rule = f"subjects {' and '.join(map(str, held))} of train (the highest numbers)"
    else:
        share, what = TAIL, "nearly the last performers (rows are taken to be ordered by performer)"
        if protocol and protocol.name.endswith("cross-view"):
            share, what = 0.5, "nearly all of camera 3 (rows are ordered by camera)"
        out = np.arange(len(train)) >= len(train) - round(share * len(train))
        rule = f"the last {share:.0%} of the train rows, {what}"
    if out.all() or not out.any():
        raise DataError(
            f"cannot hold people out of {len(train)} training clips",
            where=str(data.path),
            expected=f"more than {HELD_OUT_SUBJECTS} subjects or at least 5 clips",
            next_step="train with --protocol upstream",
        )
    text = f"validation: {rule}; {int(out.sum())} clips. The {len(data.test)} test clips are not used"
    finding = Finding("protocol-honest", INFO, text, "train", int(out.sum()))
    return replace(
        data,
        train=train.subset(np.flatnonzero(~out)),
        test=train.subset(np.flatnonzero(out)),
        findings=(*data.findings, finding),
    )
