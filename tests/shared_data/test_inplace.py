"""A large stored NPZ is used where it lies: the same frames as from memory, at any byte offset, from an index kept in a cache."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from shared_data import inplace
from shared_data.check import check
from shared_data.clips import Clips
from shared_data.datasets import DataSet, honest, open_data
from shared_data.errors import DataError
from shared_data.formats import kaggle
from shared_data.formats.options import ReadOptions
from shared_data.loader import Loader
from shared_data.pipelines import pipeline


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Every stored file counts as large, indexes are kept below `tmp_path`; the folder they are kept in."""
    monkeypatch.setattr(inplace, "SMALLEST", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "skeleton-action-lab" / "index"


def in_memory(file: Path, monkeypatch, **options) -> DataSet:
    with monkeypatch.context() as patch:
        patch.setattr(inplace, "SMALLEST", 1 << 60)
        return open_data(file, **options)


def member(array: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def shifted(arrays: dict[str, np.ndarray], file: Path, pad: int) -> Path:
    """The arrays in a zip, stored, behind a comment member of `pad` bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("pad.txt", "x" * pad)
        for key, array in arrays.items():
            archive.writestr(f"{key}.npy", member(array))
    return file


def assert_same_clips(one: Clips, other: Clips) -> None:
    assert len(one) == len(other)
    for name in ("extent", "valid", "people", "labels", "ids"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert getattr(one, name).dtype == getattr(other, name).dtype
    for n in range(len(one)):
        assert one.clip(n).tobytes() == other.clip(n).tobytes()


def assert_in_place(data: DataSet) -> None:
    for clips in (data.train, data.test):
        assert isinstance(clips.rows.base, np.memmap) or isinstance(clips.rows, np.memmap)
        assert not clips.rows[clips.zero].any()
    assert "in-place" in {finding.code for finding in data.findings}


@pytest.mark.parametrize("pad", range(4))
@pytest.mark.parametrize("width", [150, 75])
def test_same_clips_and_same_batches_at_every_offset(pad, width, arrays, cache, tmp_path, monkeypatch):
    for key in ("x_train", "x_test"):
        arrays[key] = np.ascontiguousarray(arrays[key][..., :width])
    arrays["x_train"][5, 20:30, :75] = 0  # person 1 is away for a while
    file = shifted(arrays, tmp_path / "data.npz", pad)
    data, plain = open_data(file), in_memory(file, monkeypatch)
    assert_in_place(data)
    assert data.train.frame_step == width // 75 and "in-place" not in {f.code for f in plain.findings}
    assert [f for f in data.findings if f.code != "in-place"] == list(plain.findings)
    assert (data.num_classes, data.class_names, data.skeleton) == (plain.num_classes, plain.class_names, plain.skeleton)
    for split in ("train", "test"):
        assert_same_clips(getattr(data, split), getattr(plain, split))
    for train in (True, False):
        loaders = (Loader(d.train, pipeline("ctrgcn_ntu", window=64), batch_size=16, train=train, seed=5) for d in (data, plain))
        for mine, judge in zip(*(loader.epoch(1) for loader in loaders), strict=True):
            assert mine.clips.numpy().tobytes() == judge.clips.numpy().tobytes()
            np.testing.assert_array_equal(mine.labels, judge.labels)


def test_rows_are_found_by_the_two_rules_alone(arrays, cache, save):
    """A reference gather, straight from the padded array."""
    clips = open_data(save(arrays)).train
    x = arrays["x_train"].reshape(40, 90, 2, 25, 3)
    two = np.flatnonzero(clips.people == 2)
    assert len(two)
    for person, index in ((0, np.arange(40)), (1, two)):
        start = clips.person_start(index, np.full(len(index), person))
        for frame in (0, 7, 29):
            np.testing.assert_array_equal(clips.take_rows(start + frame * clips.frame_step), x[index, frame, person])


def test_compact_is_the_ragged_form(arrays, cache, save, monkeypatch):
    file = save(arrays)
    data, plain = open_data(file), in_memory(file, monkeypatch)
    made = data.train.compact()
    for name in ("rows", "offset", "extent", "people"):
        np.testing.assert_array_equal(getattr(made, name), getattr(plain.train, name))
    part = data.train.subset(np.array([7, 3])).compact()
    assert len(part.rows) == 1 + int((part.people * part.extent).sum())
    np.testing.assert_array_equal(part.clip(1), plain.train.clip(3))


def test_the_second_opening_does_not_read_the_file(arrays, cache, save, monkeypatch):
    file = save(arrays)
    first = open_data(file)
    assert len(list(cache.iterdir())) == 1

    def never(path, how):
        raise AssertionError("the file was read again")

    with monkeypatch.context() as patch:
        patch.setattr(kaggle, "read", never)
        again = open_data(file)
        with pytest.raises(AssertionError):
            open_data(file, options=ReadOptions(num_classes=5))
    assert_in_place(again)
    assert again.findings == first.findings and again.class_names == first.class_names
    assert_same_clips(again.train, first.train)
    assert honest(again).test.ids.tolist() == honest(first).test.ids.tolist()


def test_what_a_check_found_out_serves_the_first_opening(arrays, cache, save, monkeypatch):
    good, bad = save(arrays, "good.npz"), save({**arrays, "y_train": arrays["y_train"] * 0}, "bad.npz")
    assert check(good).ok and not check(bad).ok
    assert len(list(cache.iterdir())) == 1, "nothing is kept of a bad file"
    judge = in_memory(good, monkeypatch)
    monkeypatch.setattr(kaggle, "read", None)
    data = open_data(good)
    assert_in_place(data)
    assert_same_clips(data.test, judge.test)


def test_a_changed_file_has_another_index(arrays, cache, save):
    file = save(arrays)
    open_data(file)
    arrays["y_train"] = np.roll(arrays["y_train"], 1, axis=0)
    save(arrays)
    np.testing.assert_array_equal(open_data(file).train.labels, arrays["y_train"].argmax(-1))
    assert len(list(cache.iterdir())) == 2
    state = file.stat()
    arrays["x_train"][0, 0, 0] += 1
    save(arrays)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert open_data(file).train.clip(0)[0, 0, 0, 0] == arrays["x_train"][0, 0, 0], "a date set back does not hide a change"
    assert len(list(cache.iterdir())) == 3


def test_a_date_set_back_after_a_change_in_place_is_noticed(arrays, cache, save):
    """Same size, same inode, same directory of the zip, same date: only the time of change tells, which nobody can set."""
    file = save(arrays)
    open_data(file)
    before = file.stat()
    with file.open("r+b") as raw:
        raw.seek(before.st_size // 3)
        byte = raw.read(1)[0]
        raw.seek(before.st_size // 3)
        raw.write(bytes([byte ^ 0x40]))
    while file.stat().st_ctime_ns == before.st_ctime_ns or file.stat().st_mtime_ns != before.st_mtime_ns:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match="CRC"):
        open_data(file)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign", "lying"])
def test_a_damaged_index_is_made_again(damage, arrays, cache, save):
    file = save(arrays)
    right = open_data(file)
    (kept,) = cache.iterdir()
    content = bytearray(kept.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flip":
        content[len(content) // 3] ^= 0x10
    elif damage == "empty":
        content.clear()
    kept.write_bytes(content)
    if damage == "foreign":
        np.savez(kept, about=np.zeros(3, np.uint8))
    elif damage == "lying":
        with np.load(kept) as old:
            new = dict(old)
        new["train_offset"][3] = 2**40
        np.savez(kept, **new)
    assert_remade_once(file, right)


def assert_remade_once(file: Path, right: DataSet) -> None:
    """The first opening reads the file again and says so, the second one has nothing to say."""
    for codes in (["index-remade"], []):
        data = open_data(file)
        assert_in_place(data)
        assert [f.code for f in data.findings if f.code == "index-remade"] == codes
        assert [f for f in data.findings if f.code != "index-remade"] == list(right.findings)
        for split in ("train", "test"):
            assert_same_clips(getattr(data, split), getattr(right, split))


LIES = {
    "two axes": lambda made, about: made.update(train_labels=made["train_labels"][:, None]),
    "one clip less": lambda made, about: made.update(train_people=made["train_people"][:-1]),
    "one number": lambda made, about: made.update(train_extent=np.array(3, "<i4")),
    "fractions": lambda made, about: made.update(test_offset=made["test_offset"] + 0.5),
    "ids that are numbers": lambda made, about: made.update(test_ids=np.arange(len(made["test_ids"]))),
    "no clips": lambda made, about: made.update({k: v[:0] for k, v in made.items() if k.startswith("test_")}),
    "overflow": lambda made, about: made["train_offset"].__setitem__(3, 2**63 - 1),
    "beyond T": lambda made, about: made["train_extent"].__setitem__(3, 91),
    "no people": lambda made, about: about["train"].update(max_people=0),
    "three people": lambda made, about: about["train"].update(max_people=3),
    "endless people": lambda made, about: about["test"].update(max_people=10**400),
    "infinite frames": lambda made, about: about["test"].update(frames=float("inf")),
    "other frames": lambda made, about: about["train"].update(frames=89),
    "negative frames": lambda made, about: about["train"].update(frames=-1),
    "unknown skeleton": lambda made, about: about.update(skeleton="octopus"),
    "skeleton of a wrong type": lambda made, about: about.update(skeleton=["ntu25"]),
    "another skeleton": lambda made, about: about.update(skeleton="ucla20"),
    "fewer classes": lambda made, about: about.update(class_names=["a"]),
    "classes of a wrong type": lambda made, about: about.update(class_names=7),
    "no findings": lambda made, about: about.update(findings=None),
}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_is_made_again(lie, signed, arrays, cache, save):
    """Not signed: the checksum of the whole index tells. Signed, as if it had been right: what it says does not fit the file."""
    file = save(arrays)
    right = open_data(file)
    (kept,) = cache.iterdir()
    with np.load(kept) as old:
        made = {key: np.array(old[key]) for key in old.files}
    about = json.loads(made["about"].tobytes())
    LIES[lie](made, about)
    made["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    if signed:
        del made["digest"]
        made["digest"] = inplace._digest(made)
    np.savez(kept, **made)
    assert_remade_once(file, right)


def test_an_index_in_a_folder_that_may_only_be_read_is_used(arrays, cache, save, monkeypatch):
    file = save(arrays)
    right = open_data(file)

    def refused(path, *given, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(kaggle, "read", None)
    assert_same_clips(open_data(file).train, right.train)


def test_without_a_writable_cache_it_works_all_the_same(arrays, save, monkeypatch, tmp_path, cache):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    file = save(arrays)
    for _ in range(2):
        assert_in_place(open_data(file))


def test_the_oldest_indexes_make_room(arrays, cache, save, monkeypatch):
    files = [save(arrays, f"{n}.npz") for n in range(3)]
    for n, file in enumerate(files[:2]):
        open_data(file)
        for kept in cache.iterdir():
            os.utime(kept, (1000 + n, 1000 + n))
    old = max(cache.iterdir(), key=lambda f: f.stat().st_mtime_ns)
    monkeypatch.setattr(inplace, "CACHE_BYTES", 2 * old.stat().st_size + 100)
    open_data(files[2])
    assert len(list(cache.iterdir())) == 2


def test_what_is_compressed_converted_small_or_without_padding_is_read_into_memory(arrays, cache, save, monkeypatch):
    def direct(file):
        return "in-place" in {finding.code for finding in open_data(file).findings}

    assert direct(save(arrays, "a.npz"))
    assert not direct(save(arrays, "b.npz", deflated=True))
    assert not direct(save({**arrays, "x_test": arrays["x_test"].astype(np.float64)}, "c.npz"))
    assert not direct(save({**arrays, "x_test": arrays["x_test"].astype(">f4")}, "d.npz"))
    assert not direct(save({**arrays, "x_test": np.asfortranarray(arrays["x_test"])}, "e.npz"))
    full = np.random.default_rng(0).normal(size=(8, 6, 75)).astype(np.float32)
    y = np.eye(2)[np.arange(8) % 2]
    file = save({"x_train": full, "y_train": y, "x_test": full + 1, "y_test": y}, "f.npz")
    assert not direct(file), "no zero row to stand for absent frames"
    np.testing.assert_array_equal(open_data(file).train.clip(3)[:, 0].reshape(6, 75), full[3])
    monkeypatch.setattr(inplace, "SMALLEST", 1 << 30)
    assert not direct(save(arrays, "g.npz"))


def test_bad_clips_are_refused_or_dropped_as_ever(arrays, cache, save, monkeypatch):
    arrays["x_train"][3, 0, 0] = np.nan
    arrays["x_train"][6] = 0
    file = save(arrays)
    with pytest.raises(DataError, match="row 3"):
        open_data(file)
    for _ in range(2):  # read, then from the kept index
        data = open_data(file, options=ReadOptions(on_bad="drop"))
        assert_in_place(data)
        assert_same_clips(data.train, in_memory(file, monkeypatch, options=ReadOptions(on_bad="drop")).train)
    with pytest.raises(DataError, match="row 3"):
        open_data(file)


def test_a_damaged_file_is_found_at_the_first_opening(arrays, cache, save):
    file = save(arrays)
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0x40
    file.write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        open_data(file)
    assert not cache.exists()
