"""MS-G3D's reader and offline normalisation: the official outputs, and a clip-by-clip imitation written from the spec."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.parity.pipelines import examine
from shared_data.batches.alignment import turning
from shared_data.batches.prenormalise import frame_counts, prenormalise, prenormalised
from shared_data.clips import Clips
from shared_data.datasets import open_data
from shared_data.errors import LabError
from shared_data.pipelines import pipeline, rows_of


@pytest.fixture(scope="module")
def clips(parity_clips: Path) -> Clips:
    """The recorded clips two or three metres away from the camera, as they come from the sensor."""
    data = open_data(parity_clips / "clips_ntu.npz").test
    rows = data.rows.copy()
    rows[rows.any(axis=(1, 2))] += np.array([-0.42, 0.44, 2.78], np.float32)
    return dataclasses.replace(data, rows=rows)


def padded(clips: Clips) -> np.ndarray:
    """(N, 300, 2, 25, 3)."""
    x = np.zeros((len(clips), 300, clips.max_people, 25, 3), np.float32)
    for n in range(len(clips)):
        clip = clips.clip(n)
        x[n, : len(clip), : clip.shape[1]] = clip
    return x


def naive(clip: np.ndarray) -> np.ndarray:
    """One clip (T, M, 25, 3) by the words of the spec, person by person and frame by frame, in float64."""
    frames = len(clip)
    people = clip.astype(np.float64).transpose(1, 0, 2, 3).copy()
    for m, person in enumerate(people):
        if not person.any():
            continue
        if not person[0].any():
            seen = person[person.any(axis=(1, 2))]
            person[:] = 0
            person[: len(seen)] = seen
        stop = max(f for f in range(frames) if person[f].any()) + 1
        people[m] = np.stack([person[f % stop] for f in range(frames)])
    centre = people[0, :, 1].copy()
    for person in people:
        for f in range(frames):
            for v in range(25):
                if person[f, v].any():
                    person[f, v] -= centre[f]
    for (a, b), axis in (((0, 1), 2), ((4, 8), 0)):
        vector, target = people[0, 0, b] - people[0, 0, a], np.eye(3)[axis]
        normal = np.cross(vector, target)
        if np.abs(normal).sum() < 1e-6:
            continue
        angle = np.arccos(np.clip(vector @ target / np.linalg.norm(vector), -1, 1))
        w, (x, y, z) = np.cos(angle / 2), np.sin(angle / 2) * normal / np.linalg.norm(normal)  # a unit quaternion
        matrix = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        people = people @ matrix.T
    return people.transpose(1, 0, 2, 3)


def test_the_official_outputs_are_reproduced(parity_clips: Path) -> None:
    found = examine(parity_clips / "msg3d_prenorm.npz")
    assert not [line for line in found.lines if not line.ok]
    names = {line.quantity for line in found.lines}
    expected = {"prenorm/joint sample", "prenorm/joint frame 0", "prenorm/joint_first64", "prenorm/joint on the fly"}
    assert expected <= names
    assert {f"feeder/{name} wsum" for name in ("plain", "shift", "choose64", "choose320", "move")} <= names
    assert all("of 24" in note or "12 of 12" in note for note in found.notes)


def test_normalisation_follows_the_spec(clips: Clips) -> None:
    x = padded(clips)
    # What the recorded clips lack: people who are there late, or not at first, and single joints at the origin.
    x[3, :7, 0] = 0
    x[4, :5, 1] = x[4, 20:25, 1] = 0
    x[5, 10, 0, 7] = 0
    x[6, :, 0] = 0
    x[7] = 0
    ours = prenormalise(x)
    assert ours.shape == x.shape
    assert ours.dtype == np.float32
    for n in range(len(x)):
        np.testing.assert_allclose(ours[n], naive(x[n]), atol=2e-6, err_msg=f"clip {n}")
    assert not ours[7].any()
    assert not ours[5, 10, 0, 7].any()


def test_ragged_and_padded_clips_give_the_same_bits_in_any_blocks(clips: Clips) -> None:
    blocks = list(prenormalised(clips, block=7))
    assert [len(block) for block in blocks] == [7, 7, 7, 3]
    whole = np.concatenate(blocks)
    assert whole.shape == (24, 3, 300, 25, 2)
    np.testing.assert_array_equal(whole, prenormalise(padded(clips)).transpose(0, 4, 1, 3, 2))
    np.testing.assert_array_equal(next(prenormalised(clips.subset(np.array([17, 2])))), whole[[17, 2]])
    np.testing.assert_array_equal(frame_counts(clips), [len(clips.clip(n)) for n in range(len(clips))])


def test_normalised_clips_face_the_camera_at_the_origin(clips: Clips) -> None:
    for first in (block[:, :, 0, :, 0] for block in prenormalised(clips)):
        assert not first[:, :, 1].any()
        assert (first[:, 2, 0] < -0.1).all()  # the base of the spine lies below; the last turn tilts it out of the vertical
        across = first[:, :, 8] - first[:, :, 4]
        assert np.abs(across[:, 1]).max() < 1e-6
        assert (across[:, 0] > 0.1).all()


def test_other_lengths_and_inputs(clips: Clips) -> None:
    short = next(prenormalised(clips, frames=40))
    assert short.shape == (24, 3, 40, 25, 2)
    long = next(prenormalised(clips))
    fits = clips.extent <= 40
    np.testing.assert_array_equal(short[fits], long[fits][:, :, :40])
    assert frame_counts(clips, 40).max() == 40
    assert prenormalise(np.zeros((0, 300, 2, 25, 3), np.float32)).shape == (0, 300, 2, 25, 3)
    for wrong in (np.zeros((300, 2, 25, 3)), np.zeros((1, 3, 300, 25, 2)), np.zeros((1, 9, 2, 25, 3), np.int64)):
        with pytest.raises(LabError, match="clips of shape"):
            prenormalise(wrong)


def test_turning() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 3))
    for axis in range(3):
        matrices = turning(vectors, axis)
        np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), np.tile(np.eye(3), (50, 1, 1)), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(matrices), 1)
        turned = np.einsum("bij,bj->bi", matrices, vectors)
        np.testing.assert_allclose(turned, np.linalg.norm(vectors, axis=1)[:, None] * np.eye(3)[axis], atol=1e-12)
        stays = np.cross(vectors, np.eye(3)[axis])
        np.testing.assert_allclose(np.einsum("bij,bj->bi", matrices, stays), stays, atol=1e-12)
    still = np.array([[0, 0, 0], [2, 0, 0], [-2, 0, 0], [1, 1e-8, 0]])
    np.testing.assert_array_equal(turning(still, 0), np.tile(np.eye(3), (4, 1, 1)))


def test_whole_clips_and_bones(clips: Clips) -> None:
    index = np.array([3, 20, 0])
    x = torch.from_numpy(padded(clips).transpose(0, 4, 1, 3, 2)[index])
    assert torch.equal(pipeline("msg3d_ntu").test(clips, index), x)
    ours = pipeline("msg3d_ntu")
    assert torch.equal(ours.train(clips, index, ours.draw(clips, index, 0, 0)), x)
    bones = pipeline("msg3d_ntu", stream="b").test(clips, index)
    assert torch.equal(bones[..., 7, :], x[..., 7, :] - x[..., 6, :])
    assert not bones[..., 20, :].any()
    assert torch.equal(pipeline("msg3d_ntu", window=320).test(clips, index)[:, :, :300], x)
    assert not pipeline("msg3d_ntu", window=320).test(clips, index)[:, :, 300:].any()
    assert torch.equal(pipeline("msg3d_ntu", window=64).test(clips, index), x)
    assert torch.equal(pipeline("msg3d_ntu", frames=50).test(clips, index), x[:, :, :50])


def test_the_bones_of_normalised_clips(clips: Clips) -> None:
    index = np.arange(6)
    joints, bones = (pipeline("msg3d_ntu", prenorm=True, stream=stream).test(clips, index) for stream in "jb")
    np.testing.assert_array_equal(joints.numpy(), np.concatenate(list(prenormalised(clips)))[:6])
    assert torch.equal(bones[..., 7, :], joints[..., 7, :] - joints[..., 6, :])


@pytest.mark.parametrize("prenorm", [False, True])
@pytest.mark.parametrize("window", [64, 320])
def test_chosen_windows_are_stretches_of_the_clip(clips: Clips, window: int, prenorm: bool) -> None:
    index = np.arange(len(clips))
    whole = pipeline("msg3d_ntu", prenorm=prenorm).test(clips, index)
    ours = pipeline("msg3d_ntu", window=window, random_choose=True, prenorm=prenorm)
    assert ours.item(clips) == (3, window, 25, 2)
    draws = ours.draw(clips, index, 0, 0)
    batch = ours.train(clips, index, draws)
    for n, start in enumerate(draws.start):
        if window < 300:
            assert torch.equal(batch[n], whole[n, :, start : start + window])
        else:
            assert torch.equal(batch[n, :, start : start + 300], whole[n])
            assert not batch[n, :, :start].any()
            assert not batch[n, :, start + 300 :].any()
    middle = ours.test(clips, np.array([13]))  # 300 frames
    assert torch.equal(middle[0], whole[13, :, 118:182]) if window < 300 else torch.equal(middle[0, :, 10:310], whole[13])
    many = ours.draw(clips, np.zeros(30_000, np.int64), 1, 1, np.arange(30_000)).start
    assert (many.min(), many.max()) == (0, abs(300 - window))
    counts = np.bincount(many)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < len(counts) + 5 * np.sqrt(2 * len(counts))


def test_shifted_clips_move_as_a_whole(clips: Clips) -> None:
    index = np.arange(len(clips))
    whole = pipeline("msg3d_ntu").test(clips, index)
    ours = pipeline("msg3d_ntu", random_shift=True)
    draws = ours.draw(clips, index, 0, 0)
    batch = ours.train(clips, index, draws)
    for n in index:
        seen = torch.where(whole[n].abs().sum((0, 2, 3)) > 0)[0]
        begin, end = int(seen.min()), int(seen.max()) + 1
        to = int(draws.moved_to[n])
        assert torch.equal(batch[n, :, to : to + end - begin], whole[n, :, begin:end])
        assert not batch[n, :, :to].any()
        assert not batch[n, :, to + end - begin :].any()
    assert draws.moved_to[13] == 0
    many = ours.draw(clips, np.full(3000, 9), 0, 0, np.arange(3000)).moved_to  # 100 frames
    assert (many.min(), many.max()) == (0, 200)


def test_random_moves_are_drawn_as_published(clips: Clips) -> None:
    many = 30_000
    ours = pipeline("msg3d_ntu", random_move=True)
    move = ours.draw(clips, np.zeros(many, np.int64), 0, 0, np.arange(many)).move
    assert move.shape == (many, 2, 4)
    shifts = [-0.2, -0.1, 0.0, 0.1, 0.2]
    for column, choices in enumerate(([-10.0, -5.0, 0.0, 5.0, 10.0], [0.9, 1.0, 1.1], shifts, shifts)):
        for end in range(2):
            values, counts = np.unique(move[:, end, column], return_counts=True)
            np.testing.assert_allclose(values, choices)
            assert np.abs(counts / many - 1 / len(choices)).max() < 0.015
    index = np.arange(3)
    still = dataclasses.replace(ours.draw(clips, index, 0, 0), move=np.tile([[0.0, 1.0, 0.0, 0.0]], (3, 2, 1)))
    assert torch.equal(ours.train(clips, index, still), ours.test(clips, index))


@pytest.mark.parametrize(
    "options",
    [
        {"random_shift": True, "random_choose": True, "window": 64, "random_move": True, "stream": "b"},
        {"prenorm": True, "random_choose": True, "window": 64},
        {"prenorm": True},
    ],
)
def test_a_clip_has_the_same_bits_in_any_batch(clips: Clips, options: dict[str, Any]) -> None:
    ours = pipeline("msg3d_ntu", **options)
    index, some = np.arange(len(clips)), np.array([17, 3, 0])
    draws, again = ours.draw(clips, index, 5, 6), ours.draw(clips, some, 5, 6)
    cut = rows_of(draws, some)
    assert all(np.array_equal(getattr(cut, name), getattr(again, name)) for name in vars(cut))
    batch = ours.train(clips, index, draws)
    assert torch.equal(ours.train(clips, some, again), batch[some])
    out = torch.full_like(batch, torch.nan)
    assert ours.train(clips, index, draws, out) is out
    assert torch.equal(out, batch)


def test_rows_on_a_device_give_the_same_bits(clips: Clips) -> None:
    there = clips.on_device(torch.device("cpu"))
    assert there.table is not None
    index = np.array([2, 20, 15, 0, 18])
    for options in ({"prenorm": True}, {"random_shift": True, "random_choose": True, "window": 64, "random_move": True}):
        ours = pipeline("msg3d_ntu", **options)
        draws = ours.draw(clips, index, 0, 0)
        assert torch.equal(ours.train(there, index, draws), ours.train(clips, index, draws))


def test_empty_and_one_frame_clips(clips: Clips) -> None:
    one = clips.subset(np.array([0, 1]))
    assert one.extent[0] == 1
    none = np.array([1, 0], np.int32)
    empty = Clips(**{**vars(one), "people": none, "extent": none, "valid": none})
    for options in ({}, {"prenorm": True}, {"random_shift": True}, {"random_choose": True, "window": 300}):
        ours = pipeline("msg3d_ntu", **options)
        for batch in (ours.test(empty, np.arange(2)), ours.train(empty, np.arange(2), ours.draw(empty, np.arange(2), 0, 0))):
            assert batch[0].any()
            assert torch.isfinite(batch).all()
            assert not batch[1].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": "jm"}, "option stream is 'jm'"),
        ({"random_choose": True}, "option window is -1"),
        ({"window": 0}, "option window is 0"),
        ({"window": True}, "option window is True"),
        ({"frames": -1}, "option frames is -1"),
        ({"random_move": 1}, "option random_move is 1"),
        ({"prenorm": True, "skeleton": "ucla20"}, "option prenorm"),
        ({"skeleton": "ntu26"}, "unknown skeleton layout"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        pipeline("msg3d_ntu", **options)
