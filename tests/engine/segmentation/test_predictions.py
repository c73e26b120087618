"""Files of frame-wise predictions: exact round trips, refusals, and tables of segments."""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.segmentation.predictions import (
    UNKNOWN,
    Predictions,
    Segment,
    read_predictions,
    segments,
    write_predictions,
    write_segments,
)
from shared_data.atomic import WriteError
from shared_data.errors import DataError, LabError, MissingInputError, UsageError
from tests.engine.segmentation.made import NAMES, predictions

ROWS = [([0, 0, 1, 1, 255], [0, 1, 1, 1, 3], [0, 0, 1, 1, 1]), ([2], [4], [2]), ([255, 255], [0, 0], [3, 3])]


def same(found: Predictions, given: Predictions) -> bool:
    """Bit for bit, types included."""
    for field in fields(Predictions):
        one, other = getattr(found, field.name), getattr(given, field.name)
        if isinstance(one, tuple):
            if one != other:
                return False
        elif one.dtype != other.dtype or one.shape != other.shape or one.tobytes() != other.tobytes():
            return False
    return True


@pytest.mark.parametrize("boundary", [True, False])
@pytest.mark.parametrize("ids", [(), ("A01N02-L", "名前,\n;", "<b>")])
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, boundary: bool, ids: tuple[str, ...]) -> None:
    given = predictions(ROWS, ids=ids, boundary=boundary)
    write_predictions(tmp_path / "p.npz", given)
    found = read_predictions(tmp_path / "p.npz")
    assert same(found, given) and found.has_boundaries == boundary
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]  # nothing half-written is left


