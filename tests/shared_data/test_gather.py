"""Crop rules, resizing with torch's bits, gathering from ragged rows, frame choices."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from shared_data.batches.frames import NOTHING, Frames, blended, crop_resize, resize_plan
from shared_data.batches.gather import blend_exact, channels, fused_kernel_is_exact, gather, lay_out, present_people
from shared_data.clips import Clips
from shared_data.formats.ragged import RaggedBuilder, in_memory

WINDOWS = (52, 64, 100, 120)


def ragged(padded: np.ndarray) -> Clips:
    """`padded` (N, T, M, V, 3) as clips."""
    _, frames, people, joints, _ = padded.shape
    dtype = padded.dtype
    builder = RaggedBuilder(in_memory("train", joints, dtype), joints=joints, max_people=people, dtype=dtype)
    builder.add(padded)
    ids = np.array([f"train_{i}" for i in range(len(padded))])
    return builder.finish(np.arange(len(padded)) % 3, ids, frames=frames)


def made_clips(lengths: list[int], people: list[int], *, frames: int = 300, joints: int = 25, seed: int = 0) -> np.ndarray:
    """Padded (N, frames, 2, joints, 3) float32 of any value, no two alike."""
    padded = np.zeros((len(lengths), frames, 2, joints, 3), dtype=np.float32)
    rng = np.random.default_rng(seed)
    for n, (length, count) in enumerate(zip(lengths, people, strict=True)):
        padded[n, :length, :count] = rng.standard_normal((length, count, joints, 3))
    return padded


def torch_resize(clip: np.ndarray, window: int) -> np.ndarray:
    """(L, ...) -> (window, ...) the way the official reader does it: a bilinear resize whose first axis does not change."""
    columns = torch.from_numpy(np.ascontiguousarray(clip.reshape(len(clip), -1).T))[None, None]
    resized = torch.nn.functional.interpolate(columns, size=(columns.shape[2], window), mode="bilinear", align_corners=False)
    return resized[0, 0].numpy().T.reshape(window, *clip.shape[1:])


def whole(clips: Clips, window: int) -> np.ndarray:
    """Every clip's valid frames at `window` frames: (N, window, M, V, 3)."""
    index = np.arange(len(clips))
    return shown(clips, crop_resize(np.zeros(len(clips), np.int64), clips.valid[index], window))


def shown(clips: Clips, frames: Frames) -> np.ndarray:
    """All clips at `frames`: (N, W, M, V, 3)."""
    present = present_people(clips, np.arange(len(clips)))
    parts = channels(clips, present, frames)
    out = torch.empty((len(clips), *parts.shape[1:], clips.max_people))
    return lay_out(parts, present, out).numpy().transpose(0, 2, 4, 3, 1)


@pytest.mark.parametrize("window", WINDOWS)
def test_every_length_has_the_bits_of_torchs_interpolation(window: int) -> None:
    """Bit for bit where the processor has fused multiply-adds (torch's own last bit differs elsewhere), 1e-6 always."""
    lengths = list(range(1, 301))
    padded = made_clips(lengths, [1] * 300, joints=6)
    ours = whole(ragged(padded), window)
    official = np.stack([torch_resize(clip[:length], window) for clip, length in zip(padded, lengths, strict=True)])
    assert np.abs(ours - official).max() <= 1e-6
    if fused_kernel_is_exact(6 * 3):
        np.testing.assert_array_equal(ours, official)


def test_the_slow_and_the_fast_blend_have_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((200, 75)).astype(np.float32)
    frames, weights = resize_plan(np.arange(1, 150), 64)
    pairs, scale = frames.reshape(-1, 2), weights.reshape(-1, 2)
    exact = blend_exact(rows, pairs, scale)
    plain = rows[pairs[:, 0]].astype(np.float64) * scale[:, :1] + rows[pairs[:, 1]].astype(np.float64) * scale[:, 1:]
    assert 0 < np.abs(exact - plain).max() <= 1e-6
    clips = ragged(made_clips([90, 300], [2, 1]))
    doubled = dataclasses.replace(clips, rows=clips.rows.astype(np.float64))  # float64 rows take the slow way
    np.testing.assert_allclose(whole(doubled, 64), whole(clips, 64), rtol=0, atol=1e-6)
    if fused_kernel_is_exact(75):
        np.testing.assert_array_equal(whole(doubled, 64), whole(clips, 64))


def test_a_clip_of_window_length_is_unchanged_and_weights_add_up() -> None:
    padded = made_clips([64], [2])
    np.testing.assert_array_equal(whole(ragged(padded), 64), padded[:, :64])
    _, weights = resize_plan(np.arange(1, 1000), 64)
    np.testing.assert_array_equal(weights.sum(-1), np.ones((999, 64), np.float32))


