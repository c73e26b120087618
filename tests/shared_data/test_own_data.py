"""Own recordings, one file per clip: values as written, labels as listed, and a message for everything else."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shared_data.check import check
from shared_data.datasets import open_data
from shared_data.errors import DataError, LabError, UsageError
from shared_data.formats.clip_files import clip_of, parse, skeleton_of
from shared_data.formats.label_table import read_description, read_labels
from shared_data.formats.options import ReadOptions
from shared_data.formats.reading import LAYOUTS, detect
from shared_data.skeletons import COCO17, KINETICS18, NTU25, SKELETONS, UCLA20

RNG = np.random.default_rng(5)


def clip(frames: int = 6, people: int = 1, joints: int = 25) -> np.ndarray:
    """(T, M, V, 3) with at most four decimals, so that text holds it exactly."""
    return RNG.integers(-20_000, 20_000, (frames, people, joints, 3)) / 10_000


def csv_text(clip: np.ndarray, delimiter: str = ",") -> str:
    return "\n".join(delimiter.join(map(str, row)) for row in clip.reshape(len(clip), -1).tolist())


class Recordings:
    """A folder with clips and the lines of its labels.csv, written by `write`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines, self.header = folder, [], "file,label,split"
        self.clips: dict[str, np.ndarray] = {}
        folder.mkdir(parents=True)

    def add(self, name: str, line: str, clip: np.ndarray) -> None:
        self.clips[name] = clip
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        if name.endswith(".csv"):
            file.write_text(csv_text(clip))
        elif name.endswith(".npy"):
            np.save(file, clip)
        else:
            file.write_text(json.dumps({"skeletons": clip.tolist()}))
        self.lines.append(f"{name},{line}")

    def write(self) -> Path:
        (self.folder / "labels.csv").write_text("\n".join([self.header, *self.lines]) + "\n")
        return self.folder


@pytest.fixture
def own(tmp_path) -> Recordings:
    """Four clips of two classes, two train and two test, of three kinds."""
    made = Recordings(tmp_path / "mine")
    made.add("wave_1.csv", "wave,train", clip(5))
    made.add("clap_1.npy", "clap,train", clip(7, 2))
    made.add("more/wave_2.json", "wave,test", clip(4, 2))
    made.add("clap_2.csv", "clap,test", clip(1))
    return made


def test_values_come_back_as_they_were_written(own):
    data = open_data(own.write())
    assert (data.layout, data.skeleton.name, data.num_classes) == ("per_clip", "ntu25", 2)
    assert data.class_names == ("clap", "wave") and "labels.csv and 4 clip files" in data.reason
    assert data.train.ids.tolist() == ["clap_1.npy", "wave_1.csv"] and data.train.labels.tolist() == [0, 1]
    assert data.test.ids.tolist() == ["clap_2.csv", "more/wave_2.json"] and data.test.labels.tolist() == [0, 1]
    for part in (data.train, data.test):
        assert part.max_people == 2 and part.rows.dtype == np.float32
        for n, name in enumerate(part.ids):
            np.testing.assert_array_equal(part.clip(n), own.clips[name].astype(np.float32))
    assert data.train.extent.tolist() == [7, 5] and data.train.people.tolist() == [2, 1]


def test_a_zip_is_read_like_its_folder(own, tmp_path):
    folder = own.write()
    archive = tmp_path / "mine.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*.*"):
            file.write(path, f"mine/{path.relative_to(folder).as_posix()}")
        file.writestr("__MACOSX/mine/._wave_1.csv", b"\x00\x05")
    data, same = open_data(archive), open_data(folder)
    np.testing.assert_array_equal(data.train.rows, same.train.rows)
    assert data.test.ids.tolist() == same.test.ids.tolist() and data.reason.startswith("a zip")


def test_a_frame_without_a_person_and_an_absent_person_are_kept(own):
    walk = clip(6, 2)
    walk[2:4] = 0
    walk[:, 1] = 0
    own.add("walk.npy", "wave,train", walk)
    data = open_data(own.write())
    n = data.train.ids.tolist().index("walk.npy")
    assert (data.train.extent[n], data.train.people[n]) == (6, 1)
    np.testing.assert_array_equal(data.train.clip(n)[:, 0], walk[:, 0].astype(np.float32))
    assert "gaps" in {finding.code for finding in data.findings}


