"""Folders of skeleton features in the layout of the official zero-shot code.

``sk_feats/shift_5_r`` holds the test split with 5 unseen classes, ``shift_val_5_r`` the validation split: features (N, D),
labels (N,) and the backbone's logits (N, K) of all classes, each an .npy file. Source: the specification, section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import records
from engine.zeroshot.arrays import read_labels, read_table, require_files, write_array
from engine.zeroshot.gate import Evidence
from engine.zeroshot.plausible import knowledge_findings, logit_findings, rows_again
from engine.zeroshot.task import Rows, require_rows
from shared_data.atomic import whole_folder
from shared_data.errors import DataError
from shared_data.findings import WARNING, Finding, name_rows
from shared_data.zeroshot_splits import FIRST_LOST, TRUNCATED, UNSEEN, Phase, Split, published

EXTRACTOR = "shift"  # first part of the official folders' names: Shift-GCN made them
LEAST = 0.99  # official dumps hold up to 1 % fewer clips than the lists of the data set say

# Clips of (classes, unseen) in train, ztest, and gtest or val; computed from the lists of the data set.
USUAL: dict[tuple[int, int], dict[Phase, tuple[int, int, int]]] = {
    (60, 5): {"test": (36_758, 1_368, 16_487), "val": (31_406, 1_374, 2_000)},
    (60, 12): {"test": (32_070, 3_291, 16_487), "val": (22_658, 3_297, 1_440)},
    (120, 10): {"test": (57_767, 4_249, 50_919), "val": (42_576, 4_824, 3_240)},
    (120, 24): {"test": (50_141, 9_892, 50_919), "val": (30_622, 10_480, 7_200)},
}


@dataclass(frozen=True)
class Judged:
    """Clips, and what the backbone says of them: `logits` (N, K) of all classes, None where the layout has none."""

    rows: Rows
    logits: NDArray[np.float32] | None

    def evidence(self, unseen: NDArray[np.float32]) -> Evidence:
        """What a gate sees of them, given probabilities (N, U) of the unseen classes."""
        assert self.logits is not None
        return Evidence(unseen, self.logits)


@dataclass(frozen=True)
class Features:
    """One folder.

    train     clips of seen classes to train with
    unseen    clips of unseen classes (``ztest``); with logits in validation alone
    rest      the whole test set (``gtest``), or in validation clips of seen classes that train lacks (``val``)
    findings  what a person should know about the files
    """

    phase: Phase
    split: Split
    train: Rows
    unseen: Judged
    rest: Judged
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class _Files:
    """The file names of one part; `logits` is "" where there are none."""

    features: str
    labels: str
    logits: str = ""


LAYOUT: dict[Phase, tuple[_Files, _Files, _Files]] = {
    "test": (
        _Files("train.npy", "train_label.npy"),
        _Files("ztest.npy", "z_label.npy"),
        _Files("gtest.npy", "g_label.npy", "gtest_out.npy"),
    ),
    "val": (
        _Files("train.npy", "train_label.npy"),
        _Files("ztest.npy", "z_label.npy", "ztest_out.npy"),
        _Files("val.npy", "val_label.npy", "val_out.npy"),
    ),
}


def folder_name(unseen: int, phase: Phase, *, extractor: str = EXTRACTOR) -> str:
    """That of the folder with so many `unseen` classes, as officially."""
    return f"{extractor}_{'val_' if phase == 'val' else ''}{unseen}_r"


def read(folder: Path, split: Split, phase: Phase) -> Features:
    """The features of `split` in `folder`, checked.

    Raises `MissingInputError` with all files that are missing, and `DataError` with the file, the rows and the reason.
    """
    require_files(folder, file_names(phase))
    parts: list[Judged] = []
    findings: list[Finding] = []
    width: int | None = None
    for files in LAYOUT[phase]:
        values, told = read_table(folder / files.features, width=width)
        width = values.shape[1]
        labels = read_labels(folder / files.labels, len(values), split.classes)
        findings += told
        logits = None
        if files.logits:
            logits, told = read_table(folder / files.logits, width=split.classes)
            if len(logits) != len(values):
                raise DataError(
                    f"logits of {len(logits)} clips", where=str(folder / files.logits),
                    expected=f"{len(values)} rows, one for each of {files.features}",
                )  # fmt: skip
            findings += told + tuple(logit_findings(logits, str(folder / files.logits)))
        parts.append(Judged(Rows(str(folder / files.features), values, labels), logits))
    train, unseen, rest = parts
    everything = tuple(sorted((*split.seen, *split.unseen)))
    advice = "check that the features are of this split"
    if split == published(*TRUNCATED, "val"):
        advice += f"; its official list ends at class {FIRST_LOST - 1}: truncated=False takes all seen classes"
    require_rows(train.rows, split.seen, "seen", next_step=advice)
    require_rows(unseen.rows, split.unseen, "unseen")
    if phase == "val":
        require_rows(rest.rows, split.seen, "seen", next_step=advice)
    else:
        require_rows(rest.rows, everything, "the task's")
        _require_both_kinds(rest.rows, split)
    findings += _size_findings(split, phase, [part.rows for part in parts])
    findings += _class_findings(train.rows, split.seen)
    findings += _class_findings(unseen.rows, split.unseen)
    findings += _repetition_findings(train.rows, [unseen.rows, rest.rows])
    judged = rest if phase == "test" else unseen
    assert judged.logits is not None
    findings += knowledge_findings(judged.rows, judged.logits, split.unseen, judged.rows.name)
    return Features(phase, split, train.rows, unseen, rest, tuple(findings))


def write(
    folder: Path, features: Features, *, made_from: Mapping[str, Any] | None = None, found: Mapping[str, Any] | None = None
) -> None:
    """Write `features` as a new `folder`, which is there with all its files or not at all, and was read back before.

    made_from, found   if given: of a record of what made it, which lies beside the files as `records.MADE`

    Raises `WriteError` if something is there already, and what `read` raises if these are no sound features.
    """
    parts = (Judged(features.train, None), features.unseen, features.rest)
    with whole_folder(folder, kind="feature folder") as partial:
        for part, files in zip(parts, LAYOUT[features.phase], strict=True):
            if (part.logits is None) != (not files.logits):
                raise DataError(
                    f"{files.features} {'lacks its' if files.logits else 'comes with'} logits", where=str(folder),
                    expected=f"logits with {', '.join(f.features for f in LAYOUT[features.phase] if f.logits)} alone",
                )  # fmt: skip
            write_array(partial / files.features, part.rows.features)
            write_array(partial / files.labels, part.rows.labels)
            if part.logits is not None:
                write_array(partial / files.logits, part.logits)
        back = read(partial, features.split, features.phase)
        for ours, theirs in zip(parts, (Judged(back.train, None), back.unseen, back.rest), strict=True):
            if not _same(ours, theirs):
                raise DataError("what was written reads differently", where=str(folder), expected="the same numbers")
        if made_from is not None:
            records.write_record(partial / records.MADE, made_from, file_names(features.phase), found or {})


def usual_sizes(split: Split, phase: Phase) -> tuple[int, int, int] | None:
    """Clips in train, ztest, and gtest or val, if `split` is a published one."""
    return next((USUAL[task][phase] for task in UNSEEN if published(*task, phase) == split), None)


def file_names(phase: Phase) -> list[str]:
    """All files of a folder."""
    return [name for files in LAYOUT[phase] for name in _names(files)]


def _names(files: _Files) -> Iterator[str]:
    yield from (name for name in (files.features, files.labels, files.logits) if name)


def _require_both_kinds(rows: Rows, split: Split) -> None:
    of_unseen = np.isin(rows.labels, split.unseen)
    if of_unseen.all() or not of_unseen.any():
        raise DataError(
            f"the clips are all of {'unseen' if of_unseen.all() else 'seen'} classes", where=rows.name,
            expected="clips of seen and of unseen classes, to be told apart",
        )  # fmt: skip


def _size_findings(split: Split, phase: Phase, parts: list[Rows]) -> list[Finding]:
    usual = usual_sizes(split, phase)
    return [
        Finding(
            "clip-count", WARNING, f"{len(rows.labels):,} clips; officially {int(LEAST * count):,} to {count:,}", rows.name,
            len(rows.labels), next_step="figures of other clips are not comparable with published ones",
        )
        for rows, count in zip(parts, usual or (), strict=usual is not None)
        if not int(LEAST * count) <= len(rows.labels) <= count
    ]  # fmt: skip


def _class_findings(rows: Rows, classes: tuple[int, ...]) -> list[Finding]:
    absent = [k for k in classes if not (rows.labels == k).any()]
    text = f"no clips of {'class' if len(absent) == 1 else 'classes'} {', '.join(map(str, absent))}"
    return [Finding("class-empty", WARNING, text, rows.name, len(absent))] if absent else []


def _repetition_findings(train: Rows, tried: list[Rows]) -> list[Finding]:
    """Rows of train, bit for bit, among those to be tried on: the same clips stand on both sides."""
    found = []
    for rows in tried:
        if again := rows_again(train.features, rows.features):
            text = f"{len(again)} clips are also in train, duplicates in the data (sal data check names them): {name_rows(again)}"
            found.append(Finding("clip-in-train", WARNING, text, rows.name, len(again), tuple(again[:8])))
    return found


def _same(a: Judged, b: Judged) -> bool:
    logits = a.logits is None or b.logits is None or np.array_equal(a.logits, b.logits)
    return logits and np.array_equal(a.rows.features, b.rows.features) and np.array_equal(a.rows.labels, b.rows.labels)
