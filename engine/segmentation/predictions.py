"""What a segmenter said of every frame of some sequences: kept with the run, read by reports, written as tables for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from engine.segmentation.intervals import runs
from shared_data.atomic import whole_file
from shared_data.errors import DataError, UsageError
from shared_data.formats.npz import Npz
from shared_data.sequences import PADDING

UNKNOWN = PADDING
"""The true class of a frame that nobody labelled, 255."""
LAST, BEST = "predictions_last.npz", "predictions_best.npz"
"""In a run folder."""
KIND = "file of frame-wise predictions"
EXPECTED = f"a {KIND}, such as {LAST} in the folder of a segmentation run"
ENDINGS = (".csv", ".json")
_MARK = "segmentation_predictions"  # the first array of the archive: the version of what follows
_VERSION = 1
_START = 256  # bytes, among them the name of the first array


@dataclass(frozen=True, eq=False)
class Predictions:
    """N sequences of F frames in all, the frames of one sequence after those of the other as in `Sequences`.

    ids          (N,) str, names of the videos, all different
    lengths      (N,) int64, frames of each, at least 1
    class_names  K names, at most 255
    truth        (F,) int64 class ids, 255 where nobody labelled
    predicted    (F,) int64, the class of highest probability
    refined      (F,) int64, after boundary refinement
    confidence   (F,) float16, probability of the predicted class
    boundary     (F,) float32 (its peaks are looked for), probability of a boundary; (0,) of a network without a boundary branch
    """

    ids: np.ndarray
    lengths: np.ndarray
    class_names: tuple[str, ...]
    truth: np.ndarray
    predicted: np.ndarray
    refined: np.ndarray
    confidence: np.ndarray
    boundary: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_boundaries(self) -> bool:
        """Whether the network has a boundary branch."""
        return len(self.boundary) > 0

    def one(self, n: int) -> Predictions:
        """Sequence `n` alone; the frames are shared, not copied."""
        start = int(self.lengths[:n].sum())
        frames = slice(start, start + int(self.lengths[n]))
        return Predictions(
            self.ids[n : n + 1], self.lengths[n : n + 1], self.class_names, self.truth[frames], self.predicted[frames],
            self.refined[frames], self.confidence[frames], self.boundary[frames],
        )  # fmt: skip

    def each(self) -> Iterator[Predictions]:
        """The sequences one by one."""
        return (self.one(n) for n in range(len(self)))


@dataclass(frozen=True)
class Segment:
    """A maximal run of frames of one class in one sequence.

    kind        "truth", "predicted" or "refined"
    start, end  first frame and the frame after the last; `start_s`, `end_s` the same in seconds
    confidence  mean over its frames of the probability of the class that the network says there
    """

    video: str
    kind: str
    class_id: int
    class_name: str
    start: int
    end: int
    start_s: float
    end_s: float
    confidence: float


def segments(predictions: Predictions, *, fps: float = 30.0) -> Iterator[Segment]:
    """The segments of all sequences, background among them; frames that nobody labelled make none."""
    for one in predictions.each():
        before = np.concatenate([[0.0], np.cumsum(one.confidence, dtype=np.float64)])
        for kind, labels in (("truth", one.truth), ("predicted", one.predicted), ("refined", one.refined)):
            for label, start, end in zip(*(part.tolist() for part in runs(labels)), strict=True):
                if label == UNKNOWN:
                    continue
                mean = float(before[end] - before[start]) / (end - start)
                name = one.class_names[label]
                yield Segment(str(one.ids[0]), kind, label, name, start, end, start / fps, end / fps, round(mean, 4))


def write_segments(path: Path, predictions: Predictions, *, fps: float = 30.0) -> None:
    """Write the `segments` as a table, .csv or .json by the ending of `path`, a row or an object for each; whole or not at all.

    An existing file is replaced only if it is such a table. Raises `UsageError` for another ending or an `fps` that is none,
    `DataError` for predictions that are none, `WriteError`.
    """
    path, ending = Path(path), Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"cannot write segments into a file called {path.name}", where=str(path),
                         expected=f"{' or '.join(ENDINGS)} at the end")  # fmt: skip
    if not 0 < fps < float("inf"):  # NaN fails this too
        raise UsageError(f"{fps} frames per second were asked for", expected="a number above 0")
    _check(predictions, str(path))
    rows = [asdict(segment) for segment in segments(predictions, fps=fps)]
    if ending == ".json":
        text = json.dumps({"segments": rows}, ensure_ascii=False, indent=1) + "\n"
    else:
        buffer = io.StringIO(newline="")
        table = csv.DictWriter(buffer, [field.name for field in fields(Segment)], lineterminator="\n")
        table.writeheader()
        table.writerows(row | {"start_s": f"{row['start_s']:.4f}", "end_s": f"{row['end_s']:.4f}"} for row in rows)
        text = buffer.getvalue()
    with whole_file(path, kind="table of segments", replaceable=_is_table) as file:
        file.write(text.encode("utf-8", "replace"))  # the name of a file need not be text


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write `predictions` whole or not at all; `read_predictions` gives the same back, bit for bit.

    An existing file is replaced only if it is one of predictions. Raises `DataError` for arrays that do not fit together,
    `WriteError`.
    """
    _check(predictions, str(path))
    truth, predicted, refined = (
        part.astype(np.uint8) for part in (predictions.truth, predictions.predicted, predictions.refined)
    )
    with whole_file(Path(path), kind=KIND, replaceable=is_predictions) as file:
        np.savez_compressed(
            file, segmentation_predictions=np.array(_VERSION), ids=predictions.ids, lengths=predictions.lengths.astype(np.int64),
            class_names=np.array(predictions.class_names), truth=truth, predicted=predicted, refined=refined,
            confidence=predictions.confidence, boundary=predictions.boundary,
        )  # fmt: skip


