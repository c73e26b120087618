"""A clip can be found by its id or number and looked at as a page, a moving picture or a film strip."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from shared_data.atomic import WriteError
from shared_data.clips import Clips
from shared_data.datasets import DataSet, open_data
from shared_data.draw import fit, strokes, turned
from shared_data.errors import LabError, UsageError
from shared_data.show import find, in_pixels, show
from shared_data.skeletons import COCO17, KINETICS18, NTU25, SKELETONS, UCLA20, Skeleton


def dataset(layout: Skeleton = UCLA20, clips: int = 3, frames: int = 12, people: int = 2) -> DataSet:
    """Made-up clips, the second person of clip 0 absent; train ids walk_0 ..., test ids test_0."""
    rng = np.random.default_rng(4)

    def part(count: int, name: str) -> Clips:
        here = np.full(count, people)
        here[0] = 1
        rows_per_clip = here * frames
        rows = rng.normal(size=(1 + rows_per_clip.sum(), layout.joints, 3)).astype(np.float32)
        rows[0] = 0
        offset = 1 + np.cumsum(rows_per_clip) - rows_per_clip
        extent = np.full(count, frames, np.int32)
        ids = np.array([f"{name}_{n}" for n in range(count)])
        return Clips(rows, offset, extent, extent, here.astype(np.int32), np.arange(count) % 2, ids, people)

    names = ("wave <b>left</b>", 'say "hi" & go')
    return DataSet("made", Path("made.h5"), "store", "", layout, 2, names, part(clips, "walk"), part(2, "test"), ())


class Page(HTMLParser):
    """Checks that tags are balanced and nothing is fetched; keeps text, classes of tags and titles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.titles: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "img", "iframe", "object")
        assert not {name for name, _ in attrs} & {"src", "href", "onload", "onclick"}
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "title":
            self.titles.append(data)


def test_the_page_says_what_the_clip_is(tmp_path):
    out = show(dataset(), "walk_1", tmp_path / "clip.html", frames=4)
    text = out.read_text()
    page = Page(text)
    assert page.titles[0] == 'say "hi" & go, clip walk_1'
    assert page.titles.count("left elbow") == 4 * 2, "each joint of each person of each frame is named"
    assert page.counts["circle"] == 4 * 2 * 20
    assert page.counts["animate"] == 2 * 3 * 2, "two people, three sides, bones and joints move"
    assert "<td>ucla20: Kinect v1, 20 joints (NW-UCLA)</td>" in text and "12 stored, 12 valid, 0.4 s" in text
    assert "2 of at most 2" in text and "number 1 of train in made.h5 (store)" in text
    assert "http" not in text and "url(" not in text


def test_names_of_classes_cannot_inject_anything(tmp_path):
    text = show(dataset(), "walk_0", tmp_path / "clip.html").read_text()
    assert "<b>" not in text and "wave &lt;b&gt;left&lt;/b&gt;" in text
    assert "person 1, right" in text and "person 2" not in text, "only who is there has a colour"
    Page(text)


@pytest.mark.parametrize("layout", SKELETONS.values(), ids=list(SKELETONS))
def test_every_layout_can_be_shown(tmp_path, layout):
    text = show(dataset(layout), "walk_2", tmp_path / "clip.html").read_text()
    assert Page(text).counts["circle"] == 10 * 2 * layout.joints


def test_a_clip_is_found_by_number_in_its_split():
    data = dataset()
    assert (find(data, "1", "train").number, find(data, "1", "test").clips is data.test) == (1, True)
    assert find(data, "test_1").split == "test"
    twice = replace(data, test=replace(data.test, ids=np.array(["walk_0", "walk_1"])))
    assert find(twice, "walk_1", "test").split == "test"
    with pytest.raises(UsageError, match="2 clips are called walk_1"):
        find(twice, "walk_1")


