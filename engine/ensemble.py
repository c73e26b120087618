"""Several networks as one: the weighted sum of their logits, joined by sample id.

The official scripts sum raw logits and line clips up by position; here a clip is its id, and what does not agree is refused.
Weights are equal, given, published with the model, or searched. A search on the test clips, as FreqMixFormer's script makes
it, tunes on what it then reports; the search here is on held-out training clips unless it is told otherwise.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import models
from engine.errors import ConfigError, WorkDirError
from engine.metrics import Scores
from engine.score_files import LAST, Labels, ScoreFile, listed, write_scores
from engine.storage import write_atomically
from shared_data.errors import DataError
from shared_data.formats.source import Progress

SPACE = (0.2, 1.2)  # of each weight; FreqMixFormer's script, as are the calls and the seed
CALLS, SEED = 200, 0
REPORT = "ensemble.json"
ROW_KEYS = {"dataset": "dataset", "protocol": "split"}  # key of an [[ensemble]] row -> setting of a run


@dataclass(frozen=True)
class Joined:
    """S networks' scores of the same N clips: ids (N,) str, labels (N,) int64, logits (S, N, K) float32."""

    ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray

    def fused(self, weights: Sequence[float]) -> Scores:
        """The scores of all networks as one. Raises `DataError` if they are beyond float32."""
        with np.errstate(over="ignore", invalid="ignore"):
            logits = fuse(self.logits, weights)
        if not np.isfinite(logits).all():
            raise DataError("the weighted sum is too large for float32", where=f"weights {' '.join(map(str, weights))}")
        return Scores(self.ids, self.labels, logits)

    def of(self, network: int) -> Scores:
        """The scores of one network."""
        return Scores(self.ids, self.labels, self.logits[network])


@dataclass(frozen=True)
class Published:
    """Weights from a model's `[[ensemble]]` row, in the order of the runs, and where the row says they are from."""

    weights: tuple[float, ...]
    source: str


@dataclass(frozen=True)
class Found:
    """The end of a search: weights, and top1 (a fraction) that they reach on the clips searched on."""

    weights: tuple[float, ...]
    top1: float


def join(files: Sequence[ScoreFile], truth: Labels | None = None) -> Joined:
    """The scores of `files` for the same clips, in the order of the first file.

    truth  labels from elsewhere; they may be of more clips. Files that have labels must agree with them and with each other
    Raises `DataError` naming the first ids if clips, classes or labels differ, or if there are no labels at all.
    """
    first = files[0]
    order = [_same_clips(first, other) for other in files]
    shapes = {file.name: file.logits.shape[1] for file in files}
    if len(set(shapes.values())) > 1:
        counts = "; ".join(f"{classes} classes in {name}" for name, classes in shapes.items())
        raise DataError("the scores have different numbers of classes", where=counts, expected="networks of the same data set")
    sources = [(file.name, file.labels[rows]) for file, rows in zip(files, order, strict=True) if file.labels is not None]
    if truth is not None:
        sources.append((truth.name, _labels_of(first, truth)))
    if not sources:
        raise DataError(
            "no labels: score pickles have none", where=", ".join(file.name for file in files),
            next_step="--labels FILE: the data file, a label pickle, or scores of ours of the same clips",
        )  # fmt: skip
    (name, labels), *others = sources
    for other, theirs in others:
        if (odd := np.flatnonzero(labels != theirs)).size:
            row = odd[0]
            raise DataError(
                f"{len(odd)} labels differ: {first.ids[row]} is {labels[row]} in {name} and {theirs[row]} in {other}",
                where=listed(first.ids[odd]), expected="the same clips with the same labels",
                next_step="score all networks on the same data file",
            )  # fmt: skip
    classes = shapes[first.name]
    if (beyond := labels >= classes).any():
        raise DataError(
            f"labels up to {int(labels.max())} for scores of {classes} classes", where=f"{name}, {listed(first.ids[beyond])}",
            expected="labels and networks of the same data set",
        )  # fmt: skip
    return Joined(first.ids, labels, np.stack([file.logits[rows] for file, rows in zip(files, order, strict=True)]))