def test_lengths_beyond_the_table() -> None:
    padded = made_clips([2000, 700, 30], [1, 2, 1], frames=2000, joints=4)
    official = np.stack([torch_resize(clip[:n], 64) for clip, n in zip(padded, (2000, 700, 30), strict=True)])
    assert np.abs(whole(ragged(padded), 64) - official).max() <= 1e-6


def test_absent_people_gaps_and_empty_clips_are_zero() -> None:
    padded = made_clips([80, 90, 0, 100, 50], [2, 1, 1, 2, 2])
    padded[0, 40] = 0  # a gap: 79 valid frames, so the last one is lost
    padded[3, :60, 1] = 0  # the second person arrives late
    padded[4, 10:, 0] = 0  # the first person leaves
    clips = ragged(padded)
    assert clips.valid.tolist() == [79, 90, 0, 100, 50]
    ours = whole(clips, 64)
    for n, length in ((0, 79), (1, 90), (3, 100), (4, 50)):
        assert np.abs(ours[n] - torch_resize(padded[n, :length], 64)).max() <= 1e-6
    assert not ours[2].any()
    assert not ours[1, :, 1].any()
    assert ours[3, 50:, 1].any()


def test_frames_that_are_not_stored_are_zero() -> None:
    padded = made_clips([70, 70], [1, 2])
    clips = ragged(padded)
    present = present_people(clips, np.array([0, 1]))
    number = np.tile(np.arange(60, 80), (2, 1))  # ten frames beyond the last
    number[:, 3] = NOTHING
    parts = gather(clips, present, Frames(number)).numpy()
    expected = padded[:, 60:80].copy()
    expected[:, 3] = 0
    np.testing.assert_array_equal(parts[0], expected[0, :, 0])
    np.testing.assert_array_equal(parts[1:], expected[1].transpose(1, 0, 2, 3))
    np.testing.assert_array_equal(gather(clips, present, blended(Frames(number))).numpy(), parts)


def test_single_frames_in_any_order_and_their_blended_form() -> None:
    padded = made_clips([70, 40, 0], [1, 2, 1])
    clips = ragged(padded)
    number = np.random.default_rng(0).integers(0, 75, (3, 50))
    expected = np.stack([clip[frames] for clip, frames in zip(padded, number, strict=True)])
    np.testing.assert_array_equal(shown(clips, Frames(number)), expected)
    np.testing.assert_array_equal(shown(clips, blended(Frames(number))), expected)


def test_a_file_used_in_place_gives_the_bits_of_the_ragged_form() -> None:
    """Frame-major rows that begin at an odd byte, as inside a zip, against the same clips ragged."""
    padded = made_clips([70, 300, 1, 128], [1, 2, 1, 2])
    compact = ragged(padded)
    memory = np.zeros(padded.nbytes + 64, np.uint8)
    begin = -memory.ctypes.data % 64 + 7
    rows = memory[begin : begin + padded.nbytes].view(np.float32).reshape(-1, 25, 3)
    rows[:] = padded.reshape(-1, 25, 3)
    assert not rows.flags.aligned
    in_place = dataclasses.replace(compact, rows=rows, offset=np.arange(4) * 600, frame_step=2, zero=1 + 2 * 70 - 140 + 2 * 71)
    assert not in_place.take_rows(np.array([in_place.zero])).any()
    np.testing.assert_array_equal(whole(in_place, 64), whole(compact, 64))
    number = np.tile(np.arange(60, 124), (4, 1))
    np.testing.assert_array_equal(shown(in_place, Frames(number)), shown(compact, Frames(number)))


def test_rows_on_another_device_give_the_same_numbers() -> None:
    """The path of --augment-on device, here with the CPU as that device."""
    clips = ragged(made_clips([70, 300, 1], [1, 2, 1]))
    there = clips.on_device(torch.device("cpu"))
    assert there.table is not None and there.table.data_ptr() != clips.rows.ctypes.data
    np.testing.assert_array_equal(whole(there, 64), whole(clips, 64))


def test_more_than_two_people() -> None:
    padded = np.random.default_rng(2).standard_normal((3, 20, 3, 5, 3)).astype(np.float32)
    padded[1, :, 1:] = 0
    padded[2, :, 2:] = 0
    np.testing.assert_array_equal(whole(ragged(padded), 20), padded)


def test_rows_read_through_a_read_only_map(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    clips = ragged(made_clips([30, 80], [1, 2]))
    np.save(tmp_path / "rows.npy", clips.rows)
    mapped = dataclasses.replace(clips, rows=np.load(tmp_path / "rows.npy", mmap_mode="r"))
    np.testing.assert_array_equal(whole(mapped, 64), whole(clips, 64))
    assert not [str(warning.message) for warning in recwarn]
