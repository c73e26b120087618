"""Folders of features: read as they were written, and every bad one refused with the file and the reason."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.zeroshot import features, synthetic, synthetic_folder
from engine.zeroshot import plan as plans
from engine.zeroshot.plausible import require_one_world
from engine.zeroshot.text import rows as text_rows
from shared_data import zeroshot_splits as splits
from shared_data.atomic import WriteError
from shared_data.errors import DataError, LabError, MissingInputError, UsageError
from shared_data.findings import ERROR, WARNING
from tests.engine.zeroshot import folders

TEST, VAL = splits.published(60, 5), splits.published(60, 5, "val")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    root = tmp_path_factory.mktemp("world")
    folders.source(root)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "world")


def change(file: str, how: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        np.save(folder / file, how(np.load(folder / file)))

    return apply


def put(value: float, row: int, column: int) -> Callable[[np.ndarray], np.ndarray]:
    def how(x: np.ndarray) -> np.ndarray:
        x[row, column] = value
        return x

    return how


def label(value: int, row: int) -> Callable[[np.ndarray], np.ndarray]:
    def how(x: np.ndarray) -> np.ndarray:
        x[row] = value
        return x

    return how


def objects(folder: Path) -> None:
    np.save(folder / "train.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def cut(folder: Path) -> None:
    file = folder / "train.npy"
    file.write_bytes(file.read_bytes()[:-10])


BAD_TEST: dict[str, tuple[Callable[[Path], None], str]] = {
    "a NaN": (change("gtest.npy", put(np.nan, 3, 2)), r"1 of 300 rows(.|\n)*gtest\.npy: row 3"),
    "infinite": (change("train.npy", put(-np.inf, 7, 0)), r"train\.npy: row 7"),
    "beyond float32": (change("train.npy", lambda x: put(1e300, 4, 0)(x.astype(np.float64))), r"train\.npy: row 4"),
    "a NaN in the logits": (change("gtest_out.npy", put(np.nan, 0, 0)), r"gtest_out\.npy: row 0"),
    "another width": (change("ztest.npy", lambda x: x[:, :60]), r"\(25, 60\)(.|\n)*ztest\.npy(.|\n)*\(N, 64\)"),
    "one axis": (change("train.npy", lambda x: x.reshape(-1)), r"shape \(17600,\)(.|\n)*train\.npy"),
    "no rows": (change("train.npy", lambda x: x[:0]), r"\(0, 64\)(.|\n)*at least one row"),
    "integers": (change("train.npy", lambda x: x.astype(np.int32)), r"int32(.|\n)*train\.npy(.|\n)*float32"),
    "fewer labels": (change("train_label.npy", lambda x: x[:-1]), r"\(274,\)(.|\n)*train_label\.npy(.|\n)*\(275,\)"),
    "labels as columns": (change("z_label.npy", lambda x: x[:, None]), r"\(25, 1\)(.|\n)*z_label\.npy"),
    "labels with a fraction": (change("z_label.npy", lambda x: x + 0.5), r"float64(.|\n)*z_label\.npy"),
    "a label too large": (change("g_label.npy", label(60, 9)), r"such as 60(.|\n)*g_label\.npy: row 9(.|\n)*0 \.\. 59"),
    "a label below 0": (change("train_label.npy", label(-1, 0)), r"such as -1(.|\n)*train_label\.npy: row 0"),
    "an unseen class in train": (change("train_label.npy", label(10, 7)), r"class 10 where only seen(.|\n)*train\.npy: row 7"),
    "a seen class in ztest": (change("z_label.npy", label(0, 2)), r"class 0 where only unseen(.|\n)*ztest\.npy: row 2"),
    "gtest of seen classes": (change("g_label.npy", np.zeros_like), r"all of seen(.|\n)*gtest\.npy"),
    "logits of fewer classes": (change("gtest_out.npy", lambda x: x[:, :55]), r"\(300, 55\)(.|\n)*gtest_out(.|\n)*\(N, 60\)"),
    "logits of fewer clips": (change("gtest_out.npy", lambda x: x[:-1]), r"299 clips(.|\n)*gtest_out(.|\n)*300 rows"),
    "clips of zeros": (change("train.npy", np.zeros_like), r"275 of 275 rows are all zeros(.|\n)*train\.npy: rows 0"),
    "one clip of zeros": (change("ztest.npy", lambda x: x * (np.arange(25) != 7)[:, None]), r"1 of 25(.|\n)*ztest\.npy: row 7"),
    "logits of zeros": (change("gtest_out.npy", np.zeros_like), r"300 of 300 rows are all zeros(.|\n)*gtest_out\.npy"),
    "Python objects": (objects, r"pickles(.|\n)*train\.npy"),
    "cut off": (cut, r"declares shape(.|\n)*train\.npy"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BAD_TEST.values(), ids=BAD_TEST)
def test_a_bad_folder_is_refused(root: Path, spoil: Callable[[Path], None], message: str) -> None:
    folder = root / "sk_feats/shift_5_r"
    features.read(folder, TEST, "test")
    spoil(folder)
    with pytest.raises(DataError, match=message):
        features.read(folder, TEST, "test")


@pytest.mark.parametrize(
    ("file", "value", "message"),
    [
        ("train_label.npy", 10, r"class 10 where only seen(.|\n)*train\.npy: row 1"),  # unseen in the test
        ("train_label.npy", 16, r"class 16 where only seen(.|\n)*train\.npy: row 1"),  # unseen in validation
        ("val_label.npy", 16, r"class 16 where only seen(.|\n)*val\.npy: row 1"),
        ("z_label.npy", 10, r"class 10 where only unseen(.|\n)*ztest\.npy: row 1"),
    ],
)
def test_no_class_leaks_into_validation(root: Path, file: str, value: int, message: str) -> None:
    folder = root / "sk_feats/shift_val_5_r"
    features.read(folder, VAL, "val")
    change(file, label(value, 1))(folder)
    with pytest.raises(DataError, match=message):
        features.read(folder, VAL, "val")


def test_the_list_that_is_cut_off_and_the_whole_one(tmp_path: Path) -> None:
    world = synthetic.world(classes=120, seed=0)
    whole = plans.published(120, 10, truncated=False)
    features.write(tmp_path / "new", synthetic_folder.made_up(world, whole, "val", 2))
    assert len(np.unique(features.read(tmp_path / "new", whole.val, "val").train.labels)) == 100
    cut_off = splits.published(120, 10, "val")
    with pytest.raises(DataError, match=r"class 100, 101(.|\n)*train\.npy(.|\n)*truncated=False"):
        features.read(tmp_path / "new", cut_off, "val")


def test_all_missing_files_are_named_at_once(root: Path) -> None:
    folder = root / "sk_feats/shift_val_5_r"
    for name in ("z_label.npy", "val_out.npy"):
        (folder / name).unlink()
    with pytest.raises(MissingInputError, match=r"missing files: z_label\.npy, val_out\.npy(.|\n)*shift_val_5_r"):
        features.read(folder, VAL, "val")
    with pytest.raises(MissingInputError, match="no such folder"):
        features.read(root / "nowhere", TEST, "test")


@pytest.mark.parametrize("kind", ["f2", "f8", ">f4"])
def test_other_floats_are_taken_and_told(root: Path, kind: str) -> None:
    folder = root / "sk_feats/shift_5_r"
    before = features.read(folder, TEST, "test")
    change("train.npy", lambda x: x.astype(kind))(folder)
    after = features.read(folder, TEST, "test")
    assert after.train.features.dtype == np.float32 and after.train.features.dtype.isnative
    assert np.allclose(after.train.features, before.train.features, rtol=1e-3, atol=1e-3)
    told = [f for f in after.findings if f.code == "float-size"]
    assert len(told) == (kind != ">f4") and all("train.npy" in f.where for f in told)


def test_sizes_are_told_by_range(root: Path) -> None:
    found = [f for f in features.read(root / "sk_feats/shift_5_r", TEST, "test").findings if f.code == "clip-count"]
    assert len(found) == 3 and "275 clips; officially 36,390 to 36,758" in found[0].message
    for counts in ((36_758, 1_368, 16_487), (36_600, 1_360, 16_474)):
        rows = [features.Rows("x", np.zeros((n, 1), np.float32), np.zeros(n, np.int64)) for n in counts]
        assert not features._size_findings(TEST, "test", rows)
    assert features.usual_sizes(splits.published(120, 10, "val"), "val") == (42_576, 4_824, 3_240)
    assert features.usual_sizes(splits.published(120, 10, "val", truncated=False), "val") is None
    assert features.usual_sizes(splits.split_of(10, [1, 2, 3]), "test") is None


def test_sizes_quoted_from_the_official_files_are_in_range() -> None:
    quoted = {(60, 5): (31_216, 1_367, 2_000), (60, 12): (None, 3_284, 1_440), (120, 10): (None, 4_821, 3_240)}
    for task, counts in quoted.items():
        for count, usual in zip(counts, features.USUAL[task]["val"], strict=True):
            assert count is None or features.LEAST * usual <= count <= usual


def test_clips_on_both_sides_and_empty_classes_are_told(root: Path) -> None:
    folder = root / "sk_feats/shift_5_r"
    train = np.load(folder / "train.npy")
    change("gtest.npy", lambda x: np.concatenate([train[5:6], x[1:]]))(folder)
    change("z_label.npy", lambda x: np.where(x == 19, 26, x))(folder)
    found = {f.code: f for f in features.read(folder, TEST, "test").findings}
    told = found["clip-in-train"].message
    assert told.startswith("1 clips are also in train, duplicates in the data") and told.endswith(": row 0")
    assert "class 19" in found["class-empty"].message


@pytest.mark.parametrize(("phase", "file"), [("test", "gtest_out.npy"), ("val", "ztest_out.npy"), ("val", "val_out.npy")])
def test_probabilities_in_place_of_logits_are_told(root: Path, phase: splits.Phase, file: str) -> None:
    folder = root / "sk_feats" / features.folder_name(5, phase)
    split = splits.published(60, 5, phase)
    assert not [f for f in features.read(folder, split, phase).findings if f.code == "logits-probabilities"]
    change(file, lambda x: (np.exp(x - x.max(1)[:, None]) / np.exp(x - x.max(1)[:, None]).sum(1)[:, None]).astype("f4"))(folder)
    found = [f for f in features.read(folder, split, phase).findings if f.code == "logits-probabilities"]
    assert len(found) == 1 and file in found[0].where and found[0].severity == WARNING


@pytest.mark.parametrize(
    ("phase", "file", "labels"), [("test", "gtest_out.npy", "g_label.npy"), ("val", "ztest_out.npy", "z_label.npy")]
)
def test_a_backbone_that_knows_unseen_classes_is_told(root: Path, phase: splits.Phase, file: str, labels: str) -> None:
    folder, split = root / "sk_feats" / features.folder_name(5, phase), splits.published(60, 5, phase)
    truth = np.load(folder / labels)

    def saw(*, constant: bool) -> list[str]:
        named = np.full_like(truth, split.unseen[0]) if constant else truth
        change(file, lambda x: 9 * np.eye(60, dtype=np.float32)[named] - 1)(folder)
        return [f.severity for f in features.read(folder, split, phase).findings if f.code == "backbone-saw"]

    assert saw(constant=False) == [ERROR]
    assert not saw(constant=True), "a network that always names one class knows nothing"


def test_phases_of_other_backbones_are_refused(root: Path) -> None:
    folder = root / "sk_feats/shift_val_5_r"
    test, val = features.read(root / "sk_feats/shift_5_r", TEST, "test"), features.read(folder, VAL, "val")
    require_one_world(test, val)
    for name in ("train.npy", "ztest.npy", "val.npy"):
        change(name, lambda x: x[:, :20])(folder)
    with pytest.raises(DataError, match=r"64 wide, the validation's 20(.|\n)*shift_5_r(.|\n)*shift_val_5_r"):
        require_one_world(test, features.read(folder, VAL, "val"))


@pytest.mark.parametrize("file", ["train.npy", "val.npy", "ztest.npy"])
def test_unseen_clips_of_the_test_in_validation_are_refused(root: Path, file: str) -> None:
    folder = root / "sk_feats/shift_val_5_r"
    test = features.read(root / "sk_feats/shift_5_r", TEST, "test")
    change(file, lambda x: np.concatenate([x[:3], test.unseen.rows.features[4:6], x[5:]]))(folder)
    with pytest.raises(DataError, match=rf"2 clips of the test's unseen(.|\n)*{file}: rows 3, 4"):
        require_one_world(test, features.read(folder, VAL, "val"))


def test_written_and_read_back(root: Path, tmp_path: Path) -> None:
    for phase, split in (("test", TEST), ("val", VAL)):
        known = features.read(root / "sk_feats" / features.folder_name(5, phase), split, phase)  # type: ignore[arg-type]
        features.write(tmp_path / f"new/{phase}", known)
        back = features.read(tmp_path / f"new/{phase}", split, phase)  # type: ignore[arg-type]
        assert np.array_equal(back.rest.logits, known.rest.logits)  # type: ignore[arg-type]
        assert np.array_equal(back.unseen.rows.labels, known.unseen.rows.labels)
        assert (back.unseen.logits is None) == (phase == "test")
        with pytest.raises(WriteError, match="left alone"):
            features.write(tmp_path / f"new/{phase}", known)


def test_unsound_features_leave_nothing_behind(root: Path, tmp_path: Path) -> None:
    known = features.read(root / "sk_feats/shift_5_r", TEST, "test")
    leak = replace(known, train=replace(known.train, labels=np.full_like(known.train.labels, 10)))
    for wrong in (leak, replace(known, rest=replace(known.rest, logits=None))):
        with pytest.raises(DataError):
            features.write(tmp_path / "new", wrong)
        assert not (tmp_path / "new").exists() and not (tmp_path / ".new.partial").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from engine.zeroshot import arrays, features
from shared_data import zeroshot_splits as splits
known = features.read(Path(sys.argv[1]), splits.published(60, 5), "test")
write, left = features.write_array, 3
def counted(path, values):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, values)
features.write_array = counted
features.write(Path(sys.argv[2]), known)
"""


