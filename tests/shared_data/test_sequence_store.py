"""The store of untrimmed sequences gives back what its source held, whole or not at all; damage and other files are told."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from shared_data.atomic import WriteError
from shared_data.datasets import open_data
from shared_data.errors import DataError, UsageError
from shared_data.formats.options import ReadOptions
from shared_data.formats.ragged import in_memory
from shared_data.formats.untrimmed import only_untrimmed, open_sequences
from shared_data.sequence_store import prepare_sequences, verify_sequences, write_lasa, write_sequences
from shared_data.sequences import SequenceBuilder, Sequences, SequenceSource, hold_out
from shared_data.skeletons import NTU25, UCLA20, Skeleton
from shared_data.store import prepare
from shared_data.synthetic import write_synthetic

NAMES = ("background", "wave", "sit down")


def part(lengths: list[int], first: int, skeleton: Skeleton = NTU25, people: int = 2) -> Sequences:
    rng = np.random.default_rng(first)
    builder = SequenceBuilder(
        in_memory("train", skeleton.joints, np.dtype(np.float32)), joints=skeleton.joints, max_people=people
    )
    for n, length in enumerate(lengths, first):
        frames = rng.normal(0, 1, (length, people, skeleton.joints, 3)).astype(np.float32)
        frames[:, 1 + n % 2 :] = 0  # every second one has one person
        frames[length // 2] = 0
        builder.add(f"video é{n}", frames, rng.integers(0, 3, length))
    return builder.finish()


def source(skeleton: Skeleton = NTU25, people: int = 2) -> SequenceSource:
    splits = {"train": part([30, 7, 21], 0, skeleton, people), "test": part([12, 5], 3, skeleton, people)}
    splits |= {"val": splits["test"], "rest": part([9], 5, skeleton, people)}
    return SequenceSource("lasa", "made here", skeleton, NAMES, splits, [], "a test")


def assert_same(left: SequenceSource, right: SequenceSource) -> None:
    assert (left.class_names, left.skeleton) == (right.class_names, right.skeleton)
    assert left.splits.keys() == right.splits.keys()
    for split, ours in left.splits.items():
        theirs = right.splits[split]
        assert ours.ids.tolist() == theirs.ids.tolist() and ours.clips.max_people == theirs.clips.max_people
        for n in range(len(ours)):
            np.testing.assert_array_equal(ours.frames(n), theirs.frames(n))
            np.testing.assert_array_equal(ours.labels(n), theirs.labels(n))
            np.testing.assert_array_equal(ours.boundaries(n), theirs.boundaries(n))


@pytest.mark.parametrize(("skeleton", "people"), [(NTU25, 2), (UCLA20, 1)])
def test_what_is_written_comes_back(tmp_path, skeleton, people):
    made = source(skeleton, people)
    path = write_sequences(made, tmp_path / "s.h5")
    back = open_sequences(path)
    assert_same(back, made)
    assert back.layout == "store" and back.about == "a test" and back.splits["val"] is back.splits["test"]
    rows = back.splits["train"].clips.rows
    assert isinstance(rows, np.memmap) and not rows.flags.writeable
    with h5py.File(path) as file:
        assert "val" not in file, "one list under two names is stored once"
    verify_sequences(path)


def test_parts_of_a_split_are_written_with_their_own_labels(tmp_path):
    made = source()
    train, val = hold_out(made.splits["train"], 2)
    some = replace(made, splits={"train": train.subset(np.array([1, 0])), "test": val})
    assert_same(open_sequences(write_sequences(some, tmp_path / "s.h5")), some)
    again = open_sequences(write_sequences(open_sequences(tmp_path / "s.h5"), tmp_path / "t.h5"))
    assert_same(again, some)


def test_the_package_of_lasa_comes_back(tmp_path):
    made = source()
    folder = write_lasa(made, tmp_path / "package")
    assert sorted(p.name for p in folder.iterdir()) == [
        "features", "gt_arr", "gt_boundary_arr", "mapping.txt", "test1.csv", "train1.csv", "val1.csv",
    ]  # fmt: skip
    assert np.load(folder / "features" / "video é0.npy").shape == (30, 150)
    back = open_sequences(folder)
    assert back.layout == "lasa" and [f.code for f in back.findings] == ["list-overlap"]
    assert_same(back, made)
    with pytest.raises(WriteError, match="something is there already"):
        write_lasa(made, folder)
    with pytest.raises(UsageError, match="1 people of 20 joints"):
        write_lasa(source(UCLA20, 1), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_is_prepared_with_its_provenance_and_findings(tmp_path):
    folder = write_lasa(source(), tmp_path / "package")
    store = prepare_sequences(folder, tmp_path / "s.h5")
    stored = open_sequences(store)
    assert_same(stored, open_sequences(folder))
    assert [f.code for f in stored.findings] == ["list-overlap"] and "package (lasa)" in stored.reason
    with h5py.File(store) as file:
        assert len(file.attrs["source_sha256"]) == 64 and file.attrs["source_name"] == "package"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["package", "s.h5"], "no partial files stay behind"
    assert prepare_sequences(folder, store) == store, "an older store is replaced"
    with pytest.raises(DataError, match="already a store"):
        prepare_sequences(store, tmp_path / "t.h5")
    assert not (tmp_path / "t.h5").exists()


def test_a_store_is_complete_or_not_there(tmp_path, monkeypatch):
    target = write_sequences(source(), tmp_path / "s.h5")
    before = target.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        write_sequences(source(UCLA20, 1), target)
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]


def test_the_two_kinds_of_store_are_not_taken_for_each_other(tmp_path):
    clips = prepare(
        write_synthetic(tmp_path / "synthetic.npz", classes=2, train_per_class=2, test_per_class=1), tmp_path / "c.h5"
    )
    videos = write_sequences(source(), tmp_path / "s.h5")
    with pytest.raises(DataError, match="a store of clips, where one of untrimmed sequences is wanted"):
        open_sequences(clips)
    with pytest.raises(DataError, match="a store of untrimmed sequences, where one of clips is wanted"):
        open_data(videos)
    with pytest.raises(WriteError, match="left alone"):
        write_sequences(source(), clips)
    with pytest.raises(WriteError, match="left alone"):
        prepare(tmp_path / "synthetic.npz", videos)
    assert only_untrimmed(videos) and not only_untrimmed(clips) and not only_untrimmed(tmp_path / "synthetic.npz")
    assert only_untrimmed(tmp_path, "lasa") and not only_untrimmed(tmp_path, "pku_mmd") and not only_untrimmed(tmp_path, "store")


def test_another_division_or_number_of_classes_than_the_stored_one_is_refused(tmp_path):
    folder = write_lasa(source(), tmp_path / "package")
    store = prepare_sequences(folder, tmp_path / "s.h5", options=ReadOptions(split="subject"))
    assert len(open_sequences(store, options=ReadOptions(split="xsub")).splits["train"]) == 3
    with pytest.raises(DataError, match="divided by subject, asked for is view"):
        open_sequences(store, options=ReadOptions(split="view"))
    with pytest.raises(UsageError, match="no split 'subjct'; did you mean subject"):
        open_sequences(store, options=ReadOptions(split="subjct"))
    with pytest.raises(DataError, match="7 classes were asked for"):
        open_sequences(store, options=ReadOptions(num_classes=7))
    with pytest.raises(UsageError, match="--repair"):
        open_sequences(store, options=ReadOptions(repair=True))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.999])
def test_a_truncated_store_is_refused(tmp_path, share):
    whole = write_sequences(source(), tmp_path / "s.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError):
        open_sequences(tmp_path / "cut.h5")


def _classes(file: h5py.File) -> None:
    file["train/classes"][3] = (file["train/classes"][3] + 1) % 3


def _boundary(file: h5py.File) -> None:
    file["test/boundary"][1] ^= 1


def _fewer(file: h5py.File) -> None:
    kept = file["train/classes"][:-1]
    del file["train/classes"]
    file["train/classes"] = kept


def _gone(file: h5py.File) -> None:
    del file["test/boundary"]


def _elsewhere(file: h5py.File) -> None:
    file.attrs["splits"] = '{"train": "../etc", "test": "test"}'


def _no_splits(file: h5py.File) -> None:
    file.attrs["splits"] = "not JSON"


def _skeleton(file: h5py.File) -> None:
    file.attrs["skeleton"] = "ucla20"


def _version(file: h5py.File) -> None:
    file.attrs["schema_version"] = 99


def _zero(file: h5py.File) -> None:
    file["train/rows"][0] = 1


@pytest.mark.parametrize("change", [_classes, _boundary, _fewer, _gone, _elsewhere, _no_splits, _skeleton, _version, _zero])
def test_a_damaged_store_is_refused(tmp_path, change):
    path = write_sequences(source(), tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(DataError, match=r"damaged|version 99"):
        open_sequences(path)


def test_a_changed_row_is_found_by_reading_all(tmp_path):
    path = write_sequences(source(), tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        file["test/rows"][3] = 0.5
    open_sequences(path)
    with pytest.raises(DataError, match="rows differ"):
        verify_sequences(path)


def test_what_cannot_be_opened_again_gets_no_name(tmp_path):
    made = source()
    twice = made.splits["train"].subset(np.array([0, 0]))
    with pytest.raises(DataError, match="could not be opened"):
        write_sequences(replace(made, splits={**made.splits, "train": twice}), tmp_path / "s.h5")
    with pytest.raises(DataError, match="could not be opened"):
        write_sequences(replace(made, splits={"train": made.splits["train"]}), tmp_path / "s.h5")
    with pytest.raises(UsageError, match="a split called 'dev'"):
        write_sequences(replace(made, splits={**made.splits, "dev": made.splits["train"]}), tmp_path / "s.h5")
    assert not list(tmp_path.iterdir())


def test_a_killed_writer_of_a_package_is_cleared_up_after(tmp_path):
    left: Path = tmp_path / ".package.partial" / "features"
    left.mkdir(parents=True)
    (left / "old.npy").write_bytes(b"x")
    folder = write_lasa(source(), tmp_path / "package")
    assert not (folder / "features" / "old.npy").exists() and not left.exists()
    shutil.rmtree(folder)


def test_sequences_that_are_none_are_refused():
    def add(frames: np.ndarray, labels: np.ndarray, boundary: np.ndarray | None = None) -> None:
        SequenceBuilder(in_memory("train", 25, np.dtype(np.float32)), joints=25, max_people=1).add("v", frames, labels, boundary)

    frames = np.ones((4, 1, 25, 3), np.float32)
    add(frames, np.zeros(4, int))
    with pytest.raises(DataError, match=r"frames, labels and boundaries are \[4, 5, 5\]"):
        add(frames, np.zeros(5, int))
    with pytest.raises(DataError, match=r"\[4, 4, 3\]"):
        add(frames, np.zeros(4, int), np.zeros(3, bool))
    for wrong in (np.nan, np.inf):
        with pytest.raises(DataError, match="NaN or infinite"):
            add(np.where(np.arange(4)[:, None, None, None] == 2, wrong, frames), np.zeros(4, int))
    with pytest.raises(DataError, match="nobody is ever seen"):
        add(0 * frames, np.zeros(4, int))
    with pytest.raises(DataError, match="nobody is ever seen"):
        add(frames[:0], np.zeros(0, int))


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_class_without_a_name_is_refused(wrong):
    builder = SequenceBuilder(in_memory("train", 25, np.dtype(np.float32)), joints=25, max_people=1)
    builder.add("v", np.ones((4, 1, 25, 3)), np.array([0, 1, wrong, 2]))
    with pytest.raises(DataError, match=f"class id {wrong} in the split train"):
        SequenceSource("x", "", NTU25, NAMES, {"train": builder.finish()})