def test_joints_that_were_not_seen_are_refused_or_dropped(own):
    for name in ("a.csv", "b.json", "c.npy"):
        broken = clip()
        broken[2, 0, 7] = np.nan
        own.add(name, "wave,train", broken)
    (own.folder / "b.json").write_text(json.dumps(own.clips["b.json"].tolist()).replace("NaN", "null"))
    folder = own.write()
    with pytest.raises(DataError, match=r"clips holding NaN.*a\.csv, b\.json, c\.npy"):
        open_data(folder)
    assert open_data(folder, options=ReadOptions(on_bad="drop")).train.ids.tolist() == ["clap_1.npy", "wave_1.csv"]


def test_millimetres_are_said_and_divided(own):
    for name in own.clips:
        own.clips[name] = np.round(own.clips[name] * 1000)
    np.save(own.folder / "clap_1.npy", own.clips["clap_1.npy"].astype(np.int16))
    (own.folder / "wave_1.csv").write_text(csv_text(own.clips["wave_1.csv"]))
    (own.folder / "dataset.toml").write_text('units = "mm"\nskeleton = "pku25"\nname = "Mine"\nabout = "two moves"')
    data = open_data(own.write())
    for n, name in enumerate(data.train.ids):
        np.testing.assert_array_equal(data.train.clip(n), (own.clips[name] / 1000).astype(np.float32))
    codes = {finding.code for finding in data.findings}
    assert "unit-converted" in codes and "skeleton-inferred" not in codes and data.skeleton is NTU25
    assert open_data(own.folder).skeleton.name == "ntu25"


@pytest.mark.parametrize("text", ['classes = ["wave", "walk", "clap"]', "wrong"])
def test_classes_may_be_listed(own, text):
    if text == "wrong":
        (own.folder / "dataset.yaml").write_text("classes:\n- wave\n- walk\n")
        with pytest.raises(DataError, match=r"unknown class 'clap'(?s:.*)labels\.csv, line 3"):
            open_data(own.write())
        return
    (own.folder / "dataset.toml").write_text(text)
    own.add("walk.csv", "1,train", clip())  # a position in the list
    data = open_data(own.write())
    assert data.class_names == ("wave", "walk", "clap")
    assert dict(zip(data.train.ids.tolist(), data.train.labels.tolist(), strict=True)) == {
        "clap_1.npy": 2, "walk.csv": 1, "wave_1.csv": 0,
    }  # fmt: skip
    with pytest.raises(DataError, match="5 classes were asked for"):
        open_data(own.folder, options=ReadOptions(num_classes=5))


def test_labels_may_be_numbers(own):
    own.lines = [f"{name},{4 if 'wave' in name else 0},{split}" for name, _, split in (line.split(",") for line in own.lines)]
    data = open_data(own.write())
    assert data.num_classes == 5 and data.class_names[4] == "class 4" and data.train.labels.tolist() == [0, 4]
    assert open_data(own.folder, options=ReadOptions(num_classes=7)).num_classes == 7
    with pytest.raises(DataError, match="outside the 3 classes"):
        open_data(own.folder, options=ReadOptions(num_classes=3))


def many(own: Recordings, header: str, line) -> Path:
    """20 clips of two classes and five subjects."""
    own = Recordings(own.folder.parent / "many")
    own.header = header
    for n in range(20):
        own.add(f"c{n:02d}.npy", line(n), clip(2))
    return own.write()


def test_subjects_are_held_out_together(own):
    folder = many(own, "file,label,subject", lambda n: f"{n % 2},anna{n % 5}")
    data = open_data(folder)
    subjects = {f"c{n:02d}.npy": n % 5 for n in range(20)}
    train, test = ({subjects[name] for name in part.ids} for part in (data.train, data.test))
    assert len(test) == 1 and len(train) == 4 and not train & test and len(data.test) == 4
    assert [subjects[name] for name in data.train.ids] == sorted(subjects[name] for name in data.train.ids), "by subject"
    assert "split-by-subject" in {finding.code for finding in data.findings}
    assert data.test.ids.tolist() == open_data(folder).test.ids.tolist()


