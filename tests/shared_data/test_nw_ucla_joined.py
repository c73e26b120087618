"""Clips of NW-UCLA joined to untrimmed sequences: every clip once, continuous along the floor, reachable by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from shared_data.datasets import open_data
from shared_data.errors import DataError
from shared_data.formats.nw_ucla_joined import ucla_sequences
from shared_data.formats.options import ReadOptions
from shared_data.formats.untrimmed import open_sequences
from shared_data.sequence_store import prepare_sequences

ACTIONS = ("01", "02", "05", "12")
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "nw_ucla" / "all_sqe.zip"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root, rng = tmp_path / "ucla", np.random.default_rng(0)
    root.mkdir()
    for view in (1, 2, 3):
        for subject in ("01", "02"):
            for action in ACTIONS:
                for take in range(3):
                    frames = rng.normal(0, 0.3, (1, 20, 3)) + np.cumsum(rng.normal(0, 0.05, (int(rng.integers(1, 9)), 1, 3)), 0)
                    name = f"a{action}_s{subject}_e{take:02d}_v{view:02d}"
                    (root / f"{name}.json").write_text(json.dumps({"skeletons": (frames + np.array([0, 0, 3])).tolist()}))
    return root


def test_every_clip_is_used_once_by_subject_and_view(folder):
    source, clips = ucla_sequences(folder, clips=4), open_data(folder)
    assert source.class_names[:2] == ("background", "pick up with one hand") and len(source.class_names) == 11
    assert source.skeleton.name == "ucla20" and source.splits["train"].clips.max_people == 1
    takes = [f"s{s}_v{v}_{n:02d}" for s in ("01", "02") for v in ("01", "02") for n in range(3)]
    assert source.splits["train"].ids.tolist() == takes
    assert source.splits["test"].ids.tolist() == [f"s{s}_v03_{n:02d}" for s in ("01", "02") for n in range(3)]
    for split, part in (("train", clips.train), ("test", clips.test)):
        counted = np.bincount(np.repeat(part.labels + 1, part.extent), minlength=11)
        assert np.bincount(source.splits[split].classes, minlength=11).tolist() == counted.tolist() and counted[0] == 0


def test_a_sequence_is_its_clips_moved_along_the_floor(folder):
    source, clips = ucla_sequences(folder, clips=4), open_data(folder).test
    by_shape = {
        (clip := clips.clip(n)[:, 0])[0].astype(np.float32)[:, 1].tobytes(): (clip, clips.labels[n]) for n in range(len(clips))
    }
    test, used = source.splits["test"], 0
    for n in range(len(test)):
        frames, labels, now, recorded = test.frames(n)[:, 0], test.labels(n), 0, []
        while now < len(frames):
            clip, label = by_shape[frames[now, :, 1].tobytes()]
            span = slice(now, now + len(clip))
            moved = frames[span] - clip
            np.testing.assert_allclose(moved, np.broadcast_to(moved[0, 0], moved.shape), atol=1e-6)
            assert (labels[span] == label + 1).all() and abs(moved[0, 0, 1]) < 1e-6, "heights are as recorded"
            if now:
                np.testing.assert_allclose(frames[now, 0, [0, 2]], frames[now - 1, 0, [0, 2]], atol=1e-6)
            recorded.append(clip[:, 0])
            now += len(clip)
            used += 1
        np.testing.assert_allclose(np.concatenate(recorded).mean(0), frames[:, 0].mean(0), atol=1e-6)
    assert used == len(clips) == 24


def test_the_order_follows_from_seed_and_names(folder):
    one, again, other = (ucla_sequences(folder, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.splits["train"].clips.rows, again.splits["train"].clips.rows)
    assert not np.array_equal(one.splits["train"].classes, other.splits["train"].classes)


def test_it_is_a_layout_of_sequences_that_is_asked_for_by_name(folder, tmp_path):
    with pytest.raises(DataError, match="no untrimmed sequences in this folder"):
        open_sequences(folder)
    source = open_sequences(folder, layout="nw_ucla")
    assert len(source.splits["train"]) == 8 and "joined" in {f.code for f in source.findings}
    stored = open_sequences(prepare_sequences(folder, tmp_path / "s.h5", layout="nw_ucla"))
    assert stored.skeleton.name == "ucla20"
    np.testing.assert_array_equal(stored.splits["test"].frames(1), source.splits["test"].frames(1))


def test_a_clip_with_nan_is_refused_or_left_out(folder):
    bad = folder / "a01_s01_e00_v01.json"
    clip = json.loads(bad.read_text())
    clip["skeletons"][0][3][1] = float("nan")
    bad.write_text(json.dumps(clip))
    with pytest.raises(DataError, match="NaN"):
        open_sequences(folder, layout="nw_ucla")
    source = open_sequences(folder, layout="nw_ucla", options=ReadOptions(on_bad="drop"))
    assert np.isfinite(source.splits["train"].clips.rows).all()


@pytest.mark.slow
def test_the_real_clips_make_enough_sequences():
    path = Path(os.environ.get("SAL_NW_UCLA", REAL))
    if not path.exists():
        pytest.skip("no NW-UCLA here: $SAL_NW_UCLA names its folder or zip")
    source = ucla_sequences(path)
    assert [len(source.splits[split]) for split in ("train", "test")] == [127, 57]
    assert {f.code: f.count for f in source.findings}["clip-shared"] == 95
