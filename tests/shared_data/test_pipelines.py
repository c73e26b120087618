"""The two CTR-GCN pipelines against clip-by-clip imitations of the official readers, written down naively from the spec."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared_data.batches.augment import rotation_matrices
from shared_data.batches.upstream import UpstreamDraws, stream
from shared_data.clips import Clips
from shared_data.datasets import open_data
from shared_data.errors import LabError
from shared_data.formats.ragged import RaggedBuilder, in_memory
from shared_data.pipelines import PIPELINES, NtuDraws, UclaDraws, pipeline, rows_of
from shared_data.skeletons import NTU25, UCLA20

LENGTHS = [1, 2, 20, 39, 40, 63, 64, 65, 100, 127, 299, 300]
STREAMS = ["j", "b", "jm", "bm"]


def build(padded: list[np.ndarray], *, people: int, joints: int, dtype: Any, ragged_source: bool) -> Clips:
    """Clips from arrays (T, M, V, 3)."""
    builder = RaggedBuilder(
        in_memory("train", joints, np.dtype(dtype)), joints=joints, max_people=people, dtype=dtype, padded=not ragged_source
    )
    for clip in padded:
        builder.add(clip[None])
    labels, ids = np.arange(len(padded)) % 3, np.array([f"train_{i}" for i in range(len(padded))])
    return builder.finish(labels, ids, frames=None if ragged_source else len(padded[0]))


@pytest.fixture(scope="module")
def ntu() -> tuple[list[np.ndarray], Clips]:
    """Walk-like clips in metres, every second one with two people; one with a gap."""
    rng = np.random.default_rng(0)
    padded = []
    for n, length in enumerate(LENGTHS):
        clip = np.zeros((300, 2, 25, 3), dtype=np.float32)
        clip[:length, : 1 + n % 2] = rng.standard_normal((length, 1 + n % 2, 25, 3)) / 2
        padded.append(clip)
    padded[8][50] = 0
    return padded, build(padded, people=2, joints=25, dtype=np.float32, ragged_source=False)


@pytest.fixture(scope="module")
def ucla() -> tuple[list[np.ndarray], Clips]:
    rng = np.random.default_rng(1)
    raw = [np.round(rng.standard_normal((length, 1, 20, 3)), 3) for length in (1, 2, 7, 52, 53, 120, 201)]
    return raw, build(raw, people=1, joints=20, dtype=np.float64, ragged_source=True)


def naive_stream(x: np.ndarray, stream: str, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(3, T, V, M): bones, then motion."""
    if "b" in stream:
        x = np.stack([x[:, :, child] - x[:, :, dict(pairs)[child]] for child in range(x.shape[2])], axis=2)
    if "m" in stream:
        x = np.concatenate([x[:, 1:] - x[:, :-1], np.zeros_like(x[:, :1])], axis=1)
    return x


def naive_ntu(clip: np.ndarray, start: int, length: int, matrix: np.ndarray | None, stream: str, window: int) -> np.ndarray:
    """One clip (T, M, V, 3) the official way: cut, resize with torch, rotate, bone, motion -> (3, window, V, M)."""
    x = clip.transpose(3, 0, 2, 1)[:, start : start + length]
    flat = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(1, 1, -1, length))
    flat = torch.nn.functional.interpolate(flat, size=(flat.shape[2], window), mode="bilinear", align_corners=False)
    x = flat.reshape(3, x.shape[2], x.shape[3], window).permute(0, 3, 1, 2).numpy()
    if matrix is not None:
        x = np.einsum("ij,jtvm->itvm", matrix.astype(np.float64), x.astype(np.float64))
    return naive_stream(x, stream, NTU25.bones)