def test_one_subject_cannot_be_divided(own):
    with pytest.raises(DataError, match="all clips are of one subject"):
        open_data(many(own, "file,label,subject", lambda n: f"{n % 2},anna"))


def test_without_split_and_subject_a_fifth_of_each_class_is_held_out_with_a_warning(own):
    data = open_data(many(own, "file,label", lambda n: "wave" if n < 5 else "clap"))
    assert np.bincount(data.test.labels).tolist() == [3, 1] and np.bincount(data.train.labels).tolist() == [12, 4]
    warning = next(finding for finding in data.findings if finding.code == "split-by-hash")
    assert warning.severity == "warning" and warning.count == 4 and "same people" in warning.next_step
    assert data.test.ids.tolist()[-1:] == sorted(data.test.ids.tolist())[-1:]


def test_a_subject_in_both_splits_is_pointed_out(own):
    folder = many(own, "file;label;split;subject;camera", lambda n: f"{n % 2},{'train' if n < 10 else 'test'},s{n % 3},1")
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace(",", ";"))
    codes = {finding.code: finding for finding in open_data(folder).findings}
    assert codes["subject-in-both"].count == 3 and "camera" in codes["column-extra"].message


def assert_refused(folder: Path, *said: str) -> None:
    with pytest.raises(DataError) as caught:
        open_data(folder)
    for text in said:
        assert text in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("wave_9.csv,wave,train", ("no file wave_9.csv; did you mean wave_1.csv?", "labels.csv, line 6")),
        ("../labels.csv,wave,train", ("no file ../labels.csv", "line 6")),
        ("wave_1.csv,wave,test", ("wave_1.csv is listed twice", "lines 2 and 6")),
        ("./wave_1.csv,wave,test", ("wave_1.csv is listed twice", "lines 2 and 6")),
        ("labels.csv,wave,train", ("labels.csv is no clip", "line 6")),
        ("new.csv,wave", ("2 values", "line 6", "expected: 3")),
        ("new.csv,,train", ("no label", "line 6")),
        ("new.csv,wave,trian", ("unknown split 'trian'; did you mean train?", "line 6")),
        ("new.csv,7,train", ("label '7', but line 2 has 'wave'", "line 6")),
    ],
)
def test_a_wrong_line_is_named(own, line, said):
    (own.folder / "new.csv").write_text(csv_text(clip()))
    own.lines.append(line)
    assert_refused(own.write(), *said)


@pytest.mark.parametrize("label", ["-1", "10000", "99999999999999999999"])
def test_class_numbers_out_of_range_are_named(own, label):
    own.lines = [f"{line.split(',')[0]},{n},train" for n, line in enumerate(own.lines)]
    own.lines[2] = f"more/wave_2.json,{label},test"
    assert_refused(own.write(), f"{label} is no class number", "labels.csv, line 4")


@pytest.mark.parametrize("header", ["", "name,label", "file,label,label", "wave_1.csv,wave,train"])
def test_the_header_must_name_file_and_label(own, header):
    own.header = header
    assert_refused(own.write(), "labels.csv, line 1", "file,label")


