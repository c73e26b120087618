"""Conversion loses nothing that the target can hold, says what it cannot, and leaves a whole file or none."""

from __future__ import annotations

import fcntl
import json
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared_data import convert as module
from shared_data.atomic import WriteError
from shared_data.check import check
from shared_data.convert import TARGETS, convert
from shared_data.datasets import open_data
from shared_data.errors import DataError, LabError, UsageError
from shared_data.formats.options import ReadOptions
from shared_data.store import open_store, prepare

KEYS = ("x_train", "y_train", "x_test", "y_test", "about", "class_names")


@pytest.fixture
def kaggle(arrays, save):
    """Clips with every oddity that is allowed: gaps, leading zeros, people that come, go and copy; T differs by split."""
    x = arrays["x_train"].reshape(-1, 90, 2, 25, 3)
    x[3, 5:9] = 0
    x[4, :2] = 0
    x[5, :, 1] = x[5, :, 0]
    x[6, :, 1] = x[6, ::-1, 0]
    x[6, :, 0] = 0
    x[7, 10:20, 0] = 0
    arrays["x_train"] = x.reshape(-1, 90, 150)
    arrays["x_test"] = np.concatenate([arrays["x_test"], np.zeros((20, 7, 150), np.float32)], axis=1)
    names = [f"class ü{n}" for n in range(5)]
    return save({**arrays, "about": np.array("clips with oddities"), "class_names": np.array(names)}, "kaggle.npz")


def content(path):
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def assert_same_file(left, right):
    a, b = content(left), content(right)
    assert tuple(a) == tuple(b) == KEYS
    for key, array in a.items():
        assert array.dtype == b[key].dtype and array.shape == b[key].shape, key
        assert array.tobytes() == b[key].tobytes(), key


@pytest.mark.parametrize("middle", ["store", "skeleton5d", "kaggle"])
def test_kaggle_comes_back_bit_for_bit(kaggle, tmp_path, middle):
    between = convert(kaggle, tmp_path / "between", to=middle)
    back = convert(between, tmp_path / "back.npz", to="kaggle")
    assert_same_file(kaggle, back)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["back.npz", "between", "kaggle.npz"], "nothing else stays"


