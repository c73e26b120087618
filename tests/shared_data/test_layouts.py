"""Every readable layout gives back the values that were written, ragged."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from shared_data.check import check
from shared_data.classes import NTU60, NW_UCLA
from shared_data.clips import Clips
from shared_data.datasets import DataSet, honest, open_data
from shared_data.errors import DataError, LabError, MissingInputError
from shared_data.formats.options import ReadOptions
from shared_data.formats.reading import detect


def padded(clips: Clips, frames: int) -> np.ndarray:
    """(N, frames, M, V, 3): what `clips` mean as a padded array."""
    out = np.zeros((len(clips), frames, clips.max_people, clips.joints, 3), clips.rows.dtype)
    for n in range(len(clips)):
        clip = clips.clip(n)
        out[n, : clip.shape[0], : clip.shape[1]] = clip
    return out


def assert_holds(data: DataSet, x_train: np.ndarray, labels: np.ndarray) -> None:
    """`x_train` (N, T, M, V, 3)."""
    np.testing.assert_array_equal(padded(data.train, x_train.shape[1]), x_train.astype(data.train.rows.dtype))
    np.testing.assert_array_equal(data.train.labels, labels)
    assert not data.train.rows[0].any(), "row 0 stands for absent people"
    assert not data.train.rows.flags.writeable
    assert list(data.train.ids[:2]) == ["train_0", "train_1"]


@pytest.mark.parametrize("deflated", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_kaggle_layout_round_trip(arrays, save, deflated, dtype):
    arrays["x_train"] = arrays["x_train"].astype(dtype)
    data = open_data(save(arrays, deflated=deflated))
    assert (data.layout, data.num_classes, data.skeleton.name) == ("kaggle", 5, "ntu25")
    assert "three axes" in data.reason
    assert data.train.max_people == 2 and data.train.frames == 90
    x = arrays["x_train"].astype(np.float32).reshape(-1, 90, 2, 25, 3)
    assert_holds(data, x, arrays["y_train"].argmax(-1))
    assert data.train.rows.dtype == np.float32
    assert len(data.train.rows) < 0.9 * x[..., 0, 0].size, "padding is not kept"


def test_whole_numbers_and_column_major_order_are_read(arrays, save):
    millimetres = (arrays["x_train"] * 1000).astype(np.int32)
    arrays["x_train"] = np.asfortranarray(millimetres)
    data = open_data(save(arrays))
    np.testing.assert_array_equal(padded(data.train, 90).reshape(-1, 90, 150), millimetres)
    assert "unit" in {finding.code for finding in data.findings}, "millimetres are pointed out"


def test_integer_labels_count_from_the_largest_or_from_the_argument(arrays, save):
    for key in ("y_train", "y_test"):
        arrays[key] = arrays[key].argmax(-1).astype(np.int16)
    file = save(arrays)
    assert open_data(file).num_classes == 5
    data = open_data(file, options=ReadOptions(num_classes=60))
    assert data.num_classes == 60 and data.class_names == NTU60
    np.testing.assert_array_equal(data.train.labels, arrays["y_train"])


def test_one_person_of_75_numbers(arrays, save):
    for key in ("x_train", "x_test"):
        arrays[key] = arrays[key][..., :75]
    data = open_data(save(arrays))
    assert data.train.max_people == 1 and set(data.train.people.tolist()) == {1}
    assert_holds(data, arrays["x_train"].reshape(-1, 90, 1, 25, 3), arrays["y_train"].argmax(-1))


def test_five_dimensions_hold_the_same_clips_as_the_kaggle_layout(arrays, save, synthetic_file):
    for key in ("x_train", "x_test"):
        arrays[key] = arrays[key].reshape(-1, 90, 2, 25, 3).transpose(0, 4, 1, 3, 2).copy()
    for key in ("y_train", "y_test"):
        arrays[key] = arrays[key].argmax(-1)
    data, same = open_data(save(arrays)), open_data(synthetic_file)
    assert data.layout == "skeleton5d" and data.train.max_people == 2
    for name in ("rows", "offset", "extent", "valid", "people", "labels"):
        np.testing.assert_array_equal(getattr(data.train, name), getattr(same.train, name), err_msg=name)


def test_five_dimensions_with_three_people_and_twenty_joints(save):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3, 12, 20, 3)).astype(np.float32)
    x[0, :, 7:] = 0
    x[1, ..., 1:] = 0
    data = open_data(save({"x_train": x, "y_train": np.arange(6) % 2, "x_test": x[:2], "y_test": np.arange(2)}))
    assert data.skeleton.name == "ucla20" and data.train.max_people == 3
    assert data.train.extent.tolist() == [7, 12, 12, 12, 12, 12] and data.train.people.tolist() == [3, 1, 3, 3, 3, 3]
    np.testing.assert_array_equal(padded(data.train, 12), x.transpose(0, 2, 4, 3, 1))


def official_valid(clip: np.ndarray) -> int:
    """Frames whose sum over coordinates, people, joints is not 0, in the official order; `clip` is (T, 150)."""
    data = clip.reshape(len(clip), 2, 25, 3).transpose(3, 0, 2, 1)
    return int((data.sum(0).sum(-1).sum(-1) != 0).sum())


def test_valid_count_and_extent_of_the_odd_clips(parity_clips):
    file = parity_clips / "clips_ntu.npz"
    data = open_data(file)
    with np.load(file, allow_pickle=False) as fixture:
        told = json.loads(str(fixture["meta"]))["clips"]
        for split, clips in (("train", data.train), ("test", data.test)):
            assert clips.valid.tolist() == [clip["valid_count"] for clip in told[split]]
            assert clips.extent.tolist() == [clip["extent"] for clip in told[split]]
            assert clips.labels.tolist() == [clip["label"] for clip in told[split]]
            assert clips.valid.tolist() == [official_valid(x) for x in fixture[f"x_{split}"]]
            np.testing.assert_array_equal(padded(clips, 300).reshape(-1, 300, 150), fixture[f"x_{split}"])
            modes = [clip["mode"] for clip in told[split]]
            assert (clips.people > 1).tolist() == [mode in tuple("2wgec") and mode != "" for mode in modes]
    counts = {finding.code: finding.rows for finding in data.findings if finding.where == "train"}
    for code, mode in (("gaps", "i"), ("leading", "l"), ("cancelled", "z"), ("copied-person", "c")):
        assert [clip["mode"] for clip in told["train"]].index(mode) in counts[code]


def test_valid_count_equals_the_official_sum_on_random_cancelling_frames(save):
    """Values of one size with many exact cancellations: the order of the additions decides."""
    rng = np.random.default_rng(5)
    x = rng.choice(np.float32([-1e8, -1.1, 0, 1.1, 1e8]), size=(40, 30, 150))
    y = np.eye(2)[np.arange(40) % 2]
    data = open_data(save({"x_train": x, "y_train": y, "x_test": x, "y_test": y}))
    expected = [official_valid(clip) for clip in x]
    assert data.train.valid.tolist() == expected
    assert min(expected) < 30, "the example does hold cancelling frames"


@pytest.fixture
def ucla_files() -> dict[str, list]:
    rng = np.random.default_rng(1)
    lengths = {"a01_s01_e00_v01": 1, "a12_s02_e01_v02": 7, "a07_x": 0, "a08_s03_e00_v01": 4, "a11_s04_e00_v03": 5}
    return {name: rng.normal(size=(t, 20, 3)).round(3).tolist() for name, t in lengths.items() if t}


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_nw_ucla_folder_and_zip(tmp_path, ucla_files, form):
    path = tmp_path / "ucla.zip"
    if form == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, skeletons in reversed(ucla_files.items()):
                archive.writestr(f"all/{name}.json", json.dumps({"file_name": name, "skeletons": skeletons}))
    else:
        path = tmp_path / "ucla"
        (path / "inner").mkdir(parents=True)
        for name, skeletons in ucla_files.items():
            (path / "inner" / f"{name}.json").write_text(json.dumps({"skeletons": skeletons}))
        (path / "README").write_text("not a clip")
    data = open_data(path)
    assert (data.layout, data.num_classes, data.skeleton.name, data.class_names) == ("nw_ucla", 10, "ucla20", NW_UCLA)
    assert data.train.ids.tolist() == ["a01_s01_e00_v01", "a08_s03_e00_v01", "a12_s02_e01_v02"]
    assert data.test.ids.tolist() == ["a11_s04_e00_v03"]
    assert data.train.labels.tolist() == [0, 6, 9] and data.test.labels.tolist() == [8]
    assert data.train.extent.tolist() == [1, 4, 7] and data.train.max_people == 1 and data.train.frames is None
    assert data.train.rows.dtype == np.float64, "the official pipeline works in float64"
    for n, name in enumerate(data.train.ids):
        np.testing.assert_array_equal(data.train.clip(n)[:, 0], ucla_files[str(name)])
    assert {f.code for f in data.findings} == ({"one-frame", "file-ignored"} if form == "folder" else {"one-frame"})


def test_nw_ucla_keeps_frames_that_are_zero_at_the_end(tmp_path):
    clip = np.zeros((6, 20, 3))
    clip[:4] = 1.5
    for view in (1, 3):
        (tmp_path / f"a01_s01_e00_v0{view}.json").write_text(json.dumps({"skeletons": clip.tolist()}))
    data = open_data(tmp_path)
    assert data.train.extent.tolist() == [6] and data.train.valid.tolist() == [4]


def test_layout_can_be_forced_and_a_wrong_name_says_the_nearest(synthetic_file):
    data = open_data(synthetic_file, layout="kaggle")
    assert data.reason == "asked for"
    with pytest.raises(LabError, match="kaggle"):
        open_data(synthetic_file, layout="kagle")
    with pytest.raises(DataError, match="shape"):
        open_data(synthetic_file, layout="skeleton5d")
    with pytest.raises(MissingInputError) as error:
        open_data(synthetic_file.with_name("none.npz"))
    assert error.value.exit_code == 66


def test_detection_goes_by_content_not_by_name(synthetic_file, tmp_path):
    odd = tmp_path / "photo.jpg"
    odd.write_bytes(synthetic_file.read_bytes())
    assert detect(odd)[0] == "kaggle"


def test_progress_reports_every_clip_once(synthetic_file):
    seen: list[tuple[int, int]] = []
    open_data(synthetic_file, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (60, 60) and [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_honest_holds_the_last_rows_of_train_out(synthetic_file):
    data = open_data(synthetic_file)
    held = honest(data)
    assert held.test.ids.tolist() == [f"train_{n}" for n in range(36, 40)]
    assert held.train.ids.tolist() == [f"train_{n}" for n in range(36)]
    assert held.findings[-1].code == "protocol-honest" and "not used" in held.findings[-1].message


def test_honest_holds_two_subjects_of_nw_ucla_out(tmp_path, ucla_files):
    extra = {f"a02_s0{s}_e00_v0{v}": ucla_files["a08_s03_e00_v01"] for s in (5, 6, 7) for v in (1, 2, 3)}
    for name, skeletons in (ucla_files | extra).items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"skeletons": skeletons}))
    held = honest(open_data(tmp_path))
    assert {str(name)[4:7] for name in held.test.ids} == {"s06", "s07"}
    assert not {str(name)[4:7] for name in held.train.ids} & {"s06", "s07"}
    assert not [name for name in (*held.train.ids, *held.test.ids) if str(name).endswith("v03")], "view 3 stays unused"


def test_honest_refuses_what_it_cannot_split(save, arrays):
    short = {key: value[:4] for key, value in arrays.items()}
    with pytest.raises(DataError, match="cannot hold"):
        honest(open_data(save(short)))


def real_nw_ucla() -> Path | None:
    import os

    named = os.environ.get("SAL_NW_UCLA")
    beside = Path(__file__).resolve().parents[3] / "shared" / "data" / "nw_ucla" / "all_sqe.zip"
    return next((path for path in (Path(named) if named else beside, beside) if path.exists()), None)


def test_real_nw_ucla():
    path = real_nw_ucla()
    if path is None:
        pytest.skip("NW-UCLA is not here: set SAL_NW_UCLA to its zip or folder, or put it at ../shared/data/nw_ucla")
    report = check(path)
    assert report.ok and report.protocol == "NW-UCLA cross-view" and report.num_classes == 10
    train, test = report.splits["train"], report.splits["test"]
    assert (train.clips, test.clips) == (1020, 464)
    assert (train.lengths[0], train.lengths[2], test.lengths[0], test.lengths[2]) == (1, 201, 1, 134)
    assert min(train.histogram) > 0 and min(test.histogram) > 0
    short = {f.where: (f.count, "a02_s09_e04" in f.message) for f in report.findings if f.code == "one-frame"}
    assert short == {"train": (1, True), "test": (1, True)}
    held = honest(open_data(path))
    assert len(held.train) + len(held.test) == 1020 and len(set(held.test.labels.tolist())) == 10


def test_a_folder_that_holds_the_datas_zip_is_answered_with_the_zip(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    with zipfile.ZipFile(tmp_path / "all_sqe.zip", "w") as archive:
        archive.writestr("all_sqe/a01_s01_e00_v01.json", "{}")
    with pytest.raises(DataError) as error:
        detect(tmp_path)
    assert "nw_ucla" in str(error.value) and str(tmp_path / "all_sqe.zip") in str(error.value)
