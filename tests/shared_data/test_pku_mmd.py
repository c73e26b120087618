"""PKU-MMD as text files and as LaSA's package: hand-made tiny folders with known answers, and files that must not be trusted."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_data.datasets import open_data
from shared_data.errors import DataError, LabError, MissingInputError, UsageError
from shared_data.findings import ERROR, Finding
from shared_data.formats import pku_mmd
from shared_data.formats.options import ReadOptions
from shared_data.formats.pku_text import parse_frames, parse_intervals, video_name
from shared_data.formats.ragged import nowhere
from shared_data.formats.reading import detect
from shared_data.formats.source import Reading, Source
from shared_data.formats.untrimmed import open_sequences
from shared_data.sequence_loader import SequenceLoader
from shared_data.sequences import boundaries

VIDEOS = ("A01N01-L", "A01N01-M", "A01N02-L", "A02N02-R", "A02N03-M", "A03N04-R")
BY_SUBJECT, BY_VIEW = ReadOptions(split="subject"), ReadOptions(split="view")


def frames_of(number: int, length: int, people: int = 1) -> np.ndarray:
    """(length, 2, 25, 3) whose values say which video, frame and joint they are; exact as text and in float32."""
    frames = np.zeros((length, 2, 25, 3))
    frames[:, :people] = number + np.arange(length)[:, None, None, None] / 1024 + np.arange(25)[:, None] / 32
    return frames


def text_of(frames: np.ndarray) -> str:
    return "\n".join(" ".join(map(str, row)) for row in frames.reshape(len(frames), -1).tolist()) + "\n"


def write(root: Path, name: str, frames: np.ndarray | str, labels: str) -> None:
    for part, text in (("skeleton", frames if isinstance(frames, str) else text_of(frames)), ("label", labels)):
        (root / part).mkdir(parents=True, exist_ok=True)
        (root / part / f"{name}.txt").write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six videos of phase 2 with two intervals each, and a third in the first."""
    root = tmp_path / "pku"
    for n, name in enumerate(VIDEOS):
        more = "51,40,44,1\n" if n == 0 else ""
        write(root, name, frames_of(n + 1, 50, 1 + n % 2), f"{more}{n + 1},5,12,2\n{n + 10},20,30,1\n")
    return root


def read(root: Path, options: ReadOptions = BY_SUBJECT) -> Source:
    return pku_mmd.read(root, Reading(options))


def codes(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.code: finding for finding in findings}


# --- clips --------------------------------------------------------------------------------------------------------------


def test_each_interval_is_a_clip_in_order_of_video_and_start(folder):
    assert detect(folder) == ("pku_mmd", "a folder with 6 videos in skeleton and label files like A01N01-L.txt")
    data = open_data(folder, options=BY_SUBJECT)
    assert (data.layout, data.num_classes, data.skeleton.name) == ("pku_mmd", 51, "ntu25")
    assert data.train.ids.tolist() == [
        "A01N01-L_01_5_12", "A01N01-L_10_20_30", "A01N01-L_51_40_44",
        "A01N01-M_02_5_12", "A01N01-M_11_20_30", "A03N04-R_06_5_12", "A03N04-R_15_20_30",
    ]  # fmt: skip
    assert data.train.labels.tolist() == [0, 9, 50, 1, 10, 5, 14], "class id = action - 1"
    assert data.train.extent.tolist() == [7, 10, 4, 7, 10, 7, 10] and data.train.people.tolist() == [1, 1, 1, 2, 2, 2, 2]
    assert data.test.ids.tolist()[::2] == ["A01N02-L_03_5_12", "A02N02-R_04_5_12", "A02N03-M_05_5_12"]
    np.testing.assert_array_equal(data.train.clip(1), frames_of(1, 50)[20:30, :1].astype(np.float32))
    np.testing.assert_array_equal(data.train.clip(6), frames_of(6, 50, 2)[20:30].astype(np.float32))


