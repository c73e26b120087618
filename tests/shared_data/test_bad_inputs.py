"""Variants of the kinds of `test_corpus`: each is refused with key, row and reason, or accepted as documented."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared_data.check import check
from shared_data.datasets import open_data
from shared_data.errors import DataError, LabError
from shared_data.formats.options import ReadOptions
from shared_data.store import prepare

ROOT = Path(__file__).resolve().parents[2]


def refused(file: Path, *words: str, **options) -> DataError:
    """`open_data` raises a `DataError` whose message holds the file and all `words`."""
    with pytest.raises(DataError) as caught:
        open_data(file, **options)
    assert caught.value.exit_code == 65
    for word in (str(file), *words):
        assert word in str(caught.value), f"{word!r} is not in:\n{caught.value}"
    return caught.value


# --- values of one array changed: (key, what to do, words of the message) -----------------------------------------------


def row_set(n: int, value) -> Callable[[np.ndarray], np.ndarray]:
    def change(y: np.ndarray) -> np.ndarray:
        y[n] = value
        return y

    return change


def one_hot_set(n: int, column: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(y: np.ndarray) -> np.ndarray:
        y[n, column] = value
        return y

    return change


CHANGES = {
    "float64 beyond float32": (
        "x_train",
        lambda x: one_hot_set(1, 0, 1e300)(x.astype(np.float64)),
        ("infinite", "row 1"),
    ),
    "label NaN": ("y_train", one_hot_set(3, 2, np.nan), ("y_train", "NaN", "row 3")),
    "negative integer": ("y_train", lambda y: y.argmax(-1) - 1, ("y_train", "negative")),
    "fractional integers": ("y_train", lambda y: y.argmax(-1) + 0.5, ("y_train", "whole")),
    "huge integer": ("y_train", lambda y: row_set(0, 2**60)(y.argmax(-1)), ("y_train", "row 0")),
    "more labels": ("y_test", lambda y: np.vstack([y, y]), ("40 labels for 20 clips", "y_test")),
    "other class count": ("y_test", lambda y: np.hstack([y, y * 0]), ("y_train has 5", "y_test has 10")),
    "151 columns": ("x_train", lambda x: np.dstack([x, x[..., :1]]), ("151", "differ")),
    "two axes": ("x_train", lambda x: x[:, 0], ("(40, 150)",)),
    "text labels": ("y_train", lambda y: y.astype(str), ("y_train", "<U")),
    "complex values": ("x_train", lambda x: x.astype(complex), ("x_train", "c16")),
    "one label column": ("y_train", lambda y: y[:, :1], ("y_train", "(40, 1)")),
    "empty split": ("x_test", lambda x: x[:0], ("20 labels for 0 clips", "y_test")),
    "no frames": ("x_train", lambda x: x[:, :0], ("frames",)),
}


@pytest.mark.parametrize("deflated", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("case", CHANGES)
def test_changed_array_is_refused(case, deflated, arrays, save):
    key, change, words = CHANGES[case]
    arrays[key] = change(arrays[key])
    file = save(arrays, deflated=deflated)
    refused(file, *words)
    with pytest.raises(DataError):
        prepare(file, file.with_name("store.h5"))
    assert not file.with_name("store.h5").exists() and not list(file.parent.glob(".*partial*"))


def test_label_outside_the_classes_asked_for(arrays, save):
    for key in ("y_train", "y_test"):
        arrays[key] = arrays[key].argmax(-1)
    refused(save(arrays), "outside the 4 classes", "largest: 4", options=ReadOptions(num_classes=4))


def test_61_columns_without_a_class_count_are_a_warning(arrays, save):
    for key in ("y_train", "y_test"):
        arrays[key] = np.pad(arrays[key], ((0, 0), (0, 56)))
    assert "label-width" in {finding.code for finding in open_data(save(arrays)).findings}


def test_every_error_is_in_the_report_with_its_rows(arrays, save):
    arrays["x_train"][3, 0, 0] = np.nan
    arrays["x_train"][6] = 0
    arrays["y_train"][[2, 8]] = 0
    report = check(save(arrays))
    assert not report.ok
    found = {finding.code: finding.rows for finding in report.findings if finding.severity == "error"}
    assert found == {"clip-nan": (3,), "clip-empty": (6,), "label-empty": (2, 8)}
    told = json.loads(json.dumps(report.as_dict()))
    assert told["ok"] is False and told["splits"]["train"]["clips"] == 40
    with pytest.raises(DataError, match="rows 2, 8"):
        report.raise_if_bad()


def test_bad_clips_can_be_dropped_and_labels_stay_with_their_clips(arrays, save):
    whole = open_data(save(arrays, "whole.npz"))
    arrays["x_train"][3, 0, 0] = np.nan
    arrays["x_train"][6] = 0
    data = open_data(save(arrays), options=ReadOptions(on_bad="drop"))
    good = np.delete(np.arange(40), [3, 6])
    assert data.train.ids.tolist() == [f"train_{n}" for n in good]
    np.testing.assert_array_equal(data.train.labels, whole.train.labels[good])
    for new, old in enumerate(good):
        np.testing.assert_array_equal(data.train.clip(new), whole.train.clip(int(old)))
    told = {finding.code: finding for finding in data.findings}
    assert told["clip-nan"].severity == "warning" and told["clip-empty"].rows == (6,)
    store = open_data(prepare(save(arrays), save(arrays).with_name("dropped.h5"), options=ReadOptions(on_bad="drop")))
    assert store.train.ids.tolist() == data.train.ids.tolist()


def test_dropping_everything_is_an_error(arrays, save):
    arrays["x_test"][:] = 0
    refused(save(arrays), "no usable clips", options=ReadOptions(on_bad="drop"))


# --- orders of the 150 numbers ------------------------------------------------------------------------------------------


def test_random_numbers_are_accepted_but_not_confirmed(save):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 16, 150)).astype(np.float32)
    y = np.eye(2)[np.arange(20) % 2]
    data = open_data(save({"x_train": x, "y_train": y, "x_test": x, "y_test": y}))
    assert "layout-unconfirmed" in {finding.code for finding in data.findings if finding.severity == "warning"}


def test_a_copied_second_person_and_swapped_persons_are_reported(arrays, save):
    x = arrays["x_train"].reshape(40, 90, 2, 75)
    x[..., 1, :] = x[..., 0, :]
    x[5, :, 0] = 0
    codes = {f.code: f.rows for f in open_data(save(arrays)).findings if f.where == "train"}
    assert codes["person-order"] == (5,) and len(codes["copied-person"]) == 8


# --- files as a whole ---------------------------------------------------------------------------------------------------


def member(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def lying_header(shape: str, data: bytes = b"\0" * 64, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (53 - (len(text) % 64)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def rewrite(source: Path, target: Path, change: dict[str, bytes], *, deflated: bool = False) -> Path:
    """Copy a zip, replacing or adding members."""
    method = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            if name not in change:
                new.writestr(name, old.read(name))
        for name, content in change.items():
            new.writestr(name, content)
    return target


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("form", ["pickle as member", "pickle labels"])
def test_pickles_are_never_opened(form, synthetic_file, tmp_path):
    sprung, file = tmp_path / "sprung", tmp_path / "data.npz"
    trapped = np.array([Trap(sprung)] * 40, dtype=object)
    if form == "pickle as member":
        rewrite(synthetic_file, file, {"x_train.npy": pickle.dumps(Trap(sprung))})
    else:
        rewrite(synthetic_file, file, {"y_train.npy": member(trapped)})
    refused(file, "pickle")
    with pytest.raises(LabError):
        check(file)
    assert not sprung.exists(), "the file ran code"
    with pytest.raises(FileExistsError):  # the trap itself works
        for _ in range(2):
            pickle.loads(pickle.dumps(Trap(sprung)))


def whole(name: str, content: bytes) -> Callable[[Path, Path], Path]:
    def build(valid: Path, folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def with_members(change: dict[str, bytes], deflated: bool = False) -> Callable[[Path, Path], Path]:
    return lambda valid, folder: rewrite(valid, folder / "data.npz", change, deflated=deflated)


def pickle_folder(valid: Path, folder: Path) -> Path:
    (folder / "d").mkdir()
    return folder / "d"


FILES = {
    "a gzip": (whole("data.npz", b"\x1f\x8b\x08" + b"0" * 20), ("gzip",)),
    "a single npy": (whole("data.npz", member(np.zeros(3))), (".npy array",)),
    "start of a zip only": (whole("data.npz", b"PK\x03\x04" + b"0" * 50), ("truncated",)),
    "header too small": (with_members({"x_train.npy": lying_header("(1, 1, 1)")}), ("4 bytes", "64")),
    "negative shape": (with_members({"x_train.npy": lying_header("(-1, 300, 150)")}), ("impossible shape",)),
    "shape of 10**30": (with_members({"x_train.npy": lying_header("(0, 10**30)")}), ("header",)),
    "shape of bools": (with_members({"x_train.npy": lying_header("(True, 16)")}), ("impossible shape",)),
    "code in the header": (with_members({"x_train.npy": lying_header("__import__('os').getcwd()")}), ("header",)),
    "structured type": (with_members({"x_train.npy": lying_header("(8,)", descr="f4,f4")}), ("element type",)),
    "header only": (with_members({"x_train.npy": b"\x93NUMPY\x01\x00\xff"}), ("cut off",)),
    "huge header": (
        with_members({"x_train.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b" " * 99}),
        ("header claims",),
    ),
    "deep header": (with_members({"x_train.npy": lying_header("(" * 3000 + ")" * 3000)}), ("header",)),
    "empty folder": (pickle_folder, ("fit no layout",)),
}


@pytest.mark.parametrize("case", FILES)
def test_damaged_or_hostile_file_is_refused(case, synthetic_file, tmp_path):
    build, words = FILES[case]
    file = build(synthetic_file, tmp_path)
    refused(file, *words)
    with pytest.raises(LabError):
        check(file)
    with pytest.raises(LabError):
        prepare(file, tmp_path / "store.h5")
    assert not list(tmp_path.glob(".*partial*")) and not (tmp_path / "store.h5").exists()


def test_members_that_lead_outside_are_ignored_and_named(synthetic_file, tmp_path):
    evil = {"../../evil.npy": member(np.zeros(3)), "/etc/x.npy": member(np.zeros(3)), "note.txt": b"hi"}
    data = open_data(rewrite(synthetic_file, tmp_path / "data.npz", evil))
    assert len(data.train) == 40
    told = next(finding for finding in data.findings if finding.code == "member-ignored")
    assert told.count == 3 and "evil" in told.message
    assert not list(tmp_path.parent.glob("**/evil*"))


def test_streaming_needs_little_more_than_the_ragged_rows(tmp_path):
    """1200 padded clips (216 MB) of 20 frames each: the peak grows by far less than the file."""
    rng = np.random.default_rng(0)
    x = np.zeros((1200, 300, 150), np.float32)
    x[:, :20, :75] = rng.normal(size=(1200, 20, 75))
    y = np.eye(2)[np.arange(1200) % 2]
    file = tmp_path / "data.npz"
    np.savez(file, x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    program = """
        import resource, sys
        from shared_data.datasets import open_data
        import shared_data.store as store
        from pathlib import Path
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        data = open_data(sys.argv[1])
        assert len(data.train) == 1200
        store.prepare(Path(sys.argv[1]), Path(sys.argv[2]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(file), str(tmp_path / "s.h5")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    unit = 1024 if sys.platform != "darwin" else 1
    assert int(ran.stdout) * unit < 110e6, "the file is 216 MB, its rows 7 MB"


# --- NW-UCLA ------------------------------------------------------------------------------------------------------------

GOOD = json.dumps({"skeletons": np.ones((3, 20, 3)).tolist()})
CLIPS = {
    "19 joints": (json.dumps({"skeletons": np.ones((3, 19, 3)).tolist()}), "(3, 19, 3)"),
    "no frames": (json.dumps({"skeletons": []}), "shape"),
    "ragged": ('{"skeletons": [[[1, 2, 3]], [[1, 2]]]}', "unequal"),
    "text": ('{"skeletons": "abc"}', "numbers"),
    "no key": ('{"frames": []}', "missing key skeletons, found: frames"),
    "a list": ("[]", "shape"),
    "cut off": (GOOD[:-20], "not valid JSON"),
    "deep": ("[" * 200_000, "not valid JSON"),
    "NaN": (GOOD.replace("1.0", "NaN", 1), "NaN"),
    "huge number": (GOOD.replace("1.0", "1" * 400, 1), "numbers"),
    "not utf-8": ("\udcff", "not valid JSON"),
}


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("case", CLIPS)
def test_malformed_nw_ucla_clip_is_named(case, form, tmp_path):
    text, word = CLIPS[case]
    files = {"a01_s01_e00_v01": GOOD, "a02_s01_e00_v01": text, "a01_s01_e00_v03": GOOD}
    path = tmp_path / "set"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(f"{name}.json", content.encode("utf-8", "surrogateescape"))
    else:
        path.mkdir()
        for name, content in files.items():
            (path / f"{name}.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    refused(path, word, "a02_s01_e00_v01")


def test_nw_ucla_action_outside_the_classes_and_doubled_clips(tmp_path):
    for name in ("a07_s01_e00_v01", "a01_s01_e00_v01", "a01_s01_e00_v03"):
        (tmp_path / f"{name}.json").write_text(GOOD)
    refused(tmp_path, "outside the ten classes", "a07_s01_e00_v01")
    (tmp_path / "a07_s01_e00_v01.json").unlink()
    assert len(open_data(tmp_path).train) == 1
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "a01_s01_e00_v01.json").write_text(GOOD)
    refused(tmp_path, "twice")


# --- text that is none, and sizes that lie (found by trying to break it) ---------------------------------------------------


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        *((key, bad) for key in ("about", "class_names") for bad in ("lone surrogate", "no such character")),
        ("class_names", "far too long"),  # a description that is too long is not read at all
    ],
)
def test_text_that_cannot_be_written_down_is_refused(key, bad, arrays, save):
    text = {"lone surrogate": "\ud800", "far too long": "x" * 20_000}.get(bad, "x")
    values = np.array(text if key == "about" else [text, "b", "c", "d", "e"])
    if bad == "no such character":
        values.reshape(-1).view("u4")[0] = 0x7FFFFFFF
    arrays[key] = values
    file = save(arrays)
    for read in (open_data, check, lambda path: prepare(path, path.with_name("store.h5"))):
        with pytest.raises(DataError):
            read(file)


def test_labels_without_clips_are_not_unpacked(arrays, save):
    arrays["y_train"] = np.zeros(5_000, np.int64)
    refused(save(arrays), "5,000 labels for 40 clips")


def test_a_number_of_classes_that_nothing_has():
    for number in (0, -1, 10**9):
        with pytest.raises(LabError, match="num-classes"):
            ReadOptions(num_classes=number)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for layout in ("auto", "kaggle", "store"):
        with pytest.raises(LabError, match="neither a file nor a folder"):
            open_data(tmp_path / "pipe.npz", layout=layout)