def naive_ucla(clip: np.ndarray, x_deg: int, y_deg: int, scale: float, frames: np.ndarray, stream: str) -> np.ndarray:
    """One clip (L, V, 3) the official way, in float64 -> (3, frames, V, 1)."""
    a, b = np.radians(x_deg), np.radians(y_deg)
    rx = np.array([[1, 0, 0], [0, np.cos(a), np.sin(a)], [0, -np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
    points = (clip - clip[0, 1]).reshape(-1, 3) @ (ry @ (rx @ (scale * np.eye(3))))
    points = (points - points.min(0)) / (points.max(0) - points.min(0)) * 2 - 1
    x = points.reshape(clip.shape)[frames].transpose(2, 0, 1)[..., None]
    return naive_stream(x, stream, UCLA20.bones)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("window", [64, 52])
def test_ntu_test_batches(ntu: tuple[list[np.ndarray], Clips], stream: str, window: int) -> None:
    padded, clips = ntu
    ours = pipeline("ctrgcn_ntu", stream=stream, window=window).test(clips, np.arange(len(clips))).numpy()
    assert ours.shape == (len(clips), 3, window, 25, 2)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    for n, clip in enumerate(padded):
        valid = int((clip.sum((1, 2, 3)) != 0).sum())
        cut = int((1 - 0.95) * valid / 2)
        expected = naive_ntu(clip, cut, valid - 2 * cut, None, stream, window)
        assert np.abs(ours[n] - expected).max() <= 1e-6


@pytest.mark.parametrize("stream", STREAMS)
def test_ntu_train_batches(ntu: tuple[list[np.ndarray], Clips], stream: str) -> None:
    padded, clips = ntu
    ours = pipeline("ctrgcn_ntu", stream=stream)
    index = np.array([3, 11, 0, 7, 8, 8, 10, 9, 1])
    draws = ours.draw(clips, index, seed=1, epoch=2, repeat_number=np.arange(9))
    batch = ours.train(clips, index, draws).numpy()
    for row, n in enumerate(index):
        expected = naive_ntu(padded[n], draws.start[row], draws.length[row], draws.matrices[row], stream, 64)
        assert np.abs(batch[row] - expected).max() <= 2e-6  # the imitation rotates in float64


@pytest.mark.parametrize("stream", STREAMS)
def test_ucla_batches(ucla: tuple[list[np.ndarray], Clips], stream: str) -> None:
    raw, clips = ucla
    ours = pipeline("ctrgcn_ucla", stream=stream)
    index = np.array([6, 0, 3, 3, 1, 5, 2, 4])
    batch = ours.test(clips, index).numpy()
    assert batch.shape == (8, 3, 52, 20, 1)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    draws = ours.draw(clips, index, seed=1, epoch=2, repeat_number=np.arange(8))
    trained = ours.train(clips, index, draws).numpy()
    for row, n in enumerate(index):
        clip = raw[n][:, 0]
        even = np.floor(np.linspace(0, len(clip) - 1, 52)).astype(int)
        assert np.abs(batch[row] - naive_ucla(clip, 0, 0, 1.0, even, stream)).max() <= 1e-6
        expected = naive_ucla(clip, draws.angle_x[row], draws.angle_y[row], draws.scale[row], draws.frames[row], stream)
        assert np.abs(trained[row] - expected).max() <= 1e-6


def test_ucla_size_does_not_matter(ucla: tuple[list[np.ndarray], Clips]) -> None:
    """Spec section 9, item 9: the min-max scaling removes the drawn scale."""
    _, clips = ucla
    ours = pipeline("ctrgcn_ucla")
    index = np.arange(len(clips))
    draws = ours.draw(clips, index, seed=0, epoch=0)
    half = dataclasses.replace(draws, scale=draws.scale / 2)
    np.testing.assert_allclose(ours.train(clips, index, draws), ours.train(clips, index, half), atol=1e-6)


def test_an_axis_that_never_changes_stays_finite() -> None:
    flat = np.random.default_rng(2).standard_normal((9, 1, 20, 3))
    flat[..., 2] = 1.5
    clips = build([flat, np.zeros((3, 1, 20, 3))], people=1, joints=20, dtype=np.float64, ragged_source=True)
    ours = pipeline("ctrgcn_ucla", random_rot=False)
    index = np.array([0, 1])
    for batch in (ours.test(clips, index), ours.train(clips, index, ours.draw(clips, index, 0, 0))):
        assert torch.isfinite(batch).all()
        assert not batch[0, 2].any()
        assert batch[0, :2].any()
        assert not batch[1].any()


@pytest.mark.parametrize("name", ["ctrgcn_ntu", "ctrgcn_ucla"])
def test_draws_depend_on_seed_epoch_clip_and_repeat_alone(name: str, request: pytest.FixtureRequest) -> None:
    clips: Clips = request.getfixturevalue("ntu" if name == "ctrgcn_ntu" else "ucla")[1]
    ours = pipeline(name)
    index = np.array([5, 4, 6, 4, 2])
    repeat = np.array([0, 0, 0, 1, 0])
    base = dataclasses.asdict(ours.draw(clips, index, 3, 4, repeat))
    mixed = np.array([3, 0, 4])
    other = dataclasses.asdict(ours.draw(clips, index[mixed], 3, 4, repeat[mixed]))
    cut = dataclasses.asdict(rows_of(ours.draw(clips, index, 3, 4, repeat), mixed))
    for field, values in base.items():
        np.testing.assert_array_equal(other[field], values[mixed])
        np.testing.assert_array_equal(cut[field], values[mixed])
    random_field = "matrices" if name == "ctrgcn_ntu" else "frames"
    assert not np.array_equal(base[random_field][1], base[random_field][3]), "a repeat has its own draws"
    for seed, epoch in ((3, 5), (4, 4)):
        changed = dataclasses.asdict(ours.draw(clips, index, seed, epoch, repeat))
        assert not np.array_equal(changed[random_field], base[random_field])


def test_drawn_angles_fill_their_range(ntu: tuple[list[np.ndarray], Clips], ucla: tuple[list[np.ndarray], Clips]) -> None:
    index = np.zeros(20_000, dtype=np.int64)
    repeat = np.arange(20_000)
    matrices = pipeline("ctrgcn_ntu", theta=0.5).draw(ntu[1], index, 0, 0, repeat).matrices.astype(np.float64)
    x = np.arctan2(-matrices[:, 2, 1], matrices[:, 2, 2])
    y = np.arcsin(matrices[:, 2, 0])
    z = np.arctan2(-matrices[:, 1, 0], matrices[:, 0, 0])
    angles = np.stack([x, y, z], axis=1)
    assert 0.49 < np.abs(angles).max() <= 0.5 + 1e-6
    assert (np.abs(np.quantile(angles, [0.25, 0.5, 0.75], axis=0) - np.array([[-0.25], [0], [0.25]])) < 0.02).all()
    draws = pipeline("ctrgcn_ucla").draw(ucla[1], index + 6, 0, 0, repeat)
    for degrees in (draws.angle_x, draws.angle_y):
        counts = np.bincount(degrees + 60, minlength=121)
        assert len(counts) == 121
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 159  # chi square, 120 degrees of freedom, 1 %
    assert draws.scale.min() >= 0.5
    assert draws.scale.max() < 1.5


def test_options_switch_the_randomness_off(ntu: tuple[list[np.ndarray], Clips]) -> None:
    _, clips = ntu
    ours = pipeline("ctrgcn_ntu", random_rot=False, p_interval=[0.95])
    index = np.arange(len(clips))
    np.testing.assert_array_equal(ours.train(clips, index, ours.draw(clips, index, 0, 0)), ours.test(clips, index))
    still = NtuDraws(np.zeros(1, int), np.array([64]), np.zeros((1, 3)))
    assert ours.train(clips, np.array([6]), still).shape == (1, 3, 64, 25, 2)


def test_a_batch_can_be_written_into_given_memory(
    ntu: tuple[list[np.ndarray], Clips], ucla: tuple[list[np.ndarray], Clips]
) -> None:
    for name, clips in (("ctrgcn_ntu", ntu[1]), ("ctrgcn_ucla", ucla[1])):
        ours = pipeline(name)
        index = np.array([2, 0])
        plain = ours.test(clips, index)
        out = torch.full_like(plain, torch.nan)
        assert ours.test(clips, index, out) is out
        assert torch.equal(out, plain)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ctrgcn_nut", {}, "did you mean ctrgcn_ntu"),
        ("ctrgcn_ntu", {"windw": 64}, "did you mean window"),
        ("ctrgcn_ucla", {"p_interval": [0.5, 1]}, "unknown option 'p_interval'"),
        ("ctrgcn_ntu", {"stream": "mb"}, "option stream is 'mb'"),
        ("ctrgcn_ntu", {"window": 0}, "option window is 0"),
        ("ctrgcn_ntu", {"window": 64.0}, "option window is 64.0"),
        ("ctrgcn_ntu", {"window": True}, "option window is True"),
        ("ctrgcn_ucla", {"window": 10_001}, "option window is 10001"),
        ("ctrgcn_ntu", {"p_interval": [1, 0.5]}, "option p_interval"),
        ("ctrgcn_ntu", {"p_interval": 0.5}, "option p_interval"),
        ("ctrgcn_ntu", {"p_interval": "ab"}, "option p_interval"),
        ("ctrgcn_ntu", {"p_interval": [0, 1]}, "option p_interval"),
        ("ctrgcn_ntu", {"test_p_interval": [0.5, 1]}, "option test_p_interval"),
        ("ctrgcn_ntu", {"random_rot": "yes"}, "option random_rot"),
        ("ctrgcn_ntu", {"theta": float("nan")}, "option theta"),
        ("ctrgcn_ntu", {"skeleton": "ntu52"}, "unknown skeleton layout"),
        ("ctrgcn_ucla", {"max_degrees": 1.5}, "option max_degrees"),
    ],
)
def test_wrong_names_and_values_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(LabError, match=message):
        pipeline(name, **options)


def test_clips_of_another_kind_are_refused(ntu: tuple[list[np.ndarray], Clips], ucla: tuple[list[np.ndarray], Clips]) -> None:
    with pytest.raises(LabError, match="20 joints"):
        pipeline("ctrgcn_ntu").accept(ucla[1])
    with pytest.raises(LabError, match="25 joints"):
        pipeline("ctrgcn_ucla").accept(ntu[1])
    with pytest.raises(LabError, match="up to 2 people"):
        pipeline("ctrgcn_ucla", skeleton="ntu25").accept(ntu[1])
    pipeline("ctrgcn_ntu", skeleton="ucla20").accept(ucla[1])


def test_recorded_ucla_draws_can_be_replayed(ucla: tuple[list[np.ndarray], Clips]) -> None:
    raw, clips = ucla
    frames = np.tile(np.arange(52) % 7, (1, 1))
    recorded = UclaDraws(np.array([25]), np.array([-60]), np.array([0.7]), frames)
    batch = pipeline("ctrgcn_ucla").train(clips, np.array([2]), recorded).numpy()
    assert np.abs(batch[0] - naive_ucla(raw[2][:, 0], 25, -60, 0.7, frames[0], "j")).max() <= 1e-6


def test_official_draws_come_from_the_recorded_seeds() -> None:
    """The recorded official reader was seeded before each clip: our imitation of its calls must draw the recorded numbers."""
    folder = Path(__file__).resolve().parents[1] / "parity" / "pipelines"
    clips = open_data(folder / "clips_ntu.npz").train
    meta = json.loads(str(np.load(folder / "ctrgcn_ntu.npz")["meta"]))
    group = meta["groups"]["train/j"]
    ours = pipeline("ctrgcn_ntu")
    assert isinstance(ours, UpstreamDraws)
    for clip, seed, recorded in zip(group["clips"], group["seeds"], group["draws"], strict=True):
        draws = ours.draw_upstream(clips, np.array([clip]), stream(seed))
        assert (draws.start[0], draws.length[0]) == (recorded["start"], recorded["length"])
        np.testing.assert_array_equal(draws.matrices[0], rotation_matrices(np.array([recorded["angles"]]))[0])


def test_mamps_reader_is_the_same_with_a_longer_window(ntu: tuple[list[np.ndarray], Clips]) -> None:
    index = np.arange(len(ntu[1]))
    assert torch.equal(pipeline("mamp_ntu").test(ntu[1], index), pipeline("ctrgcn_ntu", window=120).test(ntu[1], index))


def test_every_pipeline_is_in_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "pipelines.md").read_text()
    assert not [name for name in PIPELINES if f"`{name}`" not in page]
    named = set(re.findall(r"`([a-z0-9]+_(?:ntu|ucla|pretrain|downstream))`", page))
    assert named == set(PIPELINES)