def test_a_killed_writer_leaves_no_folder_and_the_next_one_clears_up(root: Path, tmp_path: Path) -> None:
    source, target = root / "sk_feats/shift_5_r", tmp_path / "new"
    command = [sys.executable, "-c", KILLED, str(source), str(target)]
    here = Path(__file__).parents[3]
    ended = subprocess.run(command, check=False, cwd=here, env={**os.environ, "PYTHONPATH": str(here)})
    assert ended.returncode == -signal.SIGKILL
    assert not target.exists() and (tmp_path / ".new.partial").is_dir()
    features.write(target, features.read(source, TEST, "test"))
    assert target.is_dir() and not (tmp_path / ".new.partial").exists()


def test_text_modes(root: Path) -> None:
    folder = root / "text_feats/ViT-B/16"
    parts = [np.load(folder / f"{kind}_60.npy") for kind in ("lb", "ad", "md")]
    joined = text_rows.read(folder, "lb_ad_md", 60)
    whole = np.concatenate(parts, axis=1)
    assert np.allclose(joined.rows, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6) and not joined.findings
    assert {mode: text_rows.read(folder, mode, 60).rows.shape[1] // 48 for mode in text_rows.MODES} == {
        "lb": 1, "ad": 1, "md": 1, "ad_md": 2, "lb_ad_md": 3,
    }  # fmt: skip
    with pytest.raises(UsageError, match="lb_ad_md"):
        text_rows.read(folder, "lb_md", 60)


