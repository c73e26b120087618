"""Files of scores: those of our runs, and the pickles of the CTR-GCN family's trainers, read without being run.

A run folder keeps the logits of its last epoch and of its best one. In a run with `--protocol honest` those are of the
validation clips, and the test clips have files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from engine.metrics import Scores
from engine.report.reading import RUN_FILES, Run, read_run
from engine.storage import write_atomically
from shared_data.datasets import open_data
from shared_data.errors import DataError, MissingInputError, UsageError
from shared_data.formats.look import look
from shared_data.formats.npz import Npz
from shared_data.formats.options import MAX_CLASSES, ReadOptions
from shared_data.formats.pickled_numpy import PickledArray
from shared_data.formats.pickles import read_pickle
from shared_data.formats.sample_names import file_names_in, numbers_in, placed

TEST, VALIDATION = "test", "validation"
LAST, BEST = "scores.npz", "scores_best.npz"
HONEST_TEST = {LAST: "scores_test.npz", BEST: "scores_test_best.npz"}
BEST_ON_TEST = "the best epoch of a run was chosen by the test clips, as the field does; its last epoch was not"
SHOWN = 5  # ids shown of each kind of mismatch
EXPECTED = "a run folder, a score file of a run (.npz), or an official score pickle {sample name: logits}"


@dataclass(frozen=True)
class ScoreFile:
    """Logits of one network.

    name      as the user called it
    ids (N,) str, all different; logits (N, K) float32, finite
    labels    (N,) int64, None where the file has none (official pickles)
    part      "test" or "validation"; "" where nothing says
    settings  of the run (its config.yaml), {} for a file outside a run folder
    notes     what a person should know before using the scores
    """

    name: str
    ids: np.ndarray
    logits: np.ndarray
    labels: np.ndarray | None
    part: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labels:
    """The truth about some clips: ids (N,) str, labels (N,) int64, and the `name` of where it is from."""

    name: str
    ids: np.ndarray
    labels: np.ndarray


def read_scores(path: Path, *, best: bool = False, part: str = TEST) -> ScoreFile:
    """Read a run folder, a score file of ours or an official score pickle.

    best  of a run folder: the best epoch instead of the last
    part  "validation": the held-out clips of an honest run, which only a run folder names
    Raises `UsageError` if `path` cannot have what is asked, `MissingInputError`, `DataError`.
    """
    seen = look(path)
    if seen.kind == "folder":
        return _from_run(path, best, part)
    if part == VALIDATION:
        raise _no_validation(path, "a score file does not say what it was scored on")
    if seen.kind == "npz":
        return _from_npz(path, str(path), _around(path))
    if seen.kind == "pickle" or path.suffix in (".pkl", ".pickle"):
        return _from_pickle(path)
    raise DataError("this holds no scores", where=str(path), expected=EXPECTED)


def read_labels(path: Path, *, split: str = "auto") -> Labels:
    """Labels of test clips: from scores of ours, a pickled (names, labels), or the test part of any data file.

    split  protocol that divides a data file which is not divided yet
    Raises `DataError`, `MissingInputError`, `UsageError`.
    """
    seen = look(path)
    if seen.kind == "npz" and {"ids", "labels"} <= set(seen.shapes or {}):
        with Npz(path) as file:
            return _checked_labels(Labels(str(path), file.read("ids"), file.read("labels")))
    if seen.kind == "folder" and any((path / name).exists() for name in RUN_FILES):
        scores = read_scores(path)
        assert scores.labels is not None  # scores of ours have them
        return Labels(str(path), scores.ids, scores.labels)
    if seen.kind == "pickle" or path.suffix in (".pkl", ".pickle"):
        content = read_pickle(path)
        if isinstance(content, (tuple, list)) and len(content) == 2:
            try:
                names, numbers = file_names_in(content[0], "names"), numbers_in(content[1], "labels")
            except DataError as error:
                raise placed(error, path) from None
            return _checked_labels(Labels(str(path), np.array(names), numbers))
    clips = open_data(path, options=ReadOptions(split=split)).test
    return _checked_labels(Labels(str(path), clips.ids, clips.labels))


def write_scores(path: Path, scores: Scores) -> None:
    """Write `scores` as the runs do. Raises `SaveError`."""
    buffer = BytesIO()
    np.savez_compressed(buffer, ids=scores.ids, labels=scores.labels, logits=scores.logits)
    write_atomically(path, buffer.getvalue())


def _from_run(folder: Path, best: bool, part: str) -> ScoreFile:
    run = read_run(folder)
    only_last = run.config.get("phase") == "test"  # scores of given weights know no epochs
    kept = BEST if best and not only_last else LAST
    honest = _held_out(run)
    if part == VALIDATION and not honest:
        raise _no_validation(folder, "this run has no validation clips")
    file = folder / (HONEST_TEST[kept] if honest and part == TEST else kept)
    if not file.exists():
        raise MissingInputError(
            f"the run has no scores of its {part} clips", where=str(file),
            next_step="run its training command again: one that was cut off goes on; or score its weights with sal test",
        )  # fmt: skip
    return _from_npz(file, str(folder), run)


def _no_validation(path: Path, why: str) -> UsageError:
    return UsageError(
        f"weights cannot be searched: {why}", where=str(path),
        expected="for --search: run folders made with --protocol honest",
        next_step="train with --protocol honest, give fixed --weights, or search on the test clips with --search-on-test",
    )  # fmt: skip


def _held_out(run: Run) -> bool:
    """Whether `scores.npz` of the run are of clips that were held out of train."""
    return run.config.get("protocol") == "honest" and run.config.get("phase") != "test"


def _around(file: Path) -> Run | None:
    """The run that a score file lies in."""
    known = file.name in (LAST, BEST, *HONEST_TEST.values())
    return read_run(file.parent) if known and (file.parent / "config.yaml").exists() else None


def _from_npz(file: Path, name: str, run: Run | None) -> ScoreFile:
    with Npz(file) as archive:
        if not {"ids", "labels", "logits"} <= set(archive.members):
            raise DataError("this holds no scores", where=f"{file}, found: {', '.join(archive.members)}", expected=EXPECTED)
        truth = _checked_labels(Labels(str(file), archive.read("ids"), archive.read("labels")))
        logits = _checked_logits(archive.read("logits"), truth.ids, file)
    beyond = truth.labels >= logits.shape[1]
    if beyond.any():
        raise DataError(
            f"{int(beyond.sum())} labels beyond the {logits.shape[1]} classes", where=f"{file}, {listed(truth.ids[beyond])}",
            expected=f"0 to {logits.shape[1] - 1}",
        )  # fmt: skip
    if run is None:
        return ScoreFile(name, truth.ids, logits, truth.labels)
    part = VALIDATION if _held_out(run) and file.name in (LAST, BEST) else TEST
    notes = [] if run.ended else [f"{name}: {run.notes[0]}"]
    if file.name == BEST and not _held_out(run):
        notes.append(BEST_ON_TEST)
    return ScoreFile(name, truth.ids, logits, truth.labels, part, run.config, tuple(notes))


def _from_pickle(file: Path) -> ScoreFile:
    """{sample name: logits (K,)}. Only known places are looked at, and no more is copied than the file holds."""
    content = read_pickle(file)
    if not isinstance(content, dict) or not content:
        raise DataError("the pickle holds no scores", where=str(file), expected="a dict {sample name: logits}, not empty")
    try:
        ids = np.array(file_names_in(list(content), "the keys"))
    except DataError as error:
        raise placed(error, file) from None
    rows = list(content.values())
    for name, row in zip(ids, rows, strict=True):
        if not isinstance(row, PickledArray) or len(row.shape) != 1 or row.shape != rows[0].shape:
            raise DataError(
                f"the value of {name} is not one row of logits", where=str(file),
                expected="an array (K,) of numbers for each clip, K the same for all",
            )  # fmt: skip
    if len(rows) * rows[0].nbytes > file.stat().st_size:
        raise DataError("the same values stand for many clips", where=str(file), expected="logits of its own for each clip")
    _refuse_repeated(ids, file)
    return ScoreFile(str(file), ids, _checked_logits(np.stack([row.array() for row in rows]), ids, file), None)


def _checked_logits(logits: np.ndarray, ids: np.ndarray, file: Path) -> np.ndarray:
    """`logits` as (N, K) float32. Raises `DataError` for another shape, type or values that are not finite."""
    if logits.ndim != 2 or len(logits) != len(ids) or not 2 <= logits.shape[1] <= MAX_CLASSES or logits.dtype.kind not in "fiu":
        raise DataError(
            f"logits of shape {logits.shape} of {logits.dtype} for {len(ids)} clips", where=str(file),
            expected=f"(N, K) numbers, K from 2 to {MAX_CLASSES:,}",
        )  # fmt: skip
    with np.errstate(over="ignore"):
        single = logits.astype(np.float32)
    wrong = ~np.isfinite(single).all(1)
    if wrong.any():
        raise DataError(
            f"scores of {int(wrong.sum())} clips are not finite numbers", where=f"{file}, {listed(ids[wrong])}",
            next_step="score the clips again",
        )  # fmt: skip
    return single


def _checked_labels(truth: Labels) -> Labels:
    """`truth` with labels int64. Raises `DataError` for what is not a different name and a class number for each clip."""
    ids, labels = truth.ids, truth.labels
    if ids.ndim != 1 or ids.dtype.kind != "U" or labels.shape != ids.shape or labels.dtype.kind not in "iu" or not len(ids):
        raise DataError(
            f"ids of shape {ids.shape} of {ids.dtype}, labels of shape {labels.shape} of {labels.dtype}", where=truth.name,
            expected="names (N,) and class numbers (N,), at least one of each",
        )  # fmt: skip
    wrong = (labels < 0) | (labels >= MAX_CLASSES)
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum())} labels are no class numbers", where=f"{truth.name}, {listed(ids[wrong])}",
            expected=f"0 to {MAX_CLASSES - 1}",
        )  # fmt: skip
    _refuse_repeated(ids, truth.name)
    return Labels(truth.name, ids, labels.astype(np.int64))


def _refuse_repeated(ids: np.ndarray, where: object) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"{int((counts > 1).sum())} ids occur more than once", where=f"{where}, {listed(values[counts > 1])}",
            expected="each clip once: which of its scores is meant cannot be told",
        )  # fmt: skip


def listed(ids: np.ndarray) -> str:
    """The first few of `ids`, and how many more there are."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f"ids {', '.join(map(str, ids[:SHOWN]))}{more}"