def test_the_clips_are_those_of_the_prepared_npz(folder, save):
    """As MAMP and STARS prepare it: 300 frames, zero padded, 51 columns, nothing centred."""
    options = BY_VIEW
    clips = {"train": [], "test": []}
    for n, name in enumerate(VIDEOS):
        video = frames_of(n + 1, 50, 1 + n % 2).reshape(50, 150)
        intervals = [(n, 5, 12), (n + 9, 20, 30)] + [(50, 40, 44)] * (n == 0)
        clips["test" if name[-1] == "L" else "train"] += [(action, video[a:b]) for action, a, b in intervals]
    arrays = {}
    for split, rows in clips.items():
        arrays[f"x_{split}"] = np.stack([np.pad(x, ((0, 300 - len(x)), (0, 0))) for _, x in rows]).astype(np.float32)
        arrays[f"y_{split}"] = np.eye(51)[[action for action, _ in rows]]
    ours, theirs = open_data(folder, options=options), open_data(save(arrays))
    for split in ("train", "test"):
        for name in ("rows", "offset", "extent", "valid", "people", "labels", "max_people", "frames"):
            mine, other = getattr(getattr(ours, split), name), getattr(getattr(theirs, split), name)
            np.testing.assert_array_equal(mine, other, err_msg=f"{split} {name}")


def test_a_zip_is_read_like_the_folder_whatever_its_folders_are_called(folder, tmp_path):
    file = tmp_path / "pku.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, inside in (("skeleton", "Data/PKU_Skeleton_Renew"), ("label", "Label/Train_Label_PKU_final")):
            for text in (folder / part).iterdir():
                archive.write(text, f"{inside}/{text.name}")
    zipped, plain = read(file), read(folder)
    assert detect(file)[0] == "pku_mmd"
    for split in ("train", "test"):
        np.testing.assert_array_equal(zipped.splits[split].clips.rows, plain.splits[split].clips.rows)
        assert zipped.splits[split].clips.ids.tolist() == plain.splits[split].clips.ids.tolist()


def test_clips_are_cut_after_300_frames_and_blank_ones_left_out(folder):
    frames = frames_of(7, 400)
    frames[350:360] = 0
    write(folder, "A04N05-L", frames, "3,10,320,1\n4,350,360,1\n5,0,300,1\n")
    source = read(folder)
    clips = source.splits["train"].clips
    assert clips.ids[-2:].tolist() == ["A04N05-L_05_0_300", "A04N05-L_03_10_320"] and clips.extent[-2:].tolist() == [300, 300]
    np.testing.assert_array_equal(clips.clip(len(clips) - 1), frames[10:310, :1].astype(np.float32))
    found = codes(source.findings)
    assert "A04N05-L_03_10_320 of 310 frames" in found["clip-cut"].message and found["clip-cut"].count == 1
    assert "A04N05-L_04_350_360" in found["clip-blank"].message


# --- splits -------------------------------------------------------------------------------------------------------------


def chosen(source: Source) -> list[str]:
    return sorted({name.split("_")[0] for name in source.splits["train"].clips.ids})


def test_names_divide_by_subject_and_by_view(folder):
    assert chosen(read(folder, BY_SUBJECT)) == ["A01N01-L", "A01N01-M", "A03N04-R"]
    assert chosen(read(folder, ReadOptions(split="xview"))) == ["A01N01-M", "A02N02-R", "A02N03-M", "A03N04-R"]
    with pytest.raises(UsageError, match="2 ways"):
        read(folder, ReadOptions())
    with pytest.raises(UsageError, match="did you mean view"):
        read(folder, ReadOptions(split="veiw"))


def list_text(train: list[str], rest: list[str]) -> str:
    return f"Training videos:\n{', '.join(train)}, \nValidation videos:\n{', '.join(rest)}\n"


