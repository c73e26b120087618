"""Annotation pickles: the clips of the asked protocol, and every inconsistency named."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from shared_data.check import check
from shared_data.datasets import open_data
from shared_data.errors import DataError, LabError, UsageError
from shared_data.formats.options import ReadOptions
from shared_data.formats.reading import detect
from shared_data.skeletons import SKELETONS

LENGTHS = (7, 12, 30, 9, 5, 21)


def annotation(n, people=1, joints=25, values=3, dtype=np.float16):
    rng = np.random.default_rng(n)
    keypoint = rng.normal(size=(people, LENGTHS[n], joints, values)).astype(dtype)
    name = f"S001C{n % 3 + 1:03d}P{n + 1:03d}R001A{n % 3 + 1:03d}"
    return {"frame_dir": name, "label": n % 3, "total_frames": LENGTHS[n], "keypoint": keypoint}


@pytest.fixture
def content():
    annotations = [annotation(n, people=1 + n % 2) for n in range(6)]
    names = [entry["frame_dir"] for entry in annotations]
    split = {"xsub_train": names[:4], "xsub_val": names[4:], "xview_train": names[::-1][:3], "xview_val": names[:3]}
    return {"split": split, "annotations": annotations}


@pytest.fixture
def save(tmp_path):
    def write(content, protocol=4):
        file = tmp_path / "annotations.pkl"
        file.write_bytes(pickle.dumps(content, protocol))
        return file

    return write


XSUB = ReadOptions(split="xsub")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_clips_are_those_of_the_protocol_in_its_order(content, save, protocol):
    file = save(content, protocol)
    layout, reason = detect(file)
    assert layout == "pyskl" and "split and annotations" in reason
    for split, train, test in (("xsub", [0, 1, 2, 3], [4, 5]), ("xview", [5, 4, 3], [0, 1, 2])):
        data = open_data(file, options=ReadOptions(split=split))
        assert (data.num_classes, data.skeleton.name, data.train.frames) == (3, "ntu25", None)
        for clips, numbers in ((data.train, train), (data.test, test)):
            assert clips.max_people == 2 and clips.rows.dtype == np.float32
            assert clips.labels.tolist() == [n % 3 for n in numbers]
            for row, n in enumerate(numbers):
                written = content["annotations"][n]
                np.testing.assert_array_equal(clips.clip(row), written["keypoint"].astype(np.float32).transpose(1, 0, 2, 3))
                assert clips.ids[row] == written["frame_dir"] and clips.valid[row] == written["total_frames"]


def test_the_only_protocol_needs_no_name(content, save):
    names = [entry["frame_dir"] for entry in content["annotations"]]
    for split in ({"xset_train": names[:4], "xset_val": names[4:]}, {"train": names[:4], "test": names[4:], "odd": []}):
        assert len(open_data(save({**content, "split": split})).train) == 4


def test_several_protocols_are_named_and_none_is_guessed(content, save):
    with pytest.raises(UsageError, match=r"several ways(.|\n)*one of xsub, xview"):
        open_data(save(content))
    with pytest.raises(UsageError, match=r"no split 'xsud'; did you mean xsub"):
        open_data(save(content), options=ReadOptions(split="xsud"))


def test_two_dimensional_joints_become_x_y_and_score(save):
    if "coco17" not in SKELETONS:
        pytest.skip("the coco17 skeleton is not there")
    rng = np.random.default_rng(0)
    annotations = []
    for n in range(6):
        entry = annotation(n, people=2, joints=17, values=2)
        score = rng.random((2, LENGTHS[n], 17)).astype(np.float16)
        annotations.append({**entry, "keypoint_score": score, "img_shape": (1080, 1920), "original_shape": (1080, 1920)})
    names = [entry["frame_dir"] for entry in annotations]
    file = save({"split": {"train": names[:4], "val": names[4:]}, "annotations": annotations})
    data = open_data(file)
    assert data.skeleton.name == "coco17" and data.train.joints == 17
    clip = data.train.clip(2)
    np.testing.assert_array_equal(clip[..., :2].transpose(1, 0, 2, 3), annotations[2]["keypoint"].astype(np.float32))
    np.testing.assert_array_equal(clip[..., 2].transpose(1, 0, 2), annotations[2]["keypoint_score"].astype(np.float32))
    del annotations[3]["keypoint_score"]
    with pytest.raises(DataError, match="no keypoint_score"):
        open_data(save({"split": {"train": names[:4], "val": names[4:]}, "annotations": annotations}))


def change(content, n, **values):
    content["annotations"][n] = {**content["annotations"][n], **values}


FINDINGS = {
    "unknown name": (lambda c: c["split"]["xsub_train"].append("S099"), "annotation-missing", "S099"),
    "twice in the split": (lambda c: c["split"]["xsub_val"].append(c["split"]["xsub_val"][0]), "split-twice", "1 names"),
    "twice annotated": (lambda c: c["annotations"].append(annotation(2)), "name-twice", "S001C003P003R001A003"),
    "wrong length": (lambda c: change(c, 1, total_frames=300), "frame-count", "S001C002P002R001A002"),
    "label of another action": (lambda c: change(c, 2, label=0), "label-name", "row 2"),
    "negative label": (lambda c: change(c, 2, label=-4, frame_dir="S001C003P003R001A003"), "label-negative", "row 2"),
    "NaN": (lambda c: change(c, 0, keypoint=np.full((1, 7, 25, 3), np.nan)), "clip-nan", "S001C001P001R001A001"),
    "nobody": (lambda c: change(c, 0, keypoint=np.zeros((1, 7, 25, 3))), "clip-empty", "S001C001P001R001A001"),
    "nobody trains": (lambda c: c["split"].update(xsub_train=[]), "split-empty", "train"),
}


@pytest.mark.parametrize("case", FINDINGS)
def test_inconsistent_annotations_are_error_findings(content, save, case):
    damage, code, words = FINDINGS[case]
    damage(content)
    found = {f.code: f for f in check(save(content), options=XSUB).findings if f.severity == "error"}
    assert code in found and words in found[code].message
    with pytest.raises(DataError):
        open_data(save(content), options=XSUB)


def numbered(content, numbers):
    """Give the actions A001, A002, A003 other labels."""
    for n, entry in enumerate(content["annotations"]):
        change(content, n, label=numbers[entry["label"]])


def test_a_subset_numbered_anew_is_a_warning(content, save):
    for n, entry in enumerate(content["annotations"]):
        name = entry["frame_dir"].replace("A003", "A060")
        for names in content["split"].values():
            names[:] = [name if old == entry["frame_dir"] else old for old in names]
        change(content, n, frame_dir=name)
    data = open_data(save(content), options=XSUB)
    found = [finding for finding in data.findings if finding.code == "label-renumbered"]
    assert [(finding.severity, finding.count, finding.where) for finding in found] == [
        ("warning", 1, "xsub_train"),
        ("warning", 1, "xsub_val"),
    ]
    assert data.class_names == ("A001", "A002", "A060") and data.train.labels.tolist() == [0, 1, 2, 0]
    numbered(content, [2, 0, 1])
    assert open_data(save(content), options=XSUB).class_names == ("A002", "A060", "A001")
    own = open_data(save({**content, "class_names": ["sit", "stand", "walk"]}), options=XSUB)
    assert own.class_names == ("sit", "stand", "walk")


def test_usual_labels_are_not_taken_for_renumbered(content, save):
    data = open_data(save(content), options=XSUB)
    assert data.class_names == ("class 0", "class 1", "class 2")
    assert not {finding.code for finding in data.findings} & {"label-renumbered", "label-name"}


@pytest.mark.parametrize("numbers", [{0: 1}, {3: 1}, {4: 2, 5: 1}, {n: (n + 1) // 2 for n in range(6)}])
def test_labels_that_number_the_actions_in_two_ways_are_an_error(content, save, numbers):
    """Within a split or only over both of them; two actions with one label as well."""
    for n, label in numbers.items():
        change(content, n, label=label)
    with pytest.raises(DataError, match="not the action in the sample's name"):
        open_data(save(content), options=XSUB)


def test_where_each_action_occurs_once_nothing_tells_a_mistake_from_a_new_numbering(content, save):
    names = [f"S001C001P001R001A{n + 1:03d}" for n in range(6)]
    for n, name in enumerate(names):
        change(content, n, frame_dir=name, label=(n + 1) % 6)
    with pytest.raises(DataError, match="not the action in the sample's name"):
        open_data(save({**content, "split": {"train": names[:4], "val": names[4:]}}))


def test_a_clip_in_both_splits_is_a_warning(content, save):
    content["split"]["xsub_val"].append(content["split"]["xsub_train"][0])
    found = {f.code: f for f in open_data(save(content), options=XSUB).findings}
    assert (found["split-overlap"].severity, found["split-overlap"].count) == ("warning", 1)


BROKEN = {
    "no annotations": (lambda c: c.pop("annotations"), "not an annotation file"),
    "annotations by name": (lambda c: c.update(annotations={}), "annotations is no list"),
    "split is a list": (lambda c: c.update(split=[1]), "split is no dict"),
    "no pair": (lambda c: c.update(split={"a_train": [], "b_val": []}), "no pair of splits, found: a_train, b_val"),
    "names are numbers": (lambda c: c["split"].update(xsub_train=[1, 2]), "no list of names"),
    "annotation is a list": (lambda c: c["annotations"].append([1]), "annotation 6"),
    "no label": (lambda c: c["annotations"][3].pop("label"), "annotation 3"),
    "label is text": (lambda c: change(c, 3, label="4"), "no integer"),
    "label is a list": (lambda c: change(c, 3, label=[4]), "no integer"),
    "label of 64 bits": (lambda c: change(c, 3, label=2**63), "no integer"),
    "name with NUL": (lambda c: change(c, 3, frame_dir="n1\0"), r"'n1\\x00' holds NUL(?s:.)*annotation 3, frame_dir"),
    "split with NUL": (lambda c: c["split"]["xsub_val"].append("n1\0"), "holds NUL(?s:.)*split xsub_val"),
    "name is a number": (lambda c: change(c, 3, frame_dir=4), "frame_dir"),
    "length is text": (lambda c: change(c, 3, total_frames="9"), "total_frames"),
    "keypoint is a list": (lambda c: change(c, 3, keypoint=[[1]]), r"keypoint of shape \(\)"),
    "three axes": (lambda c: change(c, 3, keypoint=np.zeros((9, 25, 3))), r"\(9, 25, 3\)"),
    "no frames": (lambda c: change(c, 3, keypoint=np.zeros((1, 0, 25, 3))), "T from 1"),
    "no people": (lambda c: change(c, 3, keypoint=np.zeros((0, 9, 25, 3))), "M to 8"),
    "30 joints": (lambda c: change(c, 3, keypoint=np.zeros((1, 9, 30, 3))), r"\(1, 9, 30, 3\)"),
    "mixed joints": (lambda c: change(c, 3, keypoint=np.zeros((1, 9, 20, 3))), "different numbers of joints"),
    "keypoint of text": (lambda c: change(c, 3, keypoint=np.full((1, 9, 25, 3), "a")), "elements of type"),
    "keypoint of objects": (lambda c: change(c, 3, keypoint=np.full((1, 9, 25, 3), None)), "Python objects"),
    "two dimensions of 25": (lambda c: change(c, 3, keypoint=np.zeros((1, 9, 25, 2))), r"\(1, 9, 25, 2\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_annotation_file_is_refused(content, save, case):
    damage, words = BROKEN[case]
    damage(content)
    with pytest.raises(DataError, match=words) as error:
        open_data(save(content), layout="pyskl", options=XSUB)
    assert "annotations.pkl" in str(error.value)


def test_text_that_begins_like_an_old_pickle_is_text(tmp_path):
    for text in ("(data)", "}{", "(d", "}", "(dp of a player", "}quoted text", "(dx, dy)"):
        file = tmp_path / "text.pkl"
        file.write_text(text)
        with pytest.raises(DataError, match="not a zip file: it starts with the bytes"):
            detect(file)


class Trap:
    def __reduce__(self):
        return (__import__("os").mkdir, ("/tmp/sprung",))


def test_code_in_a_pickle_is_refused_and_named(content, save):
    change(content, 2, label=Trap())
    with pytest.raises(DataError, match=r"names posix\.mkdir"):
        open_data(save(content), options=XSUB)
    for protocol in (0, 1):
        with pytest.raises(DataError, match=r"names posix\.mkdir"):
            open_data(save({"split": {"a": Trap()}}, protocol))
    for whole in (Trap(), [1, 2], {"split": Trap()}):
        with pytest.raises(DataError, match="pickle"):
            open_data(save(whole))


def test_shared_arrays_cannot_stand_for_more_than_the_file_holds(content, save):
    array = np.ones((2, 1000, 25, 3), np.float32)
    content["annotations"] = [{**annotation(0), "frame_dir": f"a{n}", "keypoint": array, "total_frames": 1000} for n in range(50)]
    content["split"] = {"train": [f"a{n}" for n in range(40)], "val": [f"a{n}" for n in range(40, 50)]}
    with pytest.raises(DataError, match="share their arrays"):
        open_data(save(content))


def test_nested_values_are_never_printed_or_compared(content, save):
    """2**60 values if anything did; the file is 300 bytes longer for it."""
    bomb = (1, 1)
    for _ in range(60):
        bomb = (bomb, bomb)
    for key in ("frame_dir", "label", "total_frames", "keypoint"):
        kept = content["annotations"][1]
        change(content, 1, **{key: bomb})
        with pytest.raises(LabError):
            open_data(save(content), options=XSUB)
        content["annotations"][1] = kept
    for damage in ({"split": bomb}, {"annotations": bomb}, {"split": {"train": bomb, "val": bomb}}):
        with pytest.raises(LabError):
            open_data(save({**content, **damage}), layout="pyskl")
    fine = save({**content, "about": bomb, "class_names": [bomb] * 3})
    assert open_data(fine, options=XSUB).num_classes == 3
