"""What `sal data check` notices about whole splits: clips that occur twice, ids that no other clip comes near."""

from __future__ import annotations

import json

import numpy as np

from shared_data.check import check
from shared_data.datasets import open_data
from shared_data.formats.options import ReadOptions
from shared_data.store import prepare


def found(findings, code):
    return [finding for finding in findings if finding.code == code]


def test_clips_in_both_splits_and_twice_in_one_are_named_with_both_rows(arrays, save, tmp_path):
    arrays["x_test"][3] = arrays["x_train"][17]
    arrays["y_test"][3] = arrays["y_train"][17]
    arrays["x_test"][5] = arrays["x_train"][2]
    arrays["y_test"][5] = np.roll(arrays["y_train"][2], 1)
    arrays["x_train"][[30, 31]] = arrays["x_train"][4]
    file = save(arrays)
    report = check(file)
    assert report.ok, "warnings only"
    (shared,), (repeated,) = found(report.findings, "clip-shared"), found(report.findings, "clip-repeated")
    assert (shared.severity, shared.where, shared.count, shared.rows) == ("warning", "test", 2, (3, 5))
    assert "test_3 = train_17, test_5 = train_2" in shared.message and "1 of them with another label" in shared.message
    assert (repeated.where, repeated.rows) == ("train", (30, 31)) and "train_30 = train_4, train_31 = train_4" in repeated.message
    for data in (open_data(file), open_data(prepare(file, tmp_path / "data.h5"))):
        assert found(data.findings, "clip-shared") == [shared] and found(data.findings, "clip-repeated") == [repeated]


def test_different_clips_and_empty_ones_are_no_duplicates(arrays, save):
    arrays["x_train"][[1, 2]] = 0
    arrays["x_test"][0] = 0
    arrays["x_test"][1] = arrays["x_train"][7]
    arrays["x_test"][1, 10, 3] += np.float32(1e-6)
    codes = {finding.code for finding in check(save(arrays), options=ReadOptions(on_bad="drop")).findings}
    assert not codes & {"clip-shared", "clip-repeated"}


def test_names_instead_of_numbers_do_not_matter(tmp_path):
    clip = {"skeletons": np.arange(120.0).reshape(2, 20, 3).tolist()}
    for name in ("a01_s01_e00_v01", "a02_s01_e00_v01", "a01_s01_e00_v03"):
        (tmp_path / f"{name}.json").write_text(json.dumps(clip))
    findings = check(tmp_path).findings
    assert found(findings, "clip-shared")[0].count == 1 and found(findings, "clip-repeated")[0].rows == (1,)
    assert "with another label" in found(findings, "clip-repeated")[0].message


def integers(arrays, save, **changed):
    for key in ("y_train", "y_test"):
        arrays[key] = arrays[key].argmax(-1)
    for row, label in changed.get("train", {}).items():
        arrays["y_train"][row] = label
    return save(arrays)


def test_one_odd_id_is_named(arrays, save):
    file = integers(arrays, save, train={12: 400})
    (odd,) = found(check(file).findings, "label-far")
    assert (odd.severity, odd.where, odd.rows, odd.count) == ("warning", "y_train", (12,), 1)
    assert "labels up to 400, the other split ends at 4: 395 of 401 classes have no clip" in odd.message


def test_classes_of_one_split_only_are_usual_and_a_given_count_settles_it(arrays, save):
    assert not found(check(integers(arrays, save, train={12: 5, 13: 6, 14: 7})).findings, "label-far")
    arrays["y_train"][12] = 59
    assert not found(check(save(arrays), options=ReadOptions(num_classes=60)).findings, "label-far")


def test_absurdly_many_classes_are_pointed_out(arrays, save):
    (many,) = found(check(integers(arrays, save, train={0: 5000})).findings, "class-many")
    assert many.severity == "warning" and "5,001 classes" in many.message and "25,010,001 entries" in many.message