def test_a_published_list_decides_before_the_names(folder):
    (folder / "splits").mkdir()
    file = folder / "splits" / "cross-subject.txt"
    file.write_text(list_text(["A01N02-L", "A02N03-M", "A09N09-L"], ["A01N01-L"]))
    for split in ("subject", "auto"):
        source = read(folder, ReadOptions(split=split))
        assert chosen(source) == ["A01N02-L", "A02N03-M"], split
        assert len(source.splits["test"].clips) == 9, "every video that is not in the training list"
    found = codes(source.findings)
    assert "A09N09-L" in found["list-missing"].message and "cross-subject.txt" in source.about
    assert chosen(read(folder, BY_VIEW)) == ["A01N01-M", "A02N02-R", "A02N03-M", "A03N04-R"], "no such list: the names"
    (folder / "splits" / "cross-view.txt").write_text(list_text(["A01N01-L", "A01N02-L"], []))
    assert chosen(read(folder, BY_VIEW)) == ["A01N01-L", "A01N02-L"]
    with pytest.raises(UsageError, match="2 lists"):
        read(folder, ReadOptions())
    shutil.copy(file, folder / "another_subject_list.txt")
    with pytest.raises(DataError, match="2 lists of training videos by subject"):
        read(folder)


@pytest.mark.parametrize(("train", "kind"), [(["A01N01-L", "A01N02-L"], "view"), (["A01N01-L", "A01N01-M"], "subject")])
def test_a_list_without_a_telling_name_is_known_by_whom_it_leaves_out(folder, train, kind):
    (folder / "list.txt").write_text(list_text(train, []))
    source = read(folder, ReadOptions(split=kind))
    assert chosen(source) == train and source.about == f"divided by {kind}, list.txt"


def test_phase_1_has_views_in_its_names_and_needs_a_list_for_subjects(tmp_path):
    for n, name in enumerate(("0002-L", "0002-M", "0003-R")):
        write(tmp_path, name, frames_of(n + 1, 20), "7,2,9,1\n")
    for split in ("auto", "view"):
        assert chosen(read(tmp_path, ReadOptions(split=split))) == ["0002-M", "0003-R"]
    with pytest.raises(UsageError, match="do not say the subject"):
        read(tmp_path)
    (tmp_path / "cross-subject.txt").write_text(list_text(["0003-R"], ["0002-L"]))
    assert chosen(read(tmp_path)) == ["0003-R"]


def test_other_names_need_a_list(tmp_path):
    for n, name in enumerate(("kitchen", "garden")):
        write(tmp_path, name, frames_of(n + 1, 20), "7,2,9,1\n")
    with pytest.raises(UsageError, match="neither view nor subject"):
        read(tmp_path, ReadOptions())
    (tmp_path / "my_subjects.txt").write_text(list_text(["garden"], []))
    assert chosen(read(tmp_path, ReadOptions())) == ["garden"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [("0002-L", ("L", None)), ("A26N13-R", ("R", 13)), ("A01N02-X", None), ("002-L", None), ("A01N02-L2", None), ("", None)],
)
def test_names(name, parts):
    assert video_name(name) == parts


# --- what is wrong with files -------------------------------------------------------------------------------------------


