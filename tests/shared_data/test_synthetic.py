"""The made-up data is what it claims: NTU-shaped, rigid, centred, deterministic, learnable by other people's clips."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

from shared_data.atomic import WriteError
from shared_data.check import check
from shared_data.datasets import DataSet, open_data
from shared_data.draw import animated_svg, clip_svg
from shared_data.errors import LabError
from shared_data.skeletons import NTU25
from shared_data.synthetic import ACTIONS, names, write_synthetic


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> DataSet:
    file = tmp_path_factory.mktemp("made") / "synthetic.npz"
    return open_data(write_synthetic(file, train_per_class=25, test_per_class=10, seed=1))


def test_file_is_a_kaggle_file_that_passes_its_check(made):
    report = check(made.path)
    assert report.ok and report.layout == "kaggle" and not [f for f in report.findings if f.severity == "warning"]
    assert {f.where for f in report.findings if f.code == "layout-confirmed"} == {"x_train", "x_test"}
    assert "synthetic" in report.about
    with np.load(made.path, allow_pickle=False) as file:
        assert file["x_train"].shape == (250, 300, 150) and file["x_train"].dtype == np.float32
        assert file["y_train"].shape == (250, 10) and file["y_train"].dtype == np.float64
        assert "synthetic" in str(file["about"])
    assert made.class_names == names(10) == ACTIONS
    console = Console(record=True, width=140)
    report.render(console)
    assert "ready to train" in console.export_text()


def test_bodies_are_rigid_centred_and_of_people_who_differ(made):
    heights = {}
    for split in ("train", "test"):
        clips = getattr(made, split)
        tall = []
        for n in range(len(clips)):
            clip = clips.clip(n)
            assert (clip[0, 0, 1] == 0).all(), "joint 2 of person 1 is the origin"
            child, parent = np.array(NTU25.edges).T
            bones = np.linalg.norm(clip[:, :, child] - clip[:, :, parent], axis=-1)
            assert bones.std(0).max() < 0.005, "bones keep their length up to the jitter"
            tall.append(round(float(bones.mean(0)[0].sum()), 1))
        heights[split] = np.array(tall)
    assert heights["train"].std() > 0.1
    lengths = np.concatenate([made.train.extent, made.test.extent])
    assert lengths.min() >= 30 and lengths.max() <= 300 and 70 < lengths.mean() < 100
    assert 0.04 < (made.train.people == 2).mean() < 0.2


def test_same_seed_same_bytes_other_seed_other_clips(tmp_path):
    def write(name, seed):
        file = write_synthetic(tmp_path / name, classes=3, train_per_class=3, test_per_class=1, frames=40, seed=seed)
        return file.read_bytes()

    assert write("a_synthetic.npz", 4) == write("b_synthetic.npz", 4) != write("c_synthetic.npz", 5)


def features(clips) -> np.ndarray:
    """(N, F): mean and spread over time of every joint relative to the pelvis. Knows nothing of how clips are made."""
    out = []
    for n in range(len(clips)):
        person = clips.clip(n)[:, 0]
        relative = person - person[:, :1]
        out.append(np.concatenate([relative.mean(0).ravel(), relative.std(0).ravel(), person[:, 0].std(0)]))
    return np.array(out)


def test_actions_can_be_learned_from_other_people(made):
    train, test = features(made.train), features(made.test)
    mean, spread = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / spread, (test - mean) / spread
    centres = np.stack([train[made.train.labels == k].mean(0) for k in range(10)])
    guess = ((test[:, None] - centres) ** 2).sum(-1).argmin(-1)
    assert (guess == made.test.labels).mean() > 0.6, "nearest class mean; chance is 0.1"


def test_sixty_classes_differ_and_impossible_wishes_are_refused(tmp_path):
    assert len(set(names(60))) == 60
    file = write_synthetic(tmp_path / "synthetic.npz", classes=60, train_per_class=1, test_per_class=1, frames=30)
    data = open_data(file)
    assert data.num_classes == 60 and sorted(data.train.labels.tolist()) == list(range(60))
    for wish in ({"classes": 61}, {"classes": 1}, {"train_per_class": 0}, {"frames": 0}):
        with pytest.raises(LabError, match="classes"):
            write_synthetic(tmp_path / "synthetic.npz", **wish)
    with pytest.raises(LabError, match="must say so"):
        write_synthetic(tmp_path / "ntu60.npz")


def test_only_synthetic_files_are_replaced(tmp_path):
    wish = {"classes": 2, "train_per_class": 1, "test_per_class": 1, "frames": 30}
    file = write_synthetic(tmp_path / "synthetic.npz", **wish)
    before = file.read_bytes()
    assert write_synthetic(file, **wish, seed=1).read_bytes() != before
    with np.load(file) as made:
        real = {key: made[key] for key in made.files if key != "about"}
    np.savez(tmp_path / "better_than_synthetic.npz", **real)
    np.savez(tmp_path / "unlike_synthetic.npz", **real, about=np.array("recorded in our office"))
    (tmp_path / "synthetic.txt").write_text("mine")
    for name in ("better_than_synthetic.npz", "unlike_synthetic.npz", "synthetic.txt"):
        kept = (tmp_path / name).read_bytes()
        with pytest.raises(WriteError, match="left alone"):
            write_synthetic(tmp_path / name, **wish)
        assert (tmp_path / name).read_bytes() == kept


def paths(svg: str) -> list[ET.Element]:
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not [e for e in root.iter() if e.tag.endswith("script") or any("href" in key for key in e.attrib)]
    return [e for e in root.iter() if e.tag.endswith("path")]


def test_film_strip_shows_every_bone_of_every_present_person(made):
    n = int(np.flatnonzero(made.train.people == 2)[0])
    clip = made.train.clip(n)
    clip[: len(clip) // 2, 1] = 0
    drawn = paths(clip_svg(clip, made.skeleton, frames=8))
    assert sum(path.get("d").count("L") for path in drawn) == 24 * (8 + 4)
    assert len({path.get("stroke") for path in drawn}) == 6, "two people, each left, middle and right"


def test_film_strip_moves_up_when_the_joint_does():
    clip = np.zeros((2, 1, 25, 3))
    clip[0, 0, :, 1] = np.linspace(0, 1, 25)
    clip[1] = clip[0]
    clip[1, 0, 3, 1] = 5.0
    heights = [
        min(
            float(point.split()[1])
            for path in paths(clip_svg(clip[f : f + 1], NTU25))
            for point in path.get("d")[1:].replace("L", "M").split("M")
        )
        for f in (0, 1)
    ]
    assert heights[0] == heights[1] == 6.0, "the highest point touches the margin in either picture"


@pytest.mark.parametrize("frames", [0, 1, 3, 300])
def test_any_length_can_be_drawn(frames):
    clip = np.random.default_rng(0).normal(size=(frames, 2, 25, 3))
    clip[:1, 0, 0, 0] = np.nan
    for svg in (clip_svg(clip, NTU25), animated_svg(clip, NTU25)):
        assert "nan" not in svg
        paths(svg)


def test_animation_is_small_and_has_as_many_pictures_as_asked(made):
    svg = animated_svg(made.train.clip(0), made.skeleton, frames=20, title="<b>&")
    assert len(svg) < 60_000 and "&lt;b&gt;&amp;" in svg
    steps = [e.get("values").split(";") for e in ET.fromstring(svg).iter() if e.tag.endswith("animate")]
    assert len(steps) == 3 * made.train.people[0] and {len(step) for step in steps} == {20}


def test_any_number_of_clips_and_deflated_files_hold_the_same(tmp_path):
    wish = {"classes": 4, "sizes": (11, 6), "frames": 30, "seed": 2}
    stored, small = write_synthetic(tmp_path / "synthetic.npz", **wish), tmp_path / "small_synthetic.npz"
    write_synthetic(small, deflated=True, **wish)
    assert small.stat().st_size < 0.9 * stored.stat().st_size
    one, other = open_data(stored), open_data(small)
    assert (len(one.train), len(one.test)) == (11, 6)
    assert np.bincount(one.train.labels).tolist() == [3, 3, 3, 2], "as even as 11 clips can be"
    np.testing.assert_array_equal(one.train.rows, other.train.rows)
    with pytest.raises(LabError, match="at least one clip"):
        write_synthetic(stored, classes=4, sizes=(3, 6))
