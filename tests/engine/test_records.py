"""Records of what a stage made: one that was changed or damaged counts as none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import records

MADE_FROM = {"seed": 5, "split": (1, 2)}
FOUND = {"zero_shot": 0.25, "weights": [0.5, -1.25], "none": None}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    (tmp_path / "a.npy").write_bytes(b"numbers")
    records.write_record(tmp_path / "record.json", MADE_FROM, ["a.npy"], FOUND)
    return tmp_path / "record.json"


def test_a_record_is_read_as_it_was_written(record: Path) -> None:
    assert records.read_record(record, MADE_FROM) == FOUND
    assert records.read_record(record, {**MADE_FROM, "seed": 6}) is None


@pytest.mark.parametrize(
    "change", [{"zero_shot": 5}, {"weights": [float("nan"), 0]}, {"more": 1}, {"none": 0}, {"zero_shot": None}]
)
def test_a_changed_record_counts_as_none(record: Path, change: dict[str, Any]) -> None:
    table = json.loads(record.read_text())
    table["found"].update(change)
    record.write_text(json.dumps(table))
    assert records.read_record(record, MADE_FROM) is None


def test_a_record_without_its_seal_counts_as_none(record: Path) -> None:
    table = json.loads(record.read_text())
    del table[records.SEAL]
    record.write_text(json.dumps(table))
    assert records.read_record(record, MADE_FROM) is None


def test_json_that_is_nested_too_deeply_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text('{"a":' * 100_000)
    assert records.read_json(tmp_path / "deep.json") is None