def damage_line(line: int, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        file = root / "skeleton" / "A01N01-M.txt"
        lines = file.read_text().splitlines()
        lines[line - 1] = " ".join(change(lines[line - 1].split()))
        file.write_text("\n".join(lines))

    return damage


def labels(text: str) -> Callable[[Path], None]:
    return lambda root: (root / "label" / "A01N01-M.txt").write_text(text) and None


def raw(part: str, content: bytes) -> Callable[[Path], None]:
    return lambda root: (root / part / "A01N01-M.txt").write_bytes(content) and None


# what to do -> (code, words of the message, clips left in the training split of 7)
DAMAGED = {
    "a number missing": (damage_line(3, lambda row: row[:-1]), "clip-damaged", ("skeleton/A01N01-M.txt, line 3", "149"), 5),
    "a number too many": (damage_line(50, lambda row: [*row, "1"]), "clip-damaged", ("line 50", "151"), 5),
    "one line short, one long": (
        lambda root: (damage_line(4, lambda row: row[:-1])(root), damage_line(5, lambda row: [*row, "1"])(root)),
        "clip-damaged", ("line 4",), 5,
    ),
    "a word": (damage_line(7, lambda row: ["left", *row[1:]]), "clip-damaged", ("line 7", "'left'"), 5),
    "an underscore": (damage_line(7, lambda row: ["1_0", *row[1:]]), "clip-damaged", ("line 7", "'1_0'"), 5),
    "an empty line inside": (damage_line(2, lambda row: []), "clip-damaged", ("line 2", "0 values"), 5),
    "no frames": (raw("skeleton", b""), "clip-damaged", ("A01N01-M.txt", "0 lines"), 5),
    "bytes": (raw("skeleton", bytes(range(256))), "clip-damaged", ("A01N01-M.txt",), 5),
    "three fields": (labels("2,5,12\n11,20,30,1\n"), "label-damaged", ("label/A01N01-M.txt line 1", "2,5,12"), 6),
    "a label word": (labels("2,5,12,1\n\nwave,20,30,1\n"), "label-damaged", ("A01N01-M.txt line 3", "wave"), 6),
    "a fraction": (labels("2,5.5,12,1\n"), "label-damaged", ("line 1",), 5),
    "class 0": (labels("0,5,12,1\n"), "label-damaged", ("line 1", "action 0 is not in 1 to 51"), 5),
    "class 52": (labels("52,5,12,1\n"), "label-damaged", ("line 1", "action 52"), 5),
    "a negative start": (labels("5,-5,12,1\n"), "label-damaged", ("line 1", "frame -5"), 5),
    "label bytes": (raw("label", bytes(range(256))), "label-damaged", ("line 1",), 5),
    "a large label file": (raw("label", b"1,2,3,1\n" * 40_000), "label-damaged", ("320,000 bytes",), 5),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_and_lines_are_error_findings_that_say_where(folder, case):
    damage, code, words, clips = DAMAGED[case]
    damage(folder)
    source = read(folder)
    finding = codes(source.findings)[code]
    assert finding.severity == ERROR and finding.count >= 1
    for word in words:
        assert word in finding.message.replace(f"{folder}/", ""), finding.message
    assert len(source.splits["train"].clips) == clips, "the rest is still read"
    with pytest.raises(DataError, match="A01N01-M"):
        open_data(folder, options=BY_SUBJECT)
    with pytest.raises(DataError, match="A01N01-M"):
        open_sequences(folder, options=BY_SUBJECT)


# labels of a video of 50 frames -> (code, words, intervals that are left)
ODD = {
    "ends late": ("2,5,60,1\n", "interval-cut", "A01N01-M 5 to 60 of 50", [(5, 50)]),
    "begins late": ("2,50,60,1\n", "interval-empty", "50 to 60 of 50", []),
    "backwards": ("2,12,5,1\n", "interval-empty", "12 to 5", []),
    "no frame": ("2,5,5,1\n", "interval-empty", "5 to 5", []),
    "overlap": ("2,5,12,1\n3,11,20,1\n", "interval-overlap", "11 to 20", [(5, 12), (11, 20)]),
    "inside": ("2,5,40,1\n3,6,8,1\n4,30,45,1\n", "interval-overlap", "6 to 8", [(5, 40), (6, 8), (30, 45)]),
    "twice": ("2,5,12,1\n2,5,12,2\n", "interval-twice", "5 to 12", [(5, 12)]),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_intervals_are_warnings(folder, case):
    text, code, words, left = ODD[case]
    labels(text)(folder)
    source = read(folder)
    finding = codes(source.findings)[code]
    assert finding.severity == "warning" and words in finding.message
    assert finding.count == (2 if case == "inside" else 1)
    ids = [name.split("_")[2:] for name in source.splits["train"].clips.ids if name.startswith("A01N01-M")]
    assert [(int(a), int(b)) for a, b in ids] == left
    open_data(folder, options=BY_SUBJECT)


@pytest.mark.parametrize("value", ["nan", "inf", "1e300"])
def test_values_that_are_no_coordinates_are_refused_or_dropped_with_their_clip(folder, value):
    damage_line(8, lambda row: [*row[:-1], value])(folder)
    assert "skeleton/A01N01-M.txt line 8" in codes(read(folder).findings)["line-nan"].message.replace(f"{folder}/", "")
    with pytest.raises(DataError, match="A01N01-M_02_5_12"):
        open_data(folder, options=BY_SUBJECT)
    assert len(open_data(folder, options=replace(BY_SUBJECT, on_bad="drop")).train) == 6
    with pytest.raises(DataError, match=r"A01N01-M.txt line 8"):
        open_sequences(folder, options=BY_SUBJECT)
    assert len(open_sequences(folder, options=replace(BY_SUBJECT, on_bad="drop")).splits["train"]) == 2
    damage_line(8, lambda row: ["0"] * 150)(folder)
    damage_line(2, lambda row: [*row[:-1], value])(folder)
    assert len(open_data(folder, options=BY_SUBJECT).train) == 7, "outside all intervals it does not matter to clips"


def test_files_without_their_partner_and_other_files_are_told(folder):
    (folder / "label" / "A03N04-R.txt").unlink()
    (folder / "skeleton" / "A01N02-L.txt").unlink()
    (folder / "README.txt").write_text("PKU-MMD\nread me first, please\n")
    (folder / "split.csv").write_text("A01N01-L\n")
    source = read(folder)
    found = codes(source.findings)
    assert "A03N04-R" in found["label-missing"].message and "A01N02-L" in found["skeleton-missing"].message
    assert found["file-ignored"].count == 2
    assert chosen(source) == ["A01N01-L", "A01N01-M"]


def test_what_cannot_be_read_at_all_is_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "alone" / "skeleton").mkdir(parents=True)
    (tmp_path / "alone" / "skeleton" / "0002-L.txt").write_text("1")
    for path in (tmp_path / "empty", tmp_path / "alone"):
        with pytest.raises(DataError, match="no video with both"):
            read(path)
        with pytest.raises(DataError, match="no untrimmed sequences"):
            open_sequences(path)
    with pytest.raises(MissingInputError):
        open_sequences(tmp_path / "absent")
    (folder / "copy" / "skeleton").mkdir(parents=True)
    (folder / "copy" / "skeleton" / "A01N01-L.txt").write_text("1")
    with pytest.raises(DataError, match="exists twice"):
        read(folder)
    shutil.rmtree(folder / "copy")
    with pytest.raises(DataError, match="60 classes"):
        read(folder, ReadOptions(split="view", num_classes=60))
    with pytest.raises(UsageError, match="skip-list"):
        read(folder, ReadOptions(split="view", skip_list=Path("x")))
    with pytest.raises(UsageError, match="did you mean pku_mmd"):
        open_sequences(folder, layout="pku_mm")
    with pytest.raises(UsageError, match="on-bad"):
        open_sequences(folder, options=ReadOptions(on_bad="ignore"))


NOISE = st.text(alphabet="0123456789.,-+eE nN_a\n\r\t\x00ü", max_size=400).map(str.encode) | st.binary(max_size=200)


@settings(max_examples=150, deadline=None)
@given(NOISE)
def test_no_text_makes_the_parsers_fail_otherwise_than_told(noise):
    try:
        assert parse_frames(noise, "x").shape[1:] == (2, 25, 3)
    except DataError as error:
        assert error.where.startswith("x")
    intervals, wrong = parse_intervals(noise, "x")
    assert all(1 <= action <= 51 and start >= 0 for start, _, action in intervals)
    assert all(place.startswith("x line ") for place in wrong)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    for name in ("A01N01-L", "A01N01-M", "A01N02-L"):
        write(root, name, frames_of(1, 6), "2,1,5,1\n")
    return root


@settings(max_examples=30, deadline=None)
@given(NOISE, NOISE, NOISE, st.integers(0, 9), st.integers(-3, 12))
def test_no_folder_makes_the_readers_fail_otherwise_than_told(tiny, skeleton, label, listed, start, end):
    raw("skeleton", skeleton)(tiny)
    raw("label", label)(tiny)
    (tiny / "label" / "A01N01-L.txt").write_text(f"7,{start},{end},1\n3,2,{end},1")
    (tiny / "list.txt").write_bytes(b"Training videos:\nA01N01-L," + listed)
    for split in ("subject", "view", "auto"):
        for reader in (pku_mmd.read, pku_mmd.read_sequences):
            try:
                findings = reader(tiny, Reading(ReadOptions(split=split), sinks=nowhere)).findings
            except LabError:
                continue
            assert codes(findings)["clip-damaged"].severity == ERROR


# --- whole videos -------------------------------------------------------------------------------------------------------


def test_whole_videos_have_a_class_per_frame_and_the_later_start_wins(folder):
    labels("2,5,12,1\n51,9,20,1\n3,40,99,1\n7,42,44,1\n")(folder)
    source = open_sequences(folder, options=BY_SUBJECT)
    train = source.splits["train"]
    assert source.layout == "pku_mmd" and len(source.class_names) == 52 and source.class_names[0] == "background"
    assert train.ids.tolist() == ["A01N01-L", "A01N01-M", "A03N04-R"] and train.lengths.tolist() == [50, 50, 50]
    expected = [0] * 5 + [2] * 4 + [51] * 11 + [0] * 20 + [3] * 2 + [7] * 2 + [3] * 6
    assert train.labels(1).tolist() == expected
    assert np.flatnonzero(train.boundaries(1)).tolist() == [0, 5, 6, 9, 10, 20, 21, 40, 41, 42, 43, 44, 45]
    np.testing.assert_array_equal(train.frames(1), frames_of(2, 50, 2).astype(np.float32))
    (batch,) = SequenceLoader(train, batch_size=8, train=True).epoch(0)
    assert batch.features.shape == (3, 12, 25, 50) and bool(batch.mask.all())


def test_a_video_without_labels_is_background_and_one_without_anybody_is_left_out(folder):
    labels("")(folder)
    write(folder, "A01N01-R", np.zeros((9, 150)), "1,2,5,1\n")
    source = open_sequences(folder, options=BY_SUBJECT)
    assert not source.splits["train"].labels(1).any()
    assert "A01N01-R" in codes(source.findings)["sequence-blank"].message
    assert "A01N01-R" not in source.splits["train"].ids


@pytest.mark.parametrize(
    "damage", [labels("2,5,12,1\nwave,20,30,1\n"), labels("52,5,12,1\n"), raw("label", b"1,2,3,1\n" * 40_000)]
)
def test_a_video_with_an_unusable_label_is_refused_or_left_out_never_taken_for_background(folder, damage):
    damage(folder)
    with pytest.raises(DataError, match="label lines that cannot be used"):
        open_sequences(folder, options=BY_SUBJECT)
    source = open_sequences(folder, options=replace(BY_SUBJECT, on_bad="drop"))
    assert source.splits["train"].ids.tolist() == ["A01N01-L", "A03N04-R"]
    assert codes(source.findings)["label-damaged"].severity == "warning"


# --- the package of DeST and LaSA ---------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Five videos of both persons, 20 frames and up; the list by view tests what it validates on."""
    root = tmp_path / "lasa"
    data = root / "dataset" / "PKU-view"
    for part in ("features", "gt_arr", "gt_boundary_arr"):
        (data / part).mkdir(parents=True)
    (data / "mapping.txt").write_text("0 background\n1 bow\n2 brush hair\n")
    for n, name in enumerate(("A01N01-L", "A01N01-M", "A01N01-R", "A02N02-M", "A02N02-L")):
        classes = np.repeat([0, 1, 2], [5, 5 + n, 10])
        np.save(data / "features" / f"{name}.npy", frames_of(n + 1, 20 + n, 2).reshape(-1, 150))
        np.save(data / "gt_arr" / f"{name}.npy", classes)
        np.save(data / "gt_boundary_arr" / f"{name}.npy", boundaries(classes).astype(np.int64))
    lists = {"train": ["A01N01-R", "A01N01-M"], "val": ["A01N01-L", "A02N02-L"], "test": ["A01N01-L", "A02N02-L"]}
    (root / "csv" / "PKU-view").mkdir(parents=True)
    for role, names in lists.items():
        paths = [",".join(f"./dataset/PKU-view/{part}/{name}.npy" for part in ("features", "gt_arr", "gt_b")) for name in names]
        (root / "csv" / "PKU-view" / f"{role}1.csv").write_text("\n".join(["feature,label,boundary", *paths]) + "\n")
    return root


def test_the_package_is_read_with_its_lists(package):
    source = open_sequences(package)
    assert source.layout == "lasa" and source.class_names == ("background", "bow", "brush hair")
    assert {split: part.ids.tolist() for split, part in source.splits.items()} == {
        "train": ["A01N01-R", "A01N01-M"], "val": ["A01N01-L", "A02N02-L"], "test": ["A01N01-L", "A02N02-L"],
        "rest": ["A02N02-M"],
    }  # fmt: skip
    np.testing.assert_array_equal(source.splits["train"].frames(1), frames_of(2, 21, 2).astype(np.float32))
    assert source.splits["test"].labels(1).tolist() == [0] * 5 + [1] * 9 + [2] * 10
    finding = codes(source.findings)["list-overlap"]
    assert finding.count == 2 and "val and test" in finding.message and "rest" in finding.next_step


def test_a_zip_of_the_package_is_read_like_the_folder(package, tmp_path):
    file = shutil.make_archive(str(tmp_path / "packed"), "zip", package)
    zipped, plain = open_sequences(file), open_sequences(package)
    for split in plain.splits:
        np.testing.assert_array_equal(zipped.splits[split].clips.rows, plain.splits[split].clips.rows)
        np.testing.assert_array_equal(zipped.splits[split].classes, plain.splits[split].classes)


def test_the_package_without_lists_is_divided_by_name(package):
    shutil.rmtree(package / "csv")
    source = open_sequences(package, options=BY_VIEW)
    assert source.splits["train"].ids.tolist() == ["A01N01-M", "A01N01-R", "A02N02-M"]
    with pytest.raises(UsageError, match="2 ways"):
        open_sequences(package)


def array(part: str, value: np.ndarray, **options: bool) -> Callable[[Path], None]:
    return lambda root: np.save(root / "dataset" / "PKU-view" / part / "A01N01-M.npy", value, **options)


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda root: (next(root.rglob(name)).write_text(content)) and None


BAD_PACKAGES = {
    "pickled features": (array("features", np.array([{}], object), allow_pickle=True), "Python objects"),
    "pickled labels": (array("gt_arr", np.array([1, None], object), allow_pickle=True), "Python objects"),
    "wrong width": (array("features", np.zeros((21, 75))), r"shape \(21, 75\)"),
    "features of integers": (array("features", np.zeros((21, 150), int)), "int64"),
    "labels in two axes": (array("gt_arr", np.zeros((21, 1), int)), r"shape \(21, 1\)"),
    "fractional labels": (array("gt_arr", np.zeros(21)), "float64"),
    "class beyond the mapping": (array("gt_arr", np.full(21, 3)), "mapping.txt"),
    "negative class": (array("gt_arr", np.full(21, -1)), "mapping.txt"),
    "NaN": (array("features", np.full((21, 150), np.nan)), "NaN"),
    "no labels": (array("gt_arr", np.zeros(0, int)), "mapping.txt"),
    "truncated": (lambda root: (root / "dataset/PKU-view/features/A01N01-M.npy").write_bytes(b"\x93NUMPY"), "A01N01-M"),
    "mapping line": (text("mapping.txt", "0 background\nbow 1\n"), "mapping.txt, line 2"),
    "mapping gap": (text("mapping.txt", "0 background\n2 bow\n"), "without a gap"),
    "mapping twice": (text("mapping.txt", "0 background\n0 bow\n"), "line 2"),
    "list without column": (text("train1.csv", "A01N01-M\n"), "no column feature"),
    "list of nobody": (text("train1.csv", "feature\nnobody.npy\n"), "train split holds no usable"),
}


@pytest.mark.parametrize("case", BAD_PACKAGES)
def test_bad_packages_are_refused(package, case):
    damage, words = BAD_PACKAGES[case]
    damage(package)
    with pytest.raises(DataError, match=words):
        open_sequences(package)


def test_features_labels_and_boundaries_of_unequal_length_are_cut_to_the_shortest(package):
    array("gt_arr", np.array([0] * 9 + [1] * 9))(package)
    source = open_sequences(package)
    assert source.splits["train"].lengths.tolist() == [22, 18] and "(21, 18, 21)" in codes(source.findings)["length"].message
    assert "A01N01-M" in codes(source.findings)["boundary-differs"].message
    assert np.flatnonzero(source.splits["train"].boundaries(1)).tolist() == [0, 5, 6, 11, 12], "theirs are kept"


def test_labels_beyond_the_last_frame_are_cut_and_told(package):
    array("gt_arr", np.array([0] * 11 + [2] * 19))(package)
    source = open_sequences(package)
    assert source.splits["train"].labels(1).tolist() == [0] * 11 + [2] * 10
    assert "(21, 30, 21)" in codes(source.findings)["length"].message


@pytest.mark.parametrize("case", ["NaN", "class beyond the mapping", "truncated", "no labels"])
def test_one_bad_video_of_a_package_can_be_left_out(package, case):
    BAD_PACKAGES[case][0](package)
    source = open_sequences(package, options=ReadOptions(on_bad="drop"))
    assert source.splits["train"].ids.tolist() == ["A01N01-R"]
    assert all(finding.severity != ERROR for finding in source.findings)


def test_videos_without_frames_or_anybody_are_left_out(package):
    array("features", np.zeros((21, 150)))(package)
    source = open_sequences(package)
    assert "A01N01-M" in codes(source.findings)["sequence-blank"].message and len(source.splits["train"]) == 1
    array("features", np.zeros((0, 150)))(package)
    with pytest.raises(DataError, match=r"shape \(0, 150\)"):
        open_sequences(package)


def test_a_mapping_that_calls_class_0_something_else_is_told(package):
    text("mapping.txt", "0 bow\n1 brush hair\n2 background\n")(package)
    finding = codes(open_sequences(package).findings)["mapping-background"]
    assert "bow" in finding.message and finding.severity == "warning" and "mapping.txt" in finding.next_step


@pytest.fixture(scope="module")
def tiny_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("package")
    for part in ("features", "gt_arr"):
        (root / part).mkdir()
    for name in ("A01N01-L", "A01N01-M"):
        np.save(root / "features" / f"{name}.npy", frames_of(1, 4).reshape(-1, 150))
        np.save(root / "gt_arr" / f"{name}.npy", np.array([0, 0, 1, 1]))
    return root


@settings(max_examples=60, deadline=None)
@given(NOISE, NOISE, NOISE, st.integers(0, 140))
def test_no_package_makes_the_reader_fail_otherwise_than_told(tiny_package, mapping, listed, labels, cut):
    good = (tiny_package / "gt_arr" / "A01N01-L.npy").read_bytes()
    (tiny_package / "gt_arr" / "A01N01-M.npy").write_bytes(good[:cut] + labels)
    for names in (b"0 background\n1 bow\n", mapping):
        (tiny_package / "mapping.txt").write_bytes(names)
        for head in (b"feature\nA01N01-L.npy\n", b""):
            (tiny_package / "train.csv").write_bytes(head + listed)
            try:
                source = open_sequences(tiny_package, layout="lasa", options=ReadOptions(on_bad="drop"), sinks=nowhere)
            except LabError:
                continue
            assert source.splits["train"].labels(0).tolist() == [0, 0, 1, 1]