def test_a_clip_without_a_line_is_an_error_of_the_report(own):
    (own.folder / "forgotten.csv").write_text(csv_text(clip()))
    (own.folder / "notes.txt").write_text("no clip")
    folder = own.write()
    report = check(folder)
    assert not report.ok
    (found,) = [finding for finding in report.findings if finding.severity == "error"]
    assert found.code == "clip-unlabelled" and "1 clip files have no line in labels.csv: forgotten.csv" in found.message


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: [*rows[:2], rows[2][:-1], *rows[3:]], ("74 numbers", "line 3", "75, as in line 1")),
        (lambda rows: [*rows[:3], ["x", *rows[3][1:]]], ("'x' is not a number", "line 4, column 1")),
        (lambda rows: [["1.0", "1,5x", *rows[0][2:]], *rows[1:]], ("'5x' is not a number", "line 1, column 3")),
        (lambda rows: [["x", *rows[0][1:]], *rows[1:]], ("'x' is not a number", "line 1, column 1")),
        (lambda rows: [*rows[:1], [], *rows[1:]], ("an empty line", "line 2")),
        (lambda rows: [[str(n), *row] for n, row in enumerate(rows)], ("76 numbers per frame", "frame number")),
        (lambda rows: [[f"j{n}" for n in range(75)]], ("no frames",)),
        (lambda rows: [row[:60] for row in rows], ("60 numbers per frame", "75 per person")),
        (lambda rows: [["1_0", *row[1:]] for row in rows], ("'1_0' is not a number", "line 1, column 1")),
    ],
)
def test_a_spoiled_csv_is_named_with_its_line(own, spoil, said):
    (own.folder / "dataset.toml").write_text('skeleton = "ntu25"')
    rows = [list(map(str, row)) for row in clip(5).reshape(5, -1).tolist()]
    (own.folder / "wave_1.csv").write_text("\n".join(",".join(row) for row in spoil(rows)))
    with pytest.raises(DataError) as caught:
        open_data(own.write())
    message = str(caught.value)
    assert "wave_1.csv" in message
    for text in said:
        assert text in message


@pytest.mark.parametrize(
    ("text", "delimiter"), [("a;b;c", ";"), ("a\tb\tc", "\t"), ("a b c", " "), (None, ","), (None, " "), (None, ";")]
)
def test_headers_and_delimiters(text, delimiter):
    made = clip(3, 2)
    content = csv_text(made, delimiter)
    if text:
        content = f"{text}\n{content}\n\n"
    values = parse("c.csv", b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode(), "here")
    assert skeleton_of(values, "here") is NTU25
    np.testing.assert_array_equal(clip_of(values, NTU25, "here"), made)


@pytest.mark.parametrize("missing", ["NA", "", " ", "n/a", "None", '""', "-", "nan"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_first_line_of_missing_values_is_a_frame(missing, delimiter):
    made = clip(3)
    content = delimiter.join([missing] * 75) + "\n" + csv_text(made, delimiter)
    if missing == "nan":
        assert np.isnan(parse("c.csv", content.encode(), "here")[0]).all()
        return
    with pytest.raises(DataError, match=r"is not a number(?s:.)*line 1, column 1|an empty line(?s:.)*line 1"):
        parse("c.csv", content.encode(), "here")


def test_headers_that_are_left_out_are_said(own):
    for name, header in (("wave_1.csv", "x0,y0,z0"), ("clap_2.csv", "NA,frame,")):
        file = own.folder / name
        file.write_text(header + "\n" + file.read_text())
    data = open_data(own.write())
    (found,) = [finding for finding in data.findings if finding.code == "header-skipped"]
    assert (found.severity, found.count) == ("info", 2) and "2 CSV files" in found.message and "NA,frame," in found.message
    np.testing.assert_array_equal(data.train.clip(1), own.clips["wave_1.csv"].astype(np.float32))


def test_no_header_no_finding(own):
    assert "header-skipped" not in {finding.code for finding in open_data(own.write()).findings}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"," * 10_000_000, "a line of 10,000,000 characters"),
        (b"1,2\n" + b"," * 10_000_000, "a line of 10,000,000 characters"),
        (b"a " * 5_000_000, "a line of 9,999,999 characters"),
        (b"1\n" * 5_000_000, "too many lines"),
        (b"\n" * 5_000_000 + b"1", "too many lines"),
    ],
    ids=["commas", "commas below", "words", "lines", "empty lines"],
)
def test_large_files_of_next_to_nothing_are_refused_without_looking_at_every_cell(content, said, monkeypatch):
    """Counted, not timed: one call for each of some 10 million cells took 20 seconds for a file of 60 MB."""
    from shared_data.formats import clip_files

    calls = 0
    all_numbers = clip_files._all_numbers

    def counted(cells):
        nonlocal calls
        calls += 1
        return all_numbers(cells)

    monkeypatch.setattr(clip_files, "_all_numbers", counted)
    with pytest.raises(DataError, match=said):
        parse("c.csv", content, "here")
    assert calls < 100