def test_pyskl_keeps_rows_labels_and_names(kaggle, tmp_path):
    between = convert(kaggle, tmp_path / "clips.pkl", to="pyskl")
    before, after = open_data(kaggle), open_data(between)
    for left, right in ((before.train, after.train), (before.test, after.test)):
        for name in ("rows", "extent", "valid", "people", "labels", "ids"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
    back = content(convert(between, tmp_path / "back.npz", to="kaggle", frames=97))
    written = content(kaggle)
    np.testing.assert_array_equal(back["x_train"][:, :90], written["x_train"])
    np.testing.assert_array_equal(back["x_test"], written["x_test"])
    assert not back["x_train"][:, 90:].any()
    for key in ("y_train", "y_test", "about", "class_names"):
        np.testing.assert_array_equal(back[key], written[key])


def test_pyskl_is_what_pickle_reads(kaggle, tmp_path):
    file = convert(kaggle, tmp_path / "clips.pkl", to="pyskl")
    loaded = pickle.loads(file.read_bytes())
    assert list(loaded) == ["split", "annotations", "class_names", "about"]
    assert loaded["split"] == {"train": [f"train_{n}" for n in range(40)], "val": [f"test_{n}" for n in range(20)]}
    assert len(loaded["annotations"]) == 60 and loaded["class_names"][0] == "class ü0"
    data = open_data(kaggle)
    for n in (0, 3, 6, 39):
        entry = loaded["annotations"][n]
        assert list(entry) == ["frame_dir", "label", "total_frames", "keypoint"]
        assert (entry["frame_dir"], entry["label"]) == (f"train_{n}", data.train.labels[n])
        assert type(entry["keypoint"]) is np.ndarray and entry["keypoint"].dtype == np.float32
        assert entry["keypoint"].flags.writeable, "the loaders of pyskl write into it"
        np.testing.assert_array_equal(entry["keypoint"].transpose(1, 0, 2, 3), data.train.clip(n))
        assert entry["total_frames"] == entry["keypoint"].shape[1]


def test_five_dimensions_are_clips_xyz_frames_joints_people(kaggle, tmp_path):
    made, written = content(convert(kaggle, tmp_path / "a.npz", to="skeleton5d")), content(kaggle)
    assert made["x_train"].shape == (40, 3, 90, 25, 2) and made["x_test"].shape == (20, 3, 97, 25, 2)
    assert made["y_train"].dtype == np.int64 and made["y_train"].tolist() == written["y_train"].argmax(-1).tolist()
    vector = written["x_train"].reshape(40, 90, 2, 25, 3)
    for n, c, t, v, m in ((0, 0, 0, 0, 0), (3, 2, 30, 24, 0), (5, 1, 11, 7, 1), (6, 2, 4, 20, 1)):
        assert made["x_train"][n, c, t, v, m] == vector[n, t, m, v, c]
    np.testing.assert_array_equal(made["x_train"], vector.transpose(0, 4, 1, 3, 2))


def test_nw_ucla_goes_where_its_joints_fit(parity_clips, tmp_path):
    source = parity_clips / "clips_ucla.zip"
    before = open_data(source)
    for to in ("skeleton5d", "pyskl"):
        after = open_data(convert(source, tmp_path / to, to=to), options=ReadOptions(num_classes=10))
        assert (after.skeleton.name, after.class_names) == ("ucla20", before.class_names)
        for n in range(len(before.train)):
            np.testing.assert_array_equal(after.train.clip(n), before.train.clip(n).astype(np.float32))
    assert after.train.ids.tolist() == before.train.ids.tolist(), "a pickle has room for names"
    with pytest.raises(UsageError, match=r"25 joints, these clips have 20(.|\n)*skeleton5d"):
        convert(source, tmp_path / "a.npz", to="kaggle")
    assert not (tmp_path / "a.npz").exists()


def test_flat_clips_keep_their_scores(tmp_path):
    rng = np.random.default_rng(0)
    annotations = [
        {
            "frame_dir": f"c{n}", "label": n % 2, "total_frames": 9 + n,
            "keypoint": rng.normal(size=(1, 9 + n, 17, 2)).astype(np.float32), "keypoint_score": rng.random((1, 9 + n, 17)),
        }
        for n in range(6)
    ]  # fmt: skip
    content = {"split": {"train": ["c0", "c1", "c2", "c3"], "val": ["c4", "c5"]}, "annotations": annotations}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    again = pickle.loads(convert(tmp_path / "a.pkl", tmp_path / "b.pkl", to="pyskl").read_bytes())
    for old, new in zip(annotations, again["annotations"], strict=True):
        np.testing.assert_array_equal(new["keypoint"], old["keypoint"])
        np.testing.assert_array_equal(new["keypoint_score"], old["keypoint_score"].astype(np.float32))


def test_three_people_need_five_dimensions(kaggle, tmp_path):
    five = content(convert(kaggle, tmp_path / "a.npz", to="skeleton5d"))
    for split in ("train", "test"):
        five[f"x_{split}"] = np.concatenate([five[f"x_{split}"], five[f"x_{split}"][..., :1]], axis=-1)
    np.savez(tmp_path / "three.npz", **five)
    again = content(convert(tmp_path / "three.npz", tmp_path / "b.npz", to="skeleton5d"))
    np.testing.assert_array_equal(again["x_train"], five["x_train"])
    with pytest.raises(UsageError, match="two people, these clips up to 3"):
        convert(tmp_path / "three.npz", tmp_path / "c.npz", to="kaggle")


def test_frames_pad_but_never_cut(kaggle, tmp_path):
    longest = int(open_data(kaggle).train.extent.max())
    made = content(convert(kaggle, tmp_path / "a.npz", to="kaggle", frames=300))
    assert made["x_train"].shape == (40, 300, 150) and made["x_test"].shape == (20, 300, 150)
    with pytest.raises(UsageError, match=f"at least {longest}"):
        convert(kaggle, tmp_path / "b.npz", to="kaggle", frames=longest - 1)
    for to, frames in (("pyskl", 50), ("store", 50), ("kaggle", 0)):
        with pytest.raises(UsageError, match="frames="):
            convert(kaggle, tmp_path / "b", to=to, frames=frames)


@pytest.mark.parametrize("to", [to for to in TARGETS if to != "store"])
def test_broken_clips_are_refused_or_dropped(kaggle, tmp_path, to):
    broken = content(kaggle)
    broken["x_train"][2, 3, 4] = np.nan
    broken["x_train"][9] = 0
    np.savez(tmp_path / "broken.npz", **broken)
    with pytest.raises(DataError, match="row 2"):
        convert(tmp_path / "broken.npz", tmp_path / "out", to=to)
    assert {file.name for file in tmp_path.iterdir()} == {"kaggle.npz", "broken.npz"}
    dropped = open_data(convert(tmp_path / "broken.npz", tmp_path / "out", to=to, options=ReadOptions(on_bad="drop")))
    kept = np.delete(np.arange(40), [2, 9])
    assert dropped.train.labels.tolist() == broken["y_train"].argmax(-1)[kept].tolist()


def test_a_store_converts_without_another_one(kaggle, tmp_path, monkeypatch):
    store = prepare(kaggle, tmp_path / "a.h5")
    monkeypatch.setattr(module, "prepare", None)
    assert_same_file(kaggle, convert(store, tmp_path / "back.npz", to="kaggle"))
    with pytest.raises(DataError, match="7 classes were asked for"):
        convert(store, tmp_path / "b.npz", to="kaggle", options=ReadOptions(num_classes=7))
    with pytest.raises(UsageError, match="--repair means nothing"):
        convert(store, tmp_path / "b.npz", to="kaggle", options=ReadOptions(repair=True))


def test_a_file_without_a_description_says_where_it_comes_from(arrays, save, tmp_path):
    made = open_store(convert(convert(save(arrays), tmp_path / "a.npz", to="skeleton5d"), tmp_path / "a.h5", to="store"))
    assert made.attributes["about"] == "converted from data.npz (kaggle)"


def test_the_same_clips_give_the_same_bytes(kaggle, tmp_path):
    for to in ("kaggle", "skeleton5d", "pyskl"):
        made = [convert(kaggle, tmp_path / f"{to}{n}", to=to).read_bytes() for n in (1, 2)]
        assert made[0] == made[1]


def test_progress_counts_to_the_end(kaggle, tmp_path):
    told = []
    convert(kaggle, tmp_path / "a.npz", to="kaggle", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (180, 180) and told == sorted(told), "read, written, read back"
    told.clear()
    convert(
        convert(kaggle, tmp_path / "a.h5", to="store"), tmp_path / "b.npz", to="kaggle", progress=lambda *pair: told.append(pair)
    )
    assert told[-1] == (120, 120) and told == sorted(told)


def test_only_stores_are_replaced(kaggle, tmp_path):
    """A kaggle file at the target may be the only copy of somebody's data set."""
    target = tmp_path / "out"
    for to in ("kaggle", "skeleton5d", "pyskl"):
        target.unlink(missing_ok=True)
        before = convert(kaggle, target, to=to).read_bytes()
        for other in TARGETS:
            with pytest.raises(WriteError, match="left alone") as error:
                convert(kaggle, target, to=other)
            assert error.value.exit_code == 74
        assert target.read_bytes() == before
    store = convert(kaggle, tmp_path / "a.h5", to="store")
    assert convert(kaggle, store, to="store") == store
    target.write_text("mine")
    with pytest.raises(WriteError, match="left alone"):
        convert(kaggle, target, to="kaggle")
    for odd in (tmp_path, tmp_path / "none" / "a.npz"):
        with pytest.raises(LabError):
            convert(kaggle, odd, to="kaggle")


def test_the_source_is_never_the_target(kaggle, parity_clips, tmp_path):
    with pytest.raises(UsageError, match="the target is the source"):
        convert(kaggle, kaggle, to="kaggle")
    (tmp_path / "link").symlink_to(kaggle)
    with pytest.raises(UsageError, match="the target is the source"):
        convert(tmp_path / "link", kaggle, to="kaggle")


def test_another_command_on_the_same_target_is_refused(kaggle, tmp_path):
    with (tmp_path / ".a.npz.partial").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(WriteError, match="another command"):
            convert(kaggle, tmp_path / "a.npz", to="kaggle")
        assert (tmp_path / ".a.npz.partial").exists(), "the other command's file stays"
    convert(kaggle, tmp_path / "a.npz", to="kaggle")  # what a killed run left is overwritten


@pytest.mark.parametrize("moment", ["while the source is read", "while the file is written"])
def test_the_next_run_removes_what_a_killed_one_left(kaggle, tmp_path, moment):
    """`kill -9` cannot be answered, so what is left has a fixed name and is taken over."""
    place = tmp_path / "place"
    place.mkdir()
    program = """
import os, signal, sys
from pathlib import Path
from shared_data import convert, store
die = lambda *given, **named: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "while the source is read":
    store.settle = die
else:
    convert.WRITERS["kaggle"] = die
convert.convert(Path(sys.argv[2]), Path(sys.argv[3]), to="kaggle")
"""
    command = [sys.executable, "-c", program, moment, str(kaggle), str(place / "a.npz")]
    left = []
    for _ in range(2):
        assert subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
        left.append(sorted(file.name for file in place.iterdir()))
    assert left[0] and "a.npz" not in left[0] and left[1] == left[0], "a second killed run leaves no more than the first"
    assert_same_file(kaggle, convert(kaggle, place / "a.npz", to="kaggle"))
    assert [file.name for file in place.iterdir()] == ["a.npz"]


def test_a_file_of_the_user_in_the_place_of_ours_is_left_alone(kaggle, tmp_path):
    mine = tmp_path / ".a.npz.converting"
    mine.write_text("mine")
    with pytest.raises(WriteError, match="left alone"):
        convert(kaggle, tmp_path / "a.npz", to="kaggle")
    assert mine.read_text() == "mine" and not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize("to", TARGETS)
def test_a_link_is_neither_replaced_nor_followed(kaggle, tmp_path, to):
    thesis = tmp_path / "thesis"
    thesis.write_text("mine")
    for name, place in (("a", thesis), ("b", tmp_path / "none")):
        (tmp_path / name).symlink_to(place)
        with pytest.raises(WriteError, match="a link"):
            convert(kaggle, tmp_path / name, to=to)
        assert (tmp_path / name).is_symlink()
    assert thesis.read_text() == "mine" and not (tmp_path / "none").exists()


@pytest.mark.parametrize("to", ["kaggle", "skeleton5d", "pyskl"])
def test_failure_leaves_nothing(kaggle, tmp_path, monkeypatch, to):
    target, files = tmp_path / "out", sorted(tmp_path.iterdir())

    def full(file, content, tick):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(module.WRITERS, to, full)
    with pytest.raises(WriteError, match="No space left") as error:
        convert(kaggle, target, to=to)
    assert error.value.exit_code == 74
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize("to", ["kaggle", "skeleton5d", "pyskl"])
@pytest.mark.parametrize("damage", ["values", "labels"])
def test_what_reads_back_differently_is_not_kept(kaggle, tmp_path, monkeypatch, to, damage):
    """One changed value or label in the written file is noticed before it gets its name."""
    honest = module.WRITERS[to]

    def faulty(file, content, tick):
        train = content.clips["train"]
        rows, labels = np.array(train.rows), np.array(train.labels)
        if damage == "values":
            rows[train.offset[17] + 3, 4, 1] += 1e-3
        else:
            labels[17] = (labels[17] + 1) % 5
        changed = {**content.clips, "train": module.replace(train, rows=rows, labels=labels)}
        honest(file, module.replace(content, clips=changed), tick)

    monkeypatch.setattr(module, "replace", __import__("dataclasses").replace, raising=False)
    monkeypatch.setitem(module.WRITERS, to, faulty)
    with pytest.raises(DataError, match="reads differently"):
        convert(kaggle, tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()


def test_unknown_formats_name_the_known_ones(kaggle, tmp_path):
    with pytest.raises(UsageError, match=r"did you mean kaggle\?(.|\n)*store, kaggle, skeleton5d, pyskl"):
        convert(kaggle, tmp_path / "a", to="kagle")


def test_converted_files_pass_the_check(kaggle, tmp_path):
    for to in TARGETS:
        report = check(convert(kaggle, tmp_path / to, to=to))
        assert report.ok and report.class_names[4] == "class ü4" and report.about == "clips with oddities"


MEASURED = """
import json, re, sys
from pathlib import Path
from shared_data.convert import convert
source, warm, target, to = sys.argv[1:]
# Not getrusage: its peak is inherited from the process that started this one.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024
convert(Path(warm), Path(target + ".warm"), to=to)
before = peak()
convert(Path(source), Path(target), to=to)
print(json.dumps([before, peak()]))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A Kaggle file of 108 MB with clips of 40 frames."""
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("large") / "large.npz"
    arrays = {}
    for split, clips in (("train", 500), ("test", 100)):
        x = np.zeros((clips, 300, 2, 25, 3), np.float32)
        x[:, :40, 0] = rng.normal(scale=0.01, size=(clips, 40, 25, 3)).cumsum(1) + rng.normal(size=(clips, 1, 25, 3))
        arrays |= {f"x_{split}": x.reshape(clips, 300, 150), f"y_{split}": np.eye(10)[np.arange(clips) % 10]}
    np.savez(file, **arrays)
    return file


@pytest.mark.parametrize("to", ["kaggle", "skeleton5d", "pyskl"])
def test_memory_does_not_grow_with_the_file(large, synthetic_file, tmp_path, to):
    """Beyond what a small file takes, the peak grows by the ragged rows, which are mapped, and a few blocks."""
    ragged = 600 * 40 * 25 * 3 * 4
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here to read a peak of memory from")
    command = [sys.executable, "-c", MEASURED, str(large), str(synthetic_file), str(tmp_path / "out"), to]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    before, after = json.loads(done.stdout)
    assert large.stat().st_size > 108e6
    print(f"peak grew by {(after - before) / 1e6:.0f} MB")
    assert after - before < ragged + 80e6, f"{(after - before) / 1e6:.0f} MB for {ragged / 1e6:.0f} MB of rows"