@pytest.mark.parametrize(
    ("clip", "split", "said"),
    [
        ("walk_9", None, "did you mean walk_"),
        ("wlak_1", None, "did you mean walk_1"),
        ("walk_1", "test", "one of 2 ids like test_0"),
        ("1", None, "of which part"),
        ("3", "train", "train has no clip number 3"),
        ("-1", "train", "no clip is called '-1'"),
        ("²", "train", "no clip is called"),
        ("9" * 5000, "test", "no clip is called"),
        ("walk_1", "tets", "did you mean test"),
    ],
)
def test_a_clip_that_is_not_there_names_what_is(clip, split, said):
    with pytest.raises(UsageError, match=said):
        find(dataset(), clip, split)


@pytest.mark.parametrize(
    "wrong", [{"frames": 0}, {"frames": 10**6}, {"fps": 0.0}, {"fps": float("nan")}, {"turn": float("inf")}], ids=str
)
def test_options_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match="asked for"):
        show(dataset(), "walk_0", tmp_path / "clip.html", **wrong)


def test_where_a_picture_cannot_go(tmp_path):
    with pytest.raises(UsageError, match=r"clip\.mp4"):
        show(dataset(), "walk_0", tmp_path / "clip.mp4")
    with pytest.raises(WriteError, match="folder does not exist") as caught:
        show(dataset(), "walk_0", tmp_path / "no such folder" / "clip.html")
    assert caught.value.exit_code == 74


OTHERS = {  # files of those names that somebody else made
    "clip.html": b"<!doctype html>\n<html lang='en'><head><title>my thesis</title></head><body>sal data show</body></html>",
    "clip.gif": b"GIF89a\x01\x00\x01\x00\x00\x00\x00!\xfe\x05hello\x00;",
    "clip.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "empty.html": b"",
    "clip.HTML": b"text that mentions sal data show",
}


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_but_an_own_picture_is_replaced(tmp_path, pillow, name):
    file = tmp_path / name
    file.write_bytes(OTHERS[name])
    with pytest.raises(WriteError, match="is left alone") as caught:
        show(dataset(), "walk_0", file)
    assert caught.value.exit_code == 74 and file.read_bytes() == OTHERS[name]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["clip.html", "clip.gif", "clip.png", "clip.HTML"])
def test_an_own_picture_is_replaced(tmp_path, pillow, name):
    file = show(dataset(), "walk_0", tmp_path / name)
    first = file.read_bytes()
    assert show(dataset(people=1), "walk_1", file, frames=3).read_bytes() != first
    renamed = file.rename(tmp_path / f"of another kind{'.png' if name != 'clip.png' else '.gif'}")
    with pytest.raises(WriteError, match="is left alone"):
        show(dataset(), "walk_0", renamed)


def test_a_name_that_is_no_text_is_replaced_in_the_page(tmp_path):
    data = replace(dataset(), path=Path("made\udcff.h5"))
    assert "in made?.h5 (store)" in show(data, "walk_1", tmp_path / "clip.html").read_text()


def test_a_file_is_opened_for_a_path(tmp_path, synthetic_file):
    text = show(synthetic_file, "0", tmp_path / "clip.html", split="test").read_text()
    assert open_data(synthetic_file).class_names[int(open_data(synthetic_file).test.labels[0])] in text


def test_metres_keep_their_proportions():
    """A square of one metre is a square in the picture, y up, and the bones end where the joints are."""
    clip = np.zeros((1, 1, 17, 3))
    clip[0, 0, 5], clip[0, 0, 6], clip[0, 0, 13] = (0, 1, 3), (1, 1, 3), (0, 0, 3)
    view, _ = fit(clip, 112)
    left, right, low = view(clip[0, 0, [5, 6, 13]])
    assert right[0] - left[0] == pytest.approx(100) == low[1] - left[1]
    for part in strokes(view, clip[0], COCO17):
        at = dict(zip(part.numbers, part.joints.tolist(), strict=True))
        children = [child for child, _ in COCO17.edges if child in at]
        assert part.bones[:, 0].tolist() == [at[child] for child in children]