def test_the_longest_clip_of_the_most_people_is_read():
    frames = np.zeros((20_000, 8 * 25 * 3))
    frames[-1, -1] = 1
    lines = [",".join(["x"] * 600), *[",".join(["0"] * 600)] * 19_999, ",".join(["0"] * 599 + ["1"])]
    values = parse("c.csv", "\n".join(lines).encode() + b"\n\n", "here")
    np.testing.assert_array_equal(values, frames)
    assert clip_of(values, NTU25, "here").shape == (20_000, 8, 25, 3)


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((4, 75), NTU25),
        ((4, 150), NTU25),
        ((4, 60), UCLA20),
        ((4, 54), KINETICS18),
        ((4, 17, 3), COCO17),
        ((4, 2, 20, 3), UCLA20),
    ],
)
def test_the_skeleton_follows_from_the_numbers(shape, found):
    values = np.zeros(shape)
    assert skeleton_of(values, "here") is found
    assert clip_of(values, found, "here").shape[2:] == (found.joints, 3)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((4, 300), "may be ntu25 or ucla20"),
        ((4, 99), "fit no known skeleton"),
        ((4, 76), "frame number"),
        ((4, 33, 3), "fit no known skeleton"),
        ((4, 25, 2), "append 0"),
        ((3, 4, 25, 1), "last axis"),
        ((4,), "fit no known skeleton"),
        ((1, 1, 4, 25, 3), "fit no known skeleton"),
    ],
)
def test_shapes_that_fit_no_or_two_skeletons(shape, said):
    with pytest.raises(DataError, match=said):
        clip_of(np.zeros(shape), skeleton_of(np.zeros(shape), "here"), "here")


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2, 40, 25, 3), "swapaxes"),
        ((0, 25, 3), "0 frames"),
        ((20_001, 25, 3), "20001 frames"),
        ((5, 0, 25, 3), "at most 8 people"),
    ],
)
def test_frames_come_first_and_are_some(shape, said):
    with pytest.raises(DataError, match=said):
        clip_of(np.zeros(shape), NTU25, "here")


def test_objects_and_lies_in_npy_are_refused(own):
    file = own.folder / "clap_1.npy"
    np.save(file, np.array([{"a": 1}]), allow_pickle=True)
    assert_refused(own.write(), "Python objects", "clap_1.npy")
    np.save(file, np.zeros((5, 25, 3)))
    file.write_bytes(file.read_bytes()[:-8])
    assert_refused(own.folder, "the header declares shape (5, 25, 3)", "clap_1.npy")
    np.save(file, np.array(["1"]))
    assert_refused(own.folder, "elements of type <U1", "clap_1.npy")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ('{"pose": []}', "an object without the key skeletons or keypoints: pose"),
        ("[[[1, 2, 3], [1, 2, 3]], [[1, 2, 3]]]", "frame 1 has shape (1, 3), the first has (2, 3)"),
        ('[[[1, 2, "x"]]]', "frame 0 holds text"),
        ("[" * 5000, "not valid JSON"),
        ("null", "shape ()"),
        ("[1" + "0" * 5000 + "]", "not valid JSON"),
        ('{"skeletons": [], "skeletons": []}', "the key 'skeletons' occurs twice in an object"),
        ('{"skeletons": [], "about": {"a": 1, "a": 2}}', "the key 'a' occurs twice"),
        ('{"skeletons": [], "keypoints": []}', "both keys, skeletons and keypoints"),
        ('[[[1, 2, 3]], [[1, 2, "3"]]]', "frame 1 holds text"),
        ("[[[1, 2, 3]], [[1, true, 3]]]", "frame 1 holds true or false"),
        ("[[[1, 2, 3]], [[1, 2, {}]]]", "frame 1 holds an object"),
        ("[[true, false]]", "frame 0 holds true or false"),
        ('["nan"]', "frame 0 holds text"),
        ("true", "values that are not numbers"),
        ('{"keypoints": "1"}', "values that are not numbers"),
    ],
)
def test_odd_json_is_named(own, text, said):
    (own.folder / "more" / "wave_2.json").write_text(text)
    assert_refused(own.write(), said, "wave_2.json")


