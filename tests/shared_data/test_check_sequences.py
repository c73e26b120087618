"""What is told about untrimmed sequences without training on them."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from shared_data.check_sequences import check_sequences
from shared_data.errors import DataError
from shared_data.sequence_store import write_lasa, write_sequences


def test_a_report_counts_frames_segments_and_background(untrimmed, tmp_path):
    report = check_sequences(write_sequences(untrimmed, tmp_path / "s.h5"))
    train, test = report.splits["train"], report.splits["test"]
    assert (train.sequences, train.frames, train.lengths, train.people) == (2, 16, (6, 8.0, 10), (0, 1, 1))
    assert (train.segments, train.segment_lengths, train.histogram) == (2, (3, 4.5, 6), (7, 9, 0))
    assert train.background == pytest.approx(7 / 16) and (test.segments, test.segment_lengths) == (2, (1, 1.5, 2))
    assert report.ok and [f.code for f in report.findings] == ["class-untrained"] and "sit down" in report.findings[0].message


def test_the_report_of_a_folder_is_that_of_its_store(untrimmed, tmp_path):
    folder = check_sequences(write_lasa(untrimmed, tmp_path / "package"))
    assert folder.splits == check_sequences(write_sequences(untrimmed, tmp_path / "s.h5")).splits
    assert folder.layout == "lasa" and len(folder.sha256) == 64


def test_a_report_tells_errors_that_opening_refuses(untrimmed, tmp_path):
    folder = write_lasa(untrimmed, tmp_path / "package")
    np.save(folder / "gt_arr" / "b.npy", np.full(6, 9))
    report = check_sequences(folder)
    assert not report.ok and report.splits["train"].sequences == 1
    assert {f.code: f.severity for f in report.findings}["label-range"] == "error"
    assert json.loads(json.dumps(report.as_dict()))["ok"] is False


def test_a_changed_frame_of_a_store_is_refused(untrimmed, tmp_path):
    path = write_sequences(untrimmed, tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        file["train/rows"][2, 3, 1] = 7
    with pytest.raises(DataError, match="rows differ"):
        check_sequences(path)