def _same_clips(first: ScoreFile, other: ScoreFile) -> np.ndarray:
    """Rows of `other` in the order of `first`. Raises `DataError` unless both have the same ids."""
    only = {file.name: np.setdiff1d(file.ids, rest.ids) for file, rest in ((first, other), (other, first))}
    if any(len(ids) for ids in only.values()):
        raise DataError(
            f"{other.name} and {first.name} are scores of different clips",
            where="; ".join(f"{len(ids)} only in {name}: {listed(ids)}" for name, ids in only.items() if len(ids)),
            expected="the same ids in all", next_step="score all networks on the same split of the same data",
        )  # fmt: skip
    return _rows_of(first.ids, other.ids)


def _labels_of(file: ScoreFile, truth: Labels) -> np.ndarray:
    """Labels (N,) of the clips of `file`. Raises `DataError` for a clip that `truth` does not know."""
    unknown = file.ids[~np.isin(file.ids, truth.ids)]
    if len(unknown):
        raise DataError(
            f"no labels for {len(unknown)} of {len(file.ids)} clips",
            where=f"{file.name}, {listed(unknown)}; {truth.name} has {listed(truth.ids)}",
            expected="labels of the clips that were scored", next_step="give the data file that the networks were scored on",
        )  # fmt: skip
    labels: np.ndarray = truth.labels[_rows_of(file.ids, truth.ids)]
    return labels


