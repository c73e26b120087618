"""Open a data file of any known layout as train and test clips."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shared_data.clips import Clips
from shared_data.errors import DataError
from shared_data.findings import INFO, Finding, refuse_errors
from shared_data.formats import nw_ucla
from shared_data.formats.reading import STORE, read_source, resolve, settle
from shared_data.formats.source import Progress, Reading, ReadOptions
from shared_data.protocols import recognise
from shared_data.skeletons import Skeleton

HELD_OUT_SUBJECTS = 2
TAIL = 0.1


@dataclass(frozen=True)
class DataSet:
    """A data set, ready to be sampled.

    layout    "kaggle", "skeleton5d", "nw_ucla" or "store"
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
    on_bad: str = "refuse",
    progress: Progress | None = None,
) -> DataSet:
    """Open `path`: a Kaggle or 5-D NPZ, a folder or zip of NW-UCLA JSON files, or a store.

    An NPZ is streamed straight into the ragged form, so a 10 GB file takes about 1.5 GB; a store is memory-mapped.
    options  classes, split and skip list, see `ReadOptions`; num_classes is needed for integer labels only if the largest
             label does not occur, otherwise it is checked
    on_bad       "refuse" raises for clips with NaN, inf or no frame, naming split and rows; "drop" leaves them out
    Raises `DataError` (65) or `MissingInputError` (66).
    """
    path = Path(path)
    layout, reason = resolve(path, layout)
    if layout == STORE:
        return _from_store(path, reason, options.num_classes)
    source = read_source(path, layout, Reading(options, reason, progress=progress))
    clips, findings = settle(source, on_bad=on_bad)
    refuse_errors(findings, path)
    return DataSet(
        path.stem, path, layout, reason, source.skeleton, source.num_classes, source.class_names,
        clips["train"], clips["test"], tuple(findings),
    )  # fmt: skip


def _from_store(path: Path, reason: str, num_classes: int | None) -> DataSet:
    from shared_data.store import open_store  # h5py is loaded only for those who use a store

    stored = open_store(path)
    classes = len(stored.class_names)
    if num_classes not in (None, classes):
        raise DataError(f"{num_classes} classes were asked for", where=str(path), expected=f"{classes}, as the store says")
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