def read_predictions(path: Path) -> Predictions:
    """The predictions in a file that `write_predictions` wrote; nothing is unpickled.

    Raises `MissingInputError`, or `DataError` for damage, another kind of file or arrays that do not fit together.
    """
    path = Path(path)
    with Npz(path) as file:
        if _MARK not in file.members:
            found = ", ".join(file.members) or "no arrays"
            raise DataError("this holds no frame-wise predictions", where=f"{path}, found: {found}", expected=EXPECTED)
        file.require(*(field.name for field in fields(Predictions)))
        version = file.read(_MARK)
        if version.shape != () or version.dtype.kind not in "iu" or int(version) != _VERSION:
            raise DataError(f"predictions of version {version.tolist()!r}"[:80], where=str(path), expected=f"version {_VERSION}",
                            next_step="write them again with this version of the lab")  # fmt: skip
        names = file.read("class_names")
        if names.ndim != 1 or names.dtype.kind != "U":
            raise DataError(f"class names of shape {names.shape} of {names.dtype}", where=str(path), expected="(K,) names")
        arrays = {field.name: file.read(field.name) for field in fields(Predictions) if field.name != "class_names"}
    for name in ("truth", "predicted", "refined", "lengths"):
        if arrays[name].dtype.kind in "iu":  # what else it may be is refused below
            arrays[name] = arrays[name].astype(np.int64)
    predictions = Predictions(class_names=tuple(names.tolist()), **arrays)
    _check(predictions, str(path))
    return predictions


def is_predictions(path: Path) -> bool:
    """Whether the file begins like one of `write_predictions`."""
    with path.open("rb") as file:
        start = file.read(_START)
    return start.startswith(b"PK") and f"{_MARK}.npy".encode() in start


def _is_table(path: Path) -> bool:
    """Whether the file begins like one of `write_segments`."""
    own = '{"segments": [' if path.suffix.lower() == ".json" else ",".join(field.name for field in fields(Segment))
    with path.open("rb") as file:
        return b"".join(file.read(_START).split()).startswith(b"".join(own.encode().split()))


def _check(predictions: Predictions, where: str) -> None:
    """Raises `DataError` for arrays that are not what `Predictions` says."""
    found, names = predictions, predictions.class_names
    ids, lengths = found.ids, found.lengths

    def refuse(what: str, expected: str) -> DataError:
        return DataError(what, where=where, expected=expected, next_step="make the predictions again")

    if not 1 <= len(names) <= UNKNOWN or any("\0" in name for name in names):
        raise refuse(f"{len(names)} class names", f"1 to {UNKNOWN} names")
    if ids.ndim != 1 or ids.dtype.kind != "U" or not len(ids) or len(np.unique(ids)) != len(ids):
        raise refuse(f"ids of shape {ids.shape} of {ids.dtype}", "(N,) names, at least one, all different")
    if lengths.shape != ids.shape or lengths.dtype.kind not in "iu" or int(lengths.min()) < 1:
        raise refuse(f"lengths of shape {lengths.shape} of {lengths.dtype}", f"({len(ids)},) whole numbers from 1")
    frames = int(lengths.sum())
    for name in ("truth", "predicted", "refined"):
        labels = getattr(found, name)
        if labels.shape != (frames,) or labels.dtype.kind not in "iu":
            raise refuse(f"{name} of shape {labels.shape} of {labels.dtype}", f"({frames},) class ids")
        wrong = ((labels < 0) | (labels >= len(names))) & ~((labels == UNKNOWN) & (name == "truth"))
        if wrong.any():
            told = f", or {UNKNOWN} for unknown" if name == "truth" else ""
            raise refuse(f"{name} holds {labels[wrong][0]} in frame {np.flatnonzero(wrong)[0]}", f"0 to {len(names) - 1}{told}")
    for name, kind in (("confidence", np.float16), ("boundary", np.float32)):
        values = getattr(found, name)
        shapes = [(frames,), (0,)] if name == "boundary" else [(frames,)]
        if values.shape not in shapes or values.dtype != kind:
            raise refuse(f"{name} of shape {values.shape} of {values.dtype}", f"({frames},) {kind.__name__}")
        if not ((values >= 0) & (values <= 1)).all():  # NaN fails this too
            raise refuse(f"{name} holds what is no probability", "0 to 1")