def _rows_of(wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where each of `wanted` stands in `ids`, which holds them all."""
    order = np.argsort(ids)
    rows: np.ndarray = order[np.searchsorted(ids, wanted, sorter=order)]
    return rows


def fuse(logits: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """sum_s weights[s] * logits[s]: (S, N, K) float32 to (N, K) float32."""
    fused: np.ndarray = np.tensordot(np.asarray(weights, logits.dtype), logits, axes=1)
    return fused


def top1(joined: Joined, weights: Sequence[float]) -> float:
    """Share of the clips that the fused logits recognise; the first class counts where several are highest."""
    return float((fuse(joined.logits, weights).argmax(1) == joined.labels).mean())


def search(joined: Joined, *, calls: int = CALLS, seed: int = SEED, progress: Progress | None = None) -> Found:
    """Weights of the highest top-1 on `joined`: `calls` evaluations of Bayesian optimisation, the first 10 of them random.

    progress  is told evaluations done and in all
    The same scores, seed and number of threads give the same weights. Raises `ConfigError` without scikit-optimize.
    Source: FreqMixFormer spec, section 7: gp_minimize with its defaults, each weight in `SPACE`, objective -top1.
    """
    try:
        from skopt import gp_minimize
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a search needs scikit-optimize ({error.name} is not installed)",
            next_step="pip install 'skeleton-action-lab[train]'",
        ) from None
    done = 0

    def evaluated(_: object) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, calls)

    with warnings.catch_warnings():
        # Accuracy has plateaus: the optimiser says when it comes back to a point, and when its model fits them badly.
        warnings.filterwarnings("ignore", category=UserWarning)
        result = gp_minimize(
            lambda weights: -top1(joined, weights), [SPACE] * len(joined.logits), n_calls=calls, random_state=seed,
            callback=evaluated,
        )  # fmt: skip
    return Found(tuple(float(weight) for weight in result.x), -float(result.fun))


def published_weights(files: Sequence[ScoreFile]) -> Published:
    """The weights that the runs' model is published with, for their data set, protocol, variant and streams.

    A row without one of these keys is for all. A `variant` fits a run if it is a part of its recipe's name or the value of a
    model argument. Raises `ConfigError` if runs do not say, differ, or if other than one row fits; `ModelError` for a broken row.
    """
    unknown = [file.name for file in files if not file.settings.get("model")]
    if unknown:
        raise ConfigError(
            f"which model was scored is not known of {', '.join(unknown)}", where="--official", expected="run folders",
            next_step="give the weights as --weights; `sal models --json` lists those of each model under ensemble",
        )  # fmt: skip
    settings = [file.settings for file in files]
    differ = [key for key in ("model", *ROW_KEYS.values()) if len({str(run.get(key)) for run in settings}) > 1]
    if differ:
        told = ", ".join(f"{file.name}: {file.settings.get(differ[0])}" for file in files)
        raise ConfigError(
            f"the runs differ in {' and '.join(differ)}", where=told, expected="streams of one model on one protocol"
        )
    card = models.find(str(settings[0]["model"]))
    rows = [_checked_row(card, row) for row in card.toml.get("ensemble", [])]
    streams = [str(run.get("stream")) for run in settings]
    fitting = [row for row in rows if Counter(row["streams"]) == Counter(streams) and all(_fits(row, run) for run in settings)]
    if twice := [stream for stream, count in Counter(streams).items() if count > 1]:
        raise ConfigError(
            f"{', '.join(twice)} is the stream of several runs", where="--official", expected="runs of different streams",
            next_step="leave --official out for equal weights, or give --weights",
        )  # fmt: skip
    if not rows:
        raise ConfigError(f"{card.name} has no published weights", next_step="leave --official out for equal weights")
    if len(fitting) != 1:
        run = settings[0]
        alike = [row for row in rows if Counter(row["streams"]) == Counter(streams)]
        raise ConfigError(
            f"{len(fitting) or 'no'} published weights of {card.name} fit streams {' '.join(streams)}, "
            + ", ".join(f"{key} {run.get(key)}" for key in ("recipe", *ROW_KEYS.values())),
            where=str(card.folder / "model.toml"),
            expected="\n    ".join(map(_described, fitting or alike or rows)),
            next_step="give the weights as --weights, in the order of the runs",
        )
    (row,) = fitting
    weight_of = dict(zip(row["streams"], row["weights"], strict=True))
    return Published(tuple(float(weight_of[stream]) for stream in streams), str(row["source"]))


def claim_folder(folder: Path) -> None:
    """Make `folder` ready for `write`. Raises `WorkDirError` if it holds anything but an older ensemble, or cannot be made."""
    try:
        names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
        if not names or REPORT in names:
            folder.mkdir(parents=True, exist_ok=True)
            return
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise WorkDirError(
            f"cannot use the folder: {getattr(error, 'strerror', None) or error}", where=repr(str(folder)),
            next_step="give another --out",
        ) from error  # fmt: skip
    raise WorkDirError(
        "the folder is not empty and holds no ensemble", where=str(folder), next_step="give an empty or new folder as --out"
    )


def write(folder: Path, scores: Scores, report: Mapping[str, Any]) -> None:
    """Write `ensemble.json` and `scores.npz` into a claimed folder; raises `SaveError`. Cut off in between, it has no scores."""
    (folder / LAST).unlink(missing_ok=True)
    write_atomically(folder / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    write_scores(folder / LAST, scores)


def _checked_row(card: models.ModelCard, row: Mapping[str, Any]) -> Mapping[str, Any]:
    streams, weights = row.get("streams", []), row.get("weights", [])
    if not streams or len(set(streams)) != len(weights) or len(streams) != len(weights) or not row.get("source"):
        raise models.ModelError(
            "an [[ensemble]] row is not complete", where=f"{card.folder / 'model.toml'}: {dict(row)}",
            expected="different streams, as many weights, and their source",
        )  # fmt: skip
    return row


def _fits(row: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether a row is for what `run` was trained on, and for its variant of the model."""
    if any(key in row and row[key] != run.get(setting) for key, setting in ROW_KEYS.items()):
        return False
    arguments = run.get("model_args")
    said = {*str(run.get("recipe", "")).split("_"), *map(str, arguments.values() if isinstance(arguments, dict) else ())}
    return "variant" not in row or row["variant"] in said


def _described(row: Mapping[str, Any]) -> str:
    where = " ".join(str(row[key]) for key in ("dataset", "protocol", "variant") if key in row) or "all data sets"
    return f"{' '.join(row['streams'])} = {' '.join(map(str, row['weights']))} ({where})"
