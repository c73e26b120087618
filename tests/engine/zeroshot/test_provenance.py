"""What made features is told by the record beside them, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import records
from engine.zeroshot import provenance

RUN: dict[str, Any] = {
    "model": "ctrgcn", "recipe": "ntu60_xsub", "leave_out": "60/5", "hold_out": 0, "num_epoch": 65, "weights": None,
    "debug": False, "max_clips": 0,
}  # fmt: skip


def folder(path: Path, which: str = "last", **changed: Any) -> Path:
    path.mkdir()
    (path / "train.npy").write_bytes(b"numbers")
    made_from = {"run": {**RUN, **changed}, "weights": which, "weights_sha256": "ab"}
    records.write_record(path / records.MADE, made_from, ["train.npy"], {})
    return path


def test_the_settings_of_the_run_are_told(tmp_path: Path) -> None:
    made = provenance.of_folder(folder(tmp_path / "a"))
    assert isinstance(made, dict)
    assert made["recipe"] == "ntu60_xsub" and made["num_epoch"] == 65 and made["weights_sha256"] == "ab"
    assert "model ctrgcn" in provenance.words(made) and not provenance.deviations({"test": made})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"which": "best"}, "best, chosen by its test clips"),
        ({"debug": True}, "--debug"),
        ({"max_clips": 7}, "at most 7 clips"),
        ({"weights": "/home/me/seen.pt"}, "seen.pt: what these weights had seen"),
    ],
)
def test_what_is_unusual_is_a_deviation(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    made = provenance.of_folder(folder(tmp_path / "a", **changed))
    (found,) = provenance.deviations({"val": made})
    assert said in found.value and "(val)" in found.name and "/home" not in json.dumps(made)


def test_files_without_a_record_and_files_that_are_not_the_records(tmp_path: Path) -> None:
    assert provenance.of_folder(tmp_path) == provenance.UNKNOWN and not provenance.deviations({"test": provenance.UNKNOWN})
    other = folder(tmp_path / "a")
    (other / "train.npy").write_bytes(b"other numbers")
    assert provenance.of_folder(other) == provenance.CHANGED and provenance.deviations({"test": provenance.CHANGED})
    damaged = folder(tmp_path / "b")
    record = json.loads((damaged / records.MADE).read_text())
    record["made_from"]["weights"] = "best"
    (damaged / records.MADE).write_text(json.dumps(record))
    assert provenance.of_folder(damaged) == provenance.CHANGED