BAD_TEXT: dict[str, tuple[Callable[[Path], None], type[LabError], str]] = {
    "missing": (lambda f: [(f / n).unlink() for n in ("ad_60.npy", "md_60.npy")], MissingInputError, r"ad_60\.npy, md_60\.npy"),
    "too few classes": (change("ad_60.npy", lambda x: x[:55]), DataError, r"55 classes(.|\n)*ad_60\.npy(.|\n)*\(60, Dt\)"),
    "a NaN": (change("md_60.npy", put(np.nan, 11, 2)), DataError, r"md_60\.npy: row 11"),
    "a row of zeros": (change("md_60.npy", lambda x: x * (np.arange(60) != 8)[:, None]), DataError, r"md_60\.npy: row 8"),
    "another width": (change("ad_60.npy", lambda x: x[:, :10]), DataError, r"text 10 wide(.|\n)*ad_60\.npy(.|\n)*48, as lb_60"),
    "no table": (change("md_60.npy", lambda x: x[0]), DataError, r"shape \(48,\)(.|\n)*md_60"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "kind", "message"), BAD_TEXT.values(), ids=BAD_TEXT)
def test_bad_text_is_refused(root: Path, spoil: Callable[[Path], None], kind: type[LabError], message: str) -> None:
    folder = root / "text_feats/ViT-B/16"
    spoil(folder)
    with pytest.raises(kind, match=message):
        text_rows.read(folder, "lb_ad_md", 60)


def test_doubtful_text_is_told(root: Path) -> None:
    folder = root / "text_feats/ViT-B/16"
    change("ad_60.npy", lambda x: x / 10)(folder)
    for kind in ("ad", "md"):
        change(f"{kind}_60.npy", lambda x: np.concatenate([x[:7], x[3:4], x[8:]]))(folder)
    found = {f.code: f.message for f in text_rows.read(folder, "ad_md", 60).findings}
    assert "classes 3, 7 have the same text" in found["text-same"] and "ad_60.npy 1, md_60.npy 10" in found["text-length"]


def test_the_same_world_gives_the_same_files(made: Path, tmp_path: Path) -> None:
    folders.source(tmp_path)
    names = sorted(file.relative_to(made) for file in made.rglob("*.npy"))
    assert len(names) == 7 + 8 + 3
    assert all((made / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)
    world = synthetic.world(classes=60, seed=0)
    test = synthetic_folder.made_up(world, folders.plan(), "test", 5)
    of_unseen = np.isin(test.rest.rows.labels, TEST.unseen)
    assert np.array_equal(test.rest.rows.features[of_unseen], test.unseen.rows.features)