def test_keypoints_are_another_name_for_skeletons(own):
    made = own.clips["more/wave_2.json"]
    for content in (made.tolist(), {"keypoints": made.tolist()}):
        (own.folder / "more" / "wave_2.json").write_text(json.dumps(content))
        np.testing.assert_array_equal(open_data(own.write()).test.clip(1), made.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("dataset.toml", 'skeletn = "ntu25"', "unknown key 'skeletn'; did you mean skeleton?"),
        ("dataset.toml", 'skeleton = "ntu26"', "did you mean ntu25"),
        ("dataset.toml", 'units = "feet"', "unknown units 'feet'"),
        ("dataset.toml", "units = 3", "units is of type int"),
        ("dataset.toml", 'classes = ["a", "a "]', "classes is not a list of different names"),
        ("dataset.toml", "classes = [", "cannot be read"),
        ("dataset.yaml", "- a\n- b", "not a list of"),
        ("dataset.yml", "name: !!python/object/apply:os.system ['true']", "cannot be read"),
        ("dataset.yaml", "name: !!timestamp x", "cannot be read"),
        ("dataset.yaml", "name: &a [*a]", "name is of type list"),
        ("dataset.yaml", "name: a\nunits: m\nname: b", "the key 'name' occurs twice"),
        ("dataset.yaml", "name: a\n'name': b", "the key 'name' occurs twice"),
        ("dataset.yaml", "name: [{a: 1, a: 2}]", "the key 'a' occurs twice"),
        ("dataset.yaml", "a: &a {x: 1}\nb: {<<: [*a, *a]}", "a merged mapping"),
        ("dataset.toml", 'name = "a"\nname = "b"', "cannot be read"),
        ("dataset.toml", ".".join("a" * 10) + " = 1", "a key of more than 8 dots"),
        ("dataset.toml", "[" + " . ".join(["a", '"b.c"', "'d'"] * 3 + ["e"]) + "]", "a key of more than 8 dots"),
        ("dataset.toml", "classes = [{" + ".".join("a" * 10) + " = 1}]", "a key of more than 8 dots"),
        ("dataset.toml", ".".join("a" * 300_000) + " = 1", "a file of 600,003 bytes"),
        ("dataset.yaml", "name: " + "a" * (64 << 10), "a file of 65,542 bytes"),
    ],
)
def test_a_wrong_description_is_named(own, name, text, said):
    (own.folder / name).write_text(text)
    assert_refused(own.write(), said, name)


@pytest.mark.parametrize(
    "text",
    [
        'about = "a.b.c.d.e.f.g.h.i.j.k"',
        "about = 'a.b.c.d.e.f.g.h.i.j.k\"'  # a.b.c.d.e.f.g.h.i.j.k",
        'about = """a.b.c.d.e.f\n"a".b.c.d.e.f.g.h.i.j.k"""',
        "about = '''a.b.c.d.e.f\n'a'.b.c.d.e.f.g.h.i.j.k'''",
        'about = "\\"a.b.c.d.e.f.g.h.i.j.k"',
        '# "\nabout = "a.b.c.d.e.f.g.h.i.j.k" # "',
    ],
)
def test_dots_in_text_are_no_keys(text):
    assert "a.b.c.d.e.f" in read_description("dataset.toml", text.encode(), "here").about


def test_a_parser_out_of_memory_is_an_error_about_the_file(monkeypatch):
    from shared_data.formats import label_table

    def full(text):
        raise MemoryError

    monkeypatch.setattr(label_table.tomllib, "loads", full)
    with pytest.raises(DataError, match="cannot be read: MemoryError"):
        read_description("dataset.toml", b"", "here")


def test_merged_yaml_mappings_cannot_grow(own):
    """Each line doubles the one before: 2**40 pairs if anything merged them."""
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 41))]
    (own.folder / "dataset.yaml").write_text("\n".join(lines))
    assert_refused(own.write(), "a merged mapping", "dataset.yaml")


