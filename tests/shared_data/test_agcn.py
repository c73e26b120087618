"""The folder of AGCN, MS-G3D and the contrastive methods: every frame kept, recorded lengths taken, names held against labels."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest

from shared_data.check import check
from shared_data.datasets import open_data
from shared_data.errors import DataError, LabError, MissingInputError, UsageError
from shared_data.formats.options import ReadOptions
from shared_data.formats.reading import detect
from shared_data.store import prepare

FRAMES, CLASSES = 40, 4
PARTS = {"train": 8, "val": 5}
CALL = b"cos\nsystem\n(Vtrue\ntR."


def tiled(rng, frames):
    """One clip (3, FRAMES, 25, 2) as the generators leave it: centred frame by frame and repeated to the end."""
    body = np.cumsum(rng.normal(scale=0.01, size=(3, frames, 25)), axis=1) + rng.normal(scale=0.3, size=(3, 1, 25))
    body -= body[:, :, 1:2]
    clip = np.zeros((3, FRAMES, 25, 2), np.float32)
    clip[..., 0] = body[:, np.arange(FRAMES) % frames]
    return clip


def names_of(part):
    return [f"S001C001P{n + 1:03d}R001A{n % CLASSES + 1:03d}.skeleton" for n in range(PARTS[part])]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(3)
    where = tmp_path / "xsub"
    where.mkdir()
    for part, count in PARTS.items():
        lengths = rng.integers(5, FRAMES + 1, count)
        np.save(where / f"{part}_data_joint.npy", np.stack([tiled(rng, frames) for frames in lengths]))
        np.save(where / f"{part}_num_frame.npy", lengths)
        labels(where, part, names_of(part), [n % CLASSES for n in range(count)])
    return where


def labels(folder, part, names, values, protocol=4):
    (folder / f"{part}_label.pkl").write_bytes(pickle.dumps((names, values), protocol))


def codes(folder, **options):
    return {f.code: f for f in check(folder, options=ReadOptions(**options)).findings}


def padded(clips):
    return np.stack(
        [
            np.pad(clip, ((0, FRAMES - len(clip)), (0, 2 - clip.shape[1]), (0, 0), (0, 0)))
            for clip in map(clips.clip, range(len(clips)))
        ]
    )


def test_arrays_names_labels_and_lengths_are_those_of_the_files(folder):
    layout, reason = detect(folder)
    assert layout == "agcn" and "train_data_joint.npy" in reason
    data = open_data(folder)
    assert (data.skeleton.name, data.num_classes, data.train.frames, data.train.max_people) == ("ntu25", CLASSES, FRAMES, 2)
    for part, clips in (("train", data.train), ("val", data.test)):
        written = np.load(folder / f"{part}_data_joint.npy")
        np.testing.assert_array_equal(padded(clips), written.transpose(0, 2, 4, 3, 1))
        assert clips.ids.tolist() == [name.removesuffix(".skeleton") for name in names_of(part)]
        assert clips.labels.tolist() == [n % CLASSES for n in range(PARTS[part])]
        assert set(clips.extent.tolist()) == {FRAMES}, "the repeats are kept: trainers use all frames"
        assert clips.valid.tolist() == np.load(folder / f"{part}_num_frame.npy").tolist()
    found = {f.code for f in data.findings}
    assert "normalised" in found and "num-frame-missing" not in found


def test_without_num_frame_every_frame_counts_and_this_is_said(folder):
    (folder / "train_num_frame.npy").unlink()
    data = open_data(folder)
    assert set(data.train.valid.tolist()) == {FRAMES} and set(data.test.valid.tolist()) != {FRAMES}
    assert [f.where for f in data.findings if f.code == "num-frame-missing"] == ["train_data_joint.npy"]


def test_a_zero_tail_is_padding(folder):
    x = np.load(folder / "train_data_joint.npy")
    x[2, :, 12:] = 0
    np.save(folder / "train_data_joint.npy", x)
    np.save(folder / "train_num_frame.npy", np.full(8, 30))
    data = open_data(folder)
    assert data.train.extent.tolist() == [40, 40, 12, 40, 40, 40, 40, 40]
    assert data.train.valid.tolist() == [30, 30, 12, 30, 30, 30, 30, 30], "a prefix cannot be longer than what is there"


@pytest.mark.parametrize("change", ["float64", "float16", ">f4", "column-major"])
def test_other_element_types_and_orders_are_converted(folder, change):
    expected = np.load(folder / "train_data_joint.npy")
    written = np.asfortranarray(expected) if change == "column-major" else expected.astype(change)
    np.save(folder / "train_data_joint.npy", written)
    data = open_data(folder)
    np.testing.assert_array_equal(padded(data.train), written.transpose(0, 2, 4, 3, 1).astype(np.float32))
    assert data.train.rows.dtype == np.float32


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", ["list", "array", "numpy numbers", "lists of a list"])
def test_labels_in_every_form_they_are_pickled_in(folder, form, protocol):
    values = [n % CLASSES for n in range(8)]
    names = [f"/data/raw/{name}" for name in names_of("train")]
    forms = {"list": values, "array": np.array(values), "numpy numbers": [np.int64(v) for v in values], "lists of a list": values}
    content = [names, values] if form == "lists of a list" else (names, forms[form])
    (folder / "train_label.pkl").write_bytes(pickle.dumps(content, protocol))
    data = open_data(folder)
    assert data.train.labels.tolist() == values and data.train.ids[0] == "S001C001P001R001A001", "folders are no part of a name"


def test_labels_as_an_array_have_no_names(folder):
    (folder / "train_label.pkl").unlink()
    np.save(folder / "train_label.npy", np.arange(8) % CLASSES)
    data = open_data(folder)
    assert data.train.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3] and data.train.ids[3] == "train_3"


def test_shifted_labels_are_found_by_the_names(folder):
    labels(folder, "train", names_of("train"), [(n + 1) % CLASSES for n in range(8)])
    found = codes(folder)["label-name"]
    assert (found.severity, found.count, found.where) == ("error", 8, "train_label.pkl")
    assert "S001C001P001R001A001 has label 1" in found.message
    values = [n % CLASSES for n in range(8)]
    values[5] = 3
    labels(folder, "train", names_of("train"), values)
    assert codes(folder)["label-name"].rows == (5,)
    with pytest.raises(DataError, match="row 5"):
        open_data(folder)
    labels(folder, "train", [f"clip {n}" for n in range(8)], values)
    assert "label-name" not in codes(folder), "other names say nothing about labels"


def test_a_subset_numbered_anew_in_both_parts_is_a_warning(folder):
    for part, count in PARTS.items():
        labels(folder, part, names_of(part), [(n + 1) % CLASSES for n in range(count)])
    found = [f for f in check(folder).findings if f.code == "label-renumbered"]
    assert [(f.severity, f.where) for f in found] == [("warning", "train_label.pkl"), ("warning", "val_label.pkl")]
    assert open_data(folder).class_names == ("A004", "A001", "A002", "A003")
    labels(folder, "val", names_of("val"), [(n + 2) % CLASSES for n in range(PARTS["val"])])
    assert [f.where for f in check(folder).findings if f.code == "label-name"] == ["train_label.pkl", "val_label.pkl"]


CASES = {
    "too few labels": (
        lambda d: labels(d, "train", names_of("train")[:7], [0, 1, 2, 3, 0, 1, 2]),
        {"label-count", "name-count"},
    ),
    "too few names": (lambda d: labels(d, "train", names_of("train")[:7], [n % 4 for n in range(8)]), {"name-count"}),
    "twice a name": (lambda d: labels(d, "train", names_of("train")[:4] * 2, [n % 4 for n in range(8)]), {"name-twice"}),
    "negative": (lambda d: labels(d, "train", ["a", *names_of("train")[1:]], [-1, 1, 2, 3, 0, 1, 2, 3]), {"label-negative"}),
    "fraction": (lambda d: labels(d, "train", [str(n) for n in range(8)], [0.5] + [1] * 7), {"label-fraction"}),
    "frame counts of another part": (lambda d: shutil.copy(d / "val_num_frame.npy", d / "train_num_frame.npy"), {"num-frame"}),
    "frame counts beyond T": (lambda d: np.save(d / "train_num_frame.npy", np.full(8, FRAMES + 1)), {"num-frame"}),
    "frame counts of nothing": (lambda d: np.save(d / "train_num_frame.npy", np.zeros(8, int)), {"num-frame"}),
    "fractions of frames": (lambda d: np.save(d / "train_num_frame.npy", np.full(8, 3.5)), {"num-frame"}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_an_error_finding(folder, case):
    change, expected = CASES[case]
    change(folder)
    report = check(folder)
    assert expected <= {f.code for f in report.findings if f.severity == "error"}
    with pytest.raises(DataError):
        open_data(folder)


def header_claims(path, shape):
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.write(bytes(64))


BROKEN = {
    "hostile labels": (lambda d: (d / "train_label.pkl").write_bytes(CALL), DataError, "os.system"),
    "labels alone": (lambda d: (d / "train_label.pkl").write_bytes(pickle.dumps([1, 2, 3])), DataError, "pair"),
    "names that are none": (lambda d: labels(d, "train", [1, 2], [1, 2]), DataError, "names"),
    "labels that are text": (lambda d: labels(d, "train", names_of("train"), ["a"] * 8), DataError, "numbers"),
    "labels of text": (lambda d: labels(d, "train", names_of("train"), np.array(["a"] * 8)), DataError, "elements of type"),
    "no labels": (lambda d: (d / "val_label.pkl").unlink(), MissingInputError, "val_label.pkl or val_label.npy"),
    "object array": (
        lambda d: np.save(d / "val_data_joint.npy", np.array([None]), allow_pickle=True),
        DataError,
        "Python objects",
    ),
    "a pickle": (lambda d: (d / "val_data_joint.npy").write_bytes(pickle.dumps(np.zeros(3))), DataError, "pickle"),
    "164 TiB": (lambda d: header_claims(d / "train_data_joint.npy", (10**9, 3, 300, 25, 2)), DataError, "declares shape"),
    "cut": (lambda d: os.truncate(d / "train_data_joint.npy", 9000), DataError, "declares shape"),
    "empty": (lambda d: os.truncate(d / "train_data_joint.npy", 0), DataError, "not a .npy array"),
    "four axes": (lambda d: np.save(d / "train_data_joint.npy", np.zeros((8, 3, 40, 25))), DataError, "clips, xyz"),
    "other people": (lambda d: np.save(d / "val_data_joint.npy", np.zeros((5, 3, 40, 25, 1))), DataError, "differ in people"),
    "text elements": (
        lambda d: np.save(d / "val_data_joint.npy", np.full((5, 3, 40, 25, 2), "a")),
        DataError,
        "elements of type",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_or_hostile_folder_is_refused(folder, case):
    change, kind, words = BROKEN[case]
    change(folder)
    with pytest.raises(kind, match=words) as error:
        open_data(folder)
    assert str(folder) in str(error.value)
    with pytest.raises(LabError):
        check(folder)


def test_nan_and_unnormalised_clips_are_named(folder):
    x = np.load(folder / "train_data_joint.npy")
    x[3, 0, 2, 4, 0] = np.nan
    x[6] += 0.5
    np.save(folder / "train_data_joint.npy", x)
    found = codes(folder)
    assert found["clip-nan"].rows == (3,) and found["not-normalised"].rows == (6,)
    assert len(open_data(folder, options=ReadOptions(on_bad="drop")).train) == 7


def test_scrambled_values_are_found(folder):
    """Made from a 150-vector read as joint, xyz, person: joint 2 is then not the origin, but is when that is undone."""
    for part in PARTS:
        x = np.load(folder / f"{part}_data_joint.npy")
        vector = x.transpose(0, 2, 4, 3, 1).reshape(len(x), FRAMES, 150)
        np.save(folder / f"{part}_data_joint.npy", vector.reshape(len(x), FRAMES, 25, 3, 2).transpose(0, 3, 1, 2, 4))
    found = codes(folder)
    assert "layout-confirmed" not in found and {"layout-scrambled", "layout-unconfirmed"} & set(found)


def test_only_the_given_folder_is_looked_at(folder):
    with pytest.raises(DataError, match="fit no layout"):
        detect(folder.parent)
    with pytest.raises(MissingInputError, match=f"give one of the folders that hold it: {folder}"):
        open_data(folder.parent, layout="agcn")


def test_options_of_no_use_are_refused(folder, tmp_path):
    for option in ({"skip_list": tmp_path / "a"}, {"repair": True}):
        with pytest.raises(UsageError, match="means nothing"):
            open_data(folder, options=ReadOptions(**option))
    with pytest.raises(DataError, match="labels outside"):
        open_data(folder, options=ReadOptions(num_classes=3))


def test_a_store_keeps_names_and_lengths(folder, tmp_path):
    direct, stored = open_data(folder), open_data(prepare(folder, tmp_path / "a.h5"))
    for name in ("rows", "valid", "extent", "labels", "ids"):
        np.testing.assert_array_equal(getattr(direct.train, name), getattr(stored.train, name))