def test_pixels_are_told_from_metres_and_drawn_upright(tmp_path):
    data = dataset(COCO17, people=1)
    rows = np.array(data.train.rows)
    rows[1:, :, 0] = 300
    rows[1:, :, 1] = np.linspace(100, 400, 17)  # the nose is at the top of the image
    rows[1:, :, 2] = 0.9
    data = replace(data, train=replace(data.train, rows=rows))
    assert in_pixels(data.train.clip(0)) and not in_pixels(data.test.clip(0)) and not in_pixels(np.zeros((0, 1, 17, 3)))
    text = show(data, "walk_0", tmp_path / "clip.html", frames=1).read_text()
    assert "<th>y, down</th><td>100.00 to 400.00 pixels</td>" in text and "<th>score</th><td>0.90 to 0.90</td>" in text
    height = {name: float(y) for y, name in re.findall(r'cy="([0-9.]+)"><title>([a-z ]+)<', text)}
    assert height["nose"] == 6 and height["right ankle"] == 194, "y grows downwards in SVG as well"


def test_millimetres_are_not_taken_for_pixels():
    assert not in_pixels(np.random.default_rng(0).normal(scale=900, size=(4, 1, 25, 3)))


def test_colours_tell_left_from_right():
    clip = np.random.default_rng(0).normal(size=(1, 2, 18, 3))
    parts = strokes(fit(clip, 100)[0], clip[0], KINETICS18)
    assert len({part.colour for part in parts}) == 6
    for part, side in zip(parts[:3], ("left", "", "right"), strict=True):
        assert {KINETICS18.joint_names[joint].split()[0] for joint in part.numbers} <= {side, "nose", "neck"}
        assert all(KINETICS18.joint_names[joint].startswith(side) for joint in part.numbers)
    assert sorted(joint for part in parts[:3] for joint in part.numbers) == list(range(18))


def test_turning_keeps_bone_lengths_and_a_quarter_shows_the_side():
    clip = np.random.default_rng(1).normal(size=(3, 2, 25, 3))
    clip[:, 1] = 0
    child, parent = np.array(NTU25.edges).T

    def length(x):
        return np.linalg.norm(x[..., child, :] - x[..., parent, :], axis=-1)

    np.testing.assert_allclose(length(turned(clip, 33.0)), length(clip), atol=1e-12)
    np.testing.assert_allclose(turned(clip, 90)[..., 0], clip[..., 2], atol=1e-12)
    np.testing.assert_allclose(turned(clip, 360), clip, atol=1e-12)
    assert not turned(clip, 33.0)[:, 1].any()


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image", reason="PNG and GIF need Pillow: pip install pillow")


def colours(image) -> set[tuple[int, int, int]]:
    return {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()}


def test_png_is_a_film_strip(tmp_path, pillow):
    one = pillow.open(show(dataset(), "walk_1", tmp_path / "one.png", frames=1))
    four = pillow.open(show(dataset(), "walk_1", tmp_path / "four.png", frames=4))
    assert four.width == 4 * one.width and four.height == one.height == 314
    assert {(0x7F, 0xB3, 0xFF), (0x12, 0x3A, 0x7A), (0x7A, 0x34, 0x08), (255, 255, 255)} <= colours(four)


def test_gif_runs_at_the_true_speed(tmp_path, pillow):
    gif = pillow.open(show(dataset(frames=12), "walk_1", tmp_path / "clip.gif", fps=30))
    assert gif.n_frames == 12 and gif.info["loop"] == 0
    assert sum(_durations(gif)) == 400
    thinner = pillow.open(show(dataset(frames=12), "walk_1", tmp_path / "clip.gif", fps=30, frames=5))
    assert thinner.n_frames == 5 and sum(_durations(thinner)) == 400


def _durations(gif) -> list[int]:
    found = []
    for frame in range(gif.n_frames):
        gif.seek(frame)
        found.append(gif.info["duration"])
    return found


def test_an_empty_clip_is_an_empty_picture(pillow):
    from shared_data.raster import clip_gif, clip_png

    nothing = np.zeros((0, 1, 25, 3))
    assert colours(pillow.open(BytesIO(clip_png(nothing, NTU25)))) == {(255, 255, 255)}
    assert pillow.open(BytesIO(clip_gif(nothing, NTU25))).n_frames == 1


def test_without_pillow_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    for name in ("clip.png", "clip.gif"):
        with pytest.raises(LabError, match="pip install pillow"):
            show(dataset(), "walk_0", tmp_path / name)