def test_two_tables_or_two_descriptions_are_refused(own):
    folder = own.write()
    (folder / "dataset.toml").write_text("")
    (folder / "dataset.yaml").write_text("")
    assert_refused(folder, "both dataset.toml and dataset.yaml")
    outer = folder.parent / "outer"
    for name in ("a", "b"):
        (outer / name).mkdir(parents=True)
        (outer / name / "labels.csv").write_text("file,label\nx.csv,1\n")
        (outer / name / "x.csv").write_text("1")
    assert_refused(outer, "more than one labels.csv")


def test_options_without_meaning_are_refused(own):
    for options in (ReadOptions(repair=True), ReadOptions(skip_list=Path("list.txt"))):
        with pytest.raises(UsageError, match="means nothing for a file of layout per_clip"):
            open_data(own.write(), options=options)


def test_a_folder_of_clips_alone_is_not_this_layout(own):
    with pytest.raises(DataError):
        detect(own.folder)
    with pytest.raises(DataError, match=r"no labels\.csv"):
        open_data(own.folder, layout="per_clip")
    (own.folder / "labels.csv").write_text("file,label")
    assert detect(own.folder)[0] == "per_clip"


def test_the_store_holds_the_same(own, tmp_path):
    from shared_data.store import prepare

    (own.folder / "dataset.toml").write_text('name = "Mine"')
    folder = own.write()
    prepare(folder, tmp_path / "mine.h5")
    stored, same = open_data(tmp_path / "mine.h5"), open_data(folder)
    np.testing.assert_array_equal(stored.train.rows, same.train.rows)
    assert stored.class_names == ("clap", "wave") and stored.test.ids.tolist() == same.test.ids.tolist()
    assert stored.train.max_people == 2


CELLS = st.sampled_from(["1", "-0.5", "nan", "inf", "1e999", "x", "", " ", "1_0", "0x1", '"', "1,5", "\x00", "é", "٣"])
TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=6).map("\n".join),
    st.lists(st.lists(CELLS, max_size=4).map(";".join), max_size=6).map("\r\n".join),
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(TEXTS)
@example("")
@example("\n\n1,2")
@example("1,2\n3,4\x1c5,6")
def test_any_text_is_read_or_refused(text):
    """Nothing but the house's errors escapes."""
    data = text.encode("utf-8", "surrogatepass")
    for name in ("c.csv", "c.json", "c.npy"):
        with contextlib.suppress(LabError):
            values = parse(name, data, "here")
            clip_of(values, skeleton_of(values, "here"), "here")
    with contextlib.suppress(LabError):
        read_labels(data, "here")
    for name in ("dataset.toml", "dataset.yaml"):
        with contextlib.suppress(LabError):
            read_description(name, data, "here")


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=5), st.sampled_from([",", ";", "\t", " "]))
def test_numbers_survive_as_text(rows, delimiter):
    text = "\n".join(delimiter.join(map(repr, row)) for row in rows)
    np.testing.assert_array_equal(parse("c.csv", text.encode(), "here"), np.array(rows))


DOCS = Path(__file__).resolve().parents[2] / "docs" / "your-data.md"


def test_the_documentation_names_every_layout():
    text = DOCS.read_text()
    assert [name for name in LAYOUTS[1:] if f"\n| `{name}` |" not in text] == []
    assert [name for name in (*SKELETONS, "pku25") if f"`{name}`" not in text] == []


def test_the_example_of_the_documentation_works(tmp_path):
    blocks = dict(re.findall(r"```(\w*)\n((?:file,label|name =).*?)```", DOCS.read_text(), re.DOTALL))
    own = Recordings(tmp_path / "my_clips")
    own.header, *lines = blocks[""].split()
    for line in lines:
        own.add(line.split(",")[0], line.split(",", 1)[1], np.round(clip() * 1000))
    (own.folder / "dataset.toml").write_text(blocks["toml"])
    data = open_data(own.write())
    assert data.class_names == ("wave", "clap") and len(data.train) + len(data.test) == 3
    subject = {line.split(",")[0]: line.split(",")[2] for line in lines}
    assert {subject[name] for name in data.train.ids}.isdisjoint({subject[name] for name in data.test.ids})
    n = data.train.ids.tolist()[0]
    np.testing.assert_array_equal(data.train.clip(0), (own.clips[n] / 1000).astype(np.float32))