def test_many_classes_and_sequences_of_every_length_survive(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [tuple(rng.integers(0, 255, length) for _ in range(3)) for length in (1, 1, 2, 700, 3)]
    given = predictions(rows, names=tuple(f"action {k}" for k in range(255)))  # type: ignore[arg-type]
    write_predictions(tmp_path / "p.npz", given)
    found = read_predictions(tmp_path / "p.npz")
    assert same(found, given)
    for n, row in enumerate(rows):
        one = found.one(n)
        assert one.ids.tolist() == [f"video {n}"] and one.lengths.tolist() == [len(row[0])]
        assert [one.truth.tolist(), one.predicted.tolist(), one.refined.tolist()] == [part.tolist() for part in row]
        assert len(one.confidence) == len(one.boundary) == len(row[0])


def test_predictions_are_replaced_and_other_files_are_not(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    write_predictions(path, predictions(ROWS))
    write_predictions(path, predictions(ROWS, seed=5))
    assert same(read_predictions(path), predictions(ROWS, seed=5))
    np.savez(tmp_path / "other.npz", thesis=np.arange(3))
    before = (tmp_path / "other.npz").read_bytes()
    with pytest.raises(WriteError, match="left alone"):
        write_predictions(tmp_path / "other.npz", predictions(ROWS))
    assert (tmp_path / "other.npz").read_bytes() == before


def test_a_file_that_is_cut_or_changed_anywhere_is_refused_or_says_the_same(tmp_path: Path) -> None:
    whole = tmp_path / "p.npz"
    given = predictions(ROWS)
    write_predictions(whole, given)
    content, broken = whole.read_bytes(), tmp_path / "broken.npz"
    for cut in range(0, len(content), 61):
        broken.write_bytes(content[:cut])
        with pytest.raises(DataError):
            read_predictions(broken)
    refused = 0
    for place in range(0, len(content), 23):
        broken.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:  # a bit of the archive that says nothing, such as a date, may differ
            assert same(read_predictions(broken), given)
        except LabError:
            refused += 1
    assert refused > len(content) / 23 / 2


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "scores.npz", ids=np.array(["a"]), logits=np.zeros((1, 2)))
    with pytest.raises(DataError, match=r"no frame-wise predictions.*\n.*found: ids, logits"):
        read_predictions(tmp_path / "scores.npz")
    (tmp_path / "notes.npz").write_text("not an archive")
    with pytest.raises(DataError, match="not a zip file"):
        read_predictions(tmp_path / "notes.npz")
    with pytest.raises(MissingInputError):
        read_predictions(tmp_path / "nothing.npz")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    def rewritten(name: str) -> Path:
        write_predictions(tmp_path / "p.npz", predictions(ROWS))
        with zipfile.ZipFile(tmp_path / "p.npz") as source, zipfile.ZipFile(tmp_path / "trap.npz", "w") as target:
            for member in source.namelist():
                if member != f"{name}.npy":
                    target.writestr(member, source.read(member))
            np.save(tmp_path / "trap.npy", np.array([Trap()], object), allow_pickle=True)
            target.writestr(f"{name}.npy", (tmp_path / "trap.npy").read_bytes())
        return tmp_path / "trap.npz"

    for name in ("ids", "class_names", "truth", "segmentation_predictions"):
        with pytest.raises(DataError):
            read_predictions(rewritten(name))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": np.zeros(3, np.int64)}, "truth of shape"),
        ({"predicted": np.zeros(8, np.float32)}, "predicted of shape"),
        ({"predicted": np.full(8, UNKNOWN)}, "predicted holds 255 in frame 0"),
        ({"refined": np.array([0, 0, 0, 5, 0, 0, 0, 0])}, "refined holds 5 in frame 3"),
        ({"truth": np.array([0, -1, 0, 0, 0, 0, 0, 0])}, "truth holds -1 in frame 1"),
        ({"lengths": np.array([5, 0, 3])}, "lengths"),
        ({"lengths": np.array([5, 1])}, "lengths"),
        ({"ids": np.array(["a", "a", "b"])}, "ids"),
        ({"class_names": ()}, "0 class names"),
        ({"class_names": tuple(map(str, range(256)))}, "256 class names"),
        ({"confidence": np.full(8, np.nan, np.float16)}, "no probability"),
        ({"confidence": np.zeros(8, np.float32)}, "float32"),
        ({"confidence": np.zeros(0, np.float16)}, "confidence of shape"),
        ({"boundary": np.zeros(7, np.float32)}, "boundary of shape"),
        ({"boundary": np.full(8, 1.5, np.float32)}, "no probability"),
    ],
)
def test_arrays_that_do_not_fit_together_are_neither_written_nor_read(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    wrong = replace(predictions(ROWS), **change)
    with pytest.raises(DataError, match=message):
        write_predictions(tmp_path / "p.npz", wrong)
    assert not list(tmp_path.iterdir())
    arrays = {field.name: np.array(getattr(wrong, field.name)) for field in fields(Predictions)}
    np.savez(tmp_path / "strange.npz", segmentation_predictions=np.array(1), **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        read_predictions(tmp_path / "strange.npz")


def test_segments_are_the_runs_with_their_seconds_and_mean_confidence(tmp_path: Path) -> None:
    given = predictions(ROWS)
    mean = [round(float(given.confidence[a:b].astype(np.float64).mean()), 4) for a, b in ((0, 2), (2, 4), (0, 1), (1, 4))]
    found = list(segments(given, fps=10))
    expected = [
        ("truth", 0, "background", 0, 2, mean[0]), ("truth", 1, NAMES[1], 2, 4, mean[1]),
        ("predicted", 0, "background", 0, 1, mean[2]), ("predicted", 1, NAMES[1], 1, 4, mean[3]),
    ]  # fmt: skip
    assert [(s.kind, s.class_id, s.class_name, s.start, s.end, s.confidence) for s in found[:4]] == expected
    assert [(s.start_s, s.end_s) for s in found[:4]] == [(0.0, 0.2), (0.2, 0.4), (0.0, 0.1), (0.1, 0.4)]
    by_video = {video: [(s.kind, s.class_id, s.start, s.end) for s in found if s.video == video] for video in given.ids}
    assert by_video["video 1"] == [("truth", 2, 0, 1), ("predicted", 4, 0, 1), ("refined", 2, 0, 1)]
    assert by_video["video 2"] == [("predicted", 0, 0, 2), ("refined", 3, 0, 2)]  # nobody labelled it
    for s in found:  # the rows tile every sequence
        row = ROWS[int(s.video.split()[1])][("truth", "predicted", "refined").index(s.kind)]
        assert set(row[s.start : s.end]) == {s.class_id}


def test_tables_of_segments_read_back_the_same(tmp_path: Path) -> None:
    given = predictions(ROWS, ids=('a,"b"', "two\nlines", "名"))
    found = list(segments(given))
    write_segments(tmp_path / "s.json", given)
    assert [Segment(**row) for row in json.loads((tmp_path / "s.json").read_text())["segments"]] == found
    write_segments(tmp_path / "s.CSV", given)
    with (tmp_path / "s.CSV").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found)
    for row, segment in zip(rows, found, strict=True):
        assert (row["video"], row["kind"], row["class_name"]) == (segment.video, segment.kind, segment.class_name)
        assert [int(row[name]) for name in ("class_id", "start", "end")] == [segment.class_id, segment.start, segment.end]
        assert float(row["end_s"]) == pytest.approx(segment.end / 30, abs=1e-4)
        assert float(row["confidence"]) == segment.confidence


@pytest.mark.parametrize("name", ["s.csv", "s.json"])
def test_tables_replace_tables_and_nothing_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_segments(path, predictions(ROWS))
    first = path.read_text()
    write_segments(path, predictions(ROWS[:1]))
    assert len(path.read_text()) < len(first)
    path.write_text('{"mine": 1}' if name.endswith("json") else "name,grade\n")
    with pytest.raises(WriteError, match="left alone"):
        write_segments(path, predictions(ROWS))
    assert "mine" in path.read_text() or "grade" in path.read_text()


def test_unfit_requests_for_tables_are_refused(tmp_path: Path) -> None:
    for name, fps in (("s.xlsx", 30.0), ("s.csv", 0.0), ("s.csv", float("nan")), ("s.json", float("inf"))):
        with pytest.raises(UsageError):
            write_segments(tmp_path / name, predictions(ROWS), fps=fps)
    assert not list(tmp_path.iterdir())
