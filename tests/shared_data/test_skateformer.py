"""SkateFormer's readers: the official outputs, a clip-by-clip imitation for our own draws, and how these are distributed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.parity.pipelines import examine
from shared_data.batches.frames import random_subset
from shared_data.clips import Clips
from shared_data.datasets import open_data
from shared_data.errors import LabError
from shared_data.formats.ragged import RaggedBuilder, in_memory
from shared_data.interaction import interaction_subset
from shared_data.loader import Loader
from shared_data.pipelines import pipeline, rows_of
from shared_data.pipelines.skateformer import SkateformerNtu
from shared_data.pipelines.skateformer_augment import gaussian_noise, rotation_about, shear_matrices, transfer_bone_lengths
from shared_data.pipelines.skateformer_plan import SkateformerNtuDraws, SkateformerNtuOptions
from shared_data.pipelines.skateformer_sampling import thirds
from shared_data.skeletons import NTU25, UCLA20

BONES = dict(NTU25.bone_table("skateformer"))
ORDER = list(NTU25.order("skateformer"))
LENGTHS = [1, 2, 20, 39, 40, 63, 64, 65, 67, 68, 100, 127, 128, 135, 136, 299, 300, 300]
MANY = 40_000


def build(padded: list[np.ndarray], labels: np.ndarray) -> Clips:
    """Clips from arrays (T, M, V, 3)."""
    _, people, joints, _ = padded[0].shape
    builder = RaggedBuilder(in_memory("train", joints, np.dtype(np.float32)), joints=joints, max_people=people, dtype=np.float32)
    for clip in padded:
        builder.add(clip[None])
    return builder.finish(labels, np.array([f"train_{i}" for i in range(len(padded))]), frames=len(padded[0]))


@pytest.fixture(scope="module")
def padded() -> list[np.ndarray]:
    """Clips in metres, every second one with two people; one has an empty frame inside, the last is empty throughout."""
    rng = np.random.default_rng(0)
    clips = []
    for n, length in enumerate(LENGTHS):
        clip = np.zeros((300, 2, 25, 3), dtype=np.float32)
        clip[:length, : 1 + n % 2] = rng.standard_normal((length, 1 + n % 2, 25, 3)) / 2
        clips.append(clip)
    clips[10][50] = 0
    clips[-1][:] = 0
    return clips


@pytest.fixture(scope="module")
def clips(padded: list[np.ndarray]) -> Clips:
    return build(padded, np.arange(len(padded)) % 3)


def skateformer(**options: Any) -> SkateformerNtu:
    return SkateformerNtu(SkateformerNtuOptions(**options))


def test_the_official_outputs_are_reproduced(parity_clips: Path) -> None:
    found = examine(parity_clips / "skateformer_ntu.npz")
    assert not [line for line in found.lines if not line.ok]
    judged = {line.quantity for line in found.lines}
    assert {
        "test/uniform_parts_bm sample",
        "test/resize_plain_j frame positions",
        "train/mixed_bm wsum",
        "train/resize_mixed_j frame positions",
        "train/inter_j partner frames",
        "op/temporal_flip frame positions",
        "op/bone_length_transfer full",
        "op/gaussian_filter sample",
        "interaction subset train clips",
        "interaction subset test labels",
    } <= judged
    assert len(judged) == len(found.lines) == 136
    exact = [note for note in found.notes if note.startswith("test/")]
    assert len(exact) == 7
    assert all("24 of 24 clips have the official bits" in note for note in exact)


def test_the_official_ucla_outputs_are_reproduced(parity_clips: Path) -> None:
    found = examine(parity_clips / "skateformer_ucla.npz")
    assert not [line for line in found.lines if not line.ok]
    assert {"test/plain_j sample", "test/j frame positions", "train/bm frame positions"} <= {
        line.quantity for line in found.lines
    }
    for note in found.notes:
        same, _, count = note.split(": ")[1].split()[:3]
        assert same == count, note


# ------------------------------------------------------------------ an imitation, one clip at a time, in float64


def resized(x: np.ndarray, window: int) -> np.ndarray:
    """(L, ...) -> (window, ...), linear with half-pixel centres."""
    flat = torch.from_numpy(np.ascontiguousarray(x, np.float32).reshape(len(x), -1).T[None])
    stretched = torch.nn.functional.interpolate(flat, size=window, mode="linear", align_corners=False)
    return stretched[0].T.reshape(window, *x.shape[1:]).numpy()


def frames_of(x: np.ndarray, valid: int, n: int, draws: SkateformerNtuDraws, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames shown (W, M, V, 3) and their positions (W,)."""
    start, end = int(draws.number[n].min()), int(draws.number[n].max()) + 1
    if end == 0:
        return np.zeros((window, *x.shape[1:])), np.full(window, -1.0)
    x = np.concatenate([x, np.zeros_like(x[:2])])
    if ((draws.weight[n] > 0) & (draws.weight[n] < 1)).any():
        numbers = np.arange(start, end)
        return resized(x[numbers], window), 2 * resized(numbers, window) / valid - 1
    numbers = draws.number[n, :, 1]
    return x[numbers], 2 * numbers / valid - 1


def lengths_transferred(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(W, M, V, 3) each, joint by joint down the tree."""
    result = np.zeros_like(x)
    result[:, :, 1] = reference[:, :, 1]
    done, todo = {1}, [child for child, parent in BONES.items() if child != parent]
    while todo:
        for child in [child for child in todo if BONES[child] in done]:
            parent = BONES[child]
            bone, there = x[:, :, child] - x[:, :, parent], reference[:, :, child] - reference[:, :, parent]
            ratio = (np.linalg.norm(there, axis=-1) + 1e-5) / (np.linalg.norm(bone, axis=-1) + 1e-5)
            result[:, :, child] = result[:, :, parent] + bone * ratio[..., None]
            done.add(child)
            todo.remove(child)
    return result


def blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    """(W, M, V, 3), 15 weights that do not add up to 1."""
    padded = np.concatenate([np.zeros((7, *x.shape[1:])), x, np.zeros((7, *x.shape[1:]))])
    weights = [np.exp(-(d**2) / (2 * sigma**2)) for d in range(-7, 8)]
    return np.sum([weight * padded[k : k + len(x)] for k, weight in enumerate(weights)], axis=0)


def imitated(
    padded: list[np.ndarray], clips: Clips, index: np.ndarray, row: int, draws: SkateformerNtuDraws, stream: str
) -> tuple[np.ndarray, np.ndarray]:
    """(3, W, 25, M) before the joints are ordered, and positions (W,): everything but noise."""
    window = draws.number.shape[1]
    valid = int(clips.valid[index[row]])
    x, position = frames_of(padded[index[row]].astype(np.float64), valid, row, draws, window)
    if (partner := draws.partner[row]) >= 0:
        there = np.rint((position.astype(np.float32) + 1) * np.float32(clips.valid[partner]) / 2).astype(int)
        reference = np.concatenate([padded[partner], np.zeros_like(padded[partner][:1])])[there].astype(np.float64)
        x = lengths_transferred(x, reference)
    if draws.swap[row]:
        x = x[:, ::-1].copy()
    if draws.clear[row]:
        x[:, 0] = 0
    x = x @ draws.matrix[row].astype(np.float64).T
    if draws.mirror[row]:
        x = x[:, :, list(NTU25.mirror)]
    if draws.reverse[row]:
        x, position = x[::-1], -position
    if draws.sigma[row]:
        x = blurred(x, draws.sigma[row])
    dropped = draws.dropped_frames[row][:, None, None] & draws.dropped_joints[row][None, None]
    x = np.where(np.broadcast_to(dropped, x.shape[:3])[..., None], 0, x).transpose(3, 0, 2, 1)
    if "b" in stream:
        x = x - x[:, :, [BONES[joint] for joint in range(25)]]
    if "m" in stream:
        x = np.concatenate([x[:, 1:] - x[:, :-1], np.zeros_like(x[:, :1])], axis=1)
    return x, position


@pytest.mark.parametrize("stream", ["j", "b", "jm", "bm"])
@pytest.mark.parametrize("window", [64, 24])
def test_training_batches(padded: list[np.ndarray], clips: Clips, stream: str, window: int) -> None:
    ours = skateformer(stream=stream, window=window, aug_method="ab12345789", intra_p=0.6, inter_p=0.4, thres=30)
    index = np.tile(np.arange(len(clips)), 4)
    draws = ours.draw(clips, index, seed=3, epoch=1, repeat_number=np.arange(len(index)) // len(clips))
    batch, positions = ours.train(clips, index, draws), ours.positions(clips, index, draws)
    assert batch.shape == (len(index), 3, window, 24, 2)
    assert batch.is_contiguous()
    assert positions.dtype == np.float32
    for row in range(len(index)):
        expected, position = imitated(padded, clips, index, row, draws, stream)
        scale = max(1.0, float(np.abs(expected).max()))
        assert np.abs(batch[row].numpy() - expected[:, :, ORDER]).max() <= 2e-6 * scale
        assert np.abs(positions[row] - position).max() <= 2e-7
    used = [
        draws.swap,
        draws.clear,
        draws.mirror,
        draws.reverse,
        draws.sigma > 0,
        draws.dropped_joints.any(1),
        draws.partner >= 0,
    ]
    assert all(3 < part.sum() < len(index) - 3 for part in used), "every operation was tried, and left out"


@pytest.mark.parametrize("uniform", [True, False])
def test_test_batches(padded: list[np.ndarray], clips: Clips, uniform: bool) -> None:
    ours = skateformer(uniform=uniform, partition=False)
    index = np.arange(len(clips))
    batch, positions = ours.test(clips, index), ours.positions(clips, index, None)
    assert batch.shape == (len(clips), 3, 64, 25, 2)
    for n, valid in enumerate(clips.valid.tolist()):
        start = int((1 - 0.95) * valid / 2)
        length = min(max(int(valid * 0.95), 64), valid) if uniform else valid - 2 * start
        clip = padded[n].transpose(3, 0, 2, 1)
        clip = np.concatenate([clip, np.zeros_like(clip[:, :1])], axis=1)
        numbers = start + (np.arange(64) * length // 64 if length >= 64 else np.arange(length))
        if not uniform or length < 64:
            numbers = np.arange(start, start + length)
        shown = clip[:, numbers]
        if length and not (uniform and length >= 64):
            shown = resized(shown.transpose(1, 0, 2, 3), 64).transpose(1, 0, 2, 3)
            numbers = resized(numbers, 64)
        assert np.abs(batch[n].numpy() - (shown if length else 0)).max() <= 2e-7
        assert np.abs(positions[n] - (2 * numbers / valid - 1 if length else -1)).max() <= 2e-7


def test_the_test_window_can_end_one_frame_after_the_clip(clips: Clips) -> None:
    ours = skateformer()
    batch, positions = ours.test(clips, np.arange(len(clips))), ours.positions(clips, np.arange(len(clips)), None)
    beyond = {LENGTHS[n] for n in range(len(LENGTHS) - 1) if not batch[n, :, -1].any()}
    assert beyond == {40, 63, 64}
    for n, length in enumerate(LENGTHS[:-1]):
        assert (positions[n, -1] == 1) == (length in beyond)


@pytest.mark.parametrize("valid", [1, 20, 39, 40, 63, 64, 65, 67, 68, 100, 127, 128, 135, 136, 300])
def test_training_windows(clips: Clips, valid: int) -> None:
    many = dataclasses.replace(
        clips.subset(np.zeros(500, int)), valid=np.full(500, valid, np.int32), extent=np.full(500, valid, np.int32)
    )
    ours = skateformer(intra_p=0, inter_p=0)
    draws = ours.draw(many, np.arange(500), 0, 0)
    assert draws.number.min() >= 0
    assert draws.number.max() < valid
    positions = ours.positions(many, np.arange(500), draws)
    assert (positions >= -1).all()
    assert (positions < 1).all()
    assert (np.diff(positions, axis=1) >= 0).all()
    if valid >= 64:
        assert (np.diff(draws.number[..., 1], axis=1) > 0).all(), "no frame twice"
        assert (draws.weight == (0, 1)).all()
    else:
        assert (draws.number[:, -1] == valid - 1).all(), "the whole clip"


def test_bits_do_not_depend_on_the_batch(clips: Clips) -> None:
    for options in ({}, {"aug_method": "ab123456789", "stream": "bm"}, {"uniform": False, "inter_p": 0.5, "stream": "b"}):
        ours = skateformer(**options)
        index, repeat = np.tile(np.arange(len(clips)), 2), np.repeat([0, 1], len(clips))
        draws = ours.draw(clips, index, 5, 6, repeat)
        batch, positions = ours.train(clips, index, draws), ours.positions(clips, index, draws)
        for rows in (np.array([7]), np.array([20, 3, 11, 3]), np.arange(30, 9, -1)):
            alone = ours.draw(clips, index[rows], 5, 6, repeat[rows])
            for field in dataclasses.fields(draws):
                np.testing.assert_array_equal(getattr(alone, field.name), getattr(draws, field.name)[rows])
            assert torch.equal(ours.train(clips, index[rows], alone), batch[rows])
            np.testing.assert_array_equal(ours.positions(clips, index[rows], alone), positions[rows])
        other = ours.draw(clips, index, 5, 7, repeat)
        assert not np.array_equal(other.number, draws.number)
        assert not np.array_equal(draws.number[: len(clips)], draws.number[len(clips) :]), "a repeat has its own draws"


# ------------------------------------------------------------------ how the draws are distributed


@pytest.fixture(scope="module")
def drawn(clips: Clips) -> SkateformerNtuDraws:
    """Clip 11 (127 frames, two people) many times, all letters."""
    return skateformer(aug_method="ab123456789").draw(clips, np.full(MANY, 11), 0, 0, np.arange(MANY))


def chi_square(counts: np.ndarray) -> float:
    """Against equal shares."""
    return float(((counts - counts.mean()) ** 2 / counts.mean()).sum())


def test_operations_have_their_probabilities(drawn: SkateformerNtuDraws) -> None:
    linear = (drawn.matrix != np.eye(3, dtype=np.float32)).any((1, 2))
    shares = {
        "swap": (drawn.swap, 0.25),
        "clear": (drawn.clear, 0.25),
        "linear": (linear, 0.5 * (1 - 0.5**4)),
        "mirror": (drawn.mirror, 0.25),
        "reverse": (drawn.reverse, 0.25),
        "noise": (drawn.noise >= 0, 0.25),
        "blur": (drawn.sigma > 0, 0.25),
        "drop axis": (~drawn.matrix.any(2).all(1), 0.25),
        "drop joints": (drawn.dropped_joints.any(1), 0.25),
        "partner": (drawn.partner >= 0, 0.2),
    }
    for name, (applied, share) in shares.items():
        assert abs(applied.mean() - share) < 4 * np.sqrt(share * (1 - share) / MANY), name
    alone = drawn.partner >= 0
    for _, (applied, _) in list(shares.items())[:-1]:
        assert not (applied & alone).any(), "inter and intra exclude each other"
    both = (drawn.swap & drawn.mirror).mean()
    assert abs(both - 0.125) < 0.008, "independent within the chain"


def test_drop_sizes_and_sets_are_even(drawn: SkateformerNtuDraws) -> None:
    rows = drawn.dropped_joints.any(1)
    np.testing.assert_array_equal(rows, drawn.dropped_frames.any(1))
    joints, frames = drawn.dropped_joints[rows].sum(1), drawn.dropped_frames[rows].sum(1)
    assert (joints.min(), joints.max(), frames.min(), frames.max()) == (5, 15, 16, 32)
    assert chi_square(np.bincount(joints)[5:]) < 23.2  # 10 degrees of freedom, 1 %
    assert chi_square(np.bincount(frames)[16:]) < 32.0  # 16
    for chosen in (drawn.dropped_joints, drawn.dropped_frames):
        share = chosen[rows].mean(0)
        assert np.abs(share - share.mean()).max() < 4.5 * np.sqrt(share.mean() * (1 - share.mean()) / rows.sum())
        together = (chosen[rows, 0] & chosen[rows, 1]).mean() / share[:2].prod()
        assert 0.8 < together < 1.2


def test_matrices_fill_their_ranges(clips: Clips) -> None:
    def matrices(letter: str) -> np.ndarray:
        draws = skateformer(aug_method=letter, intra_p=1, inter_p=0).draw(clips, np.full(MANY, 3), 1, 0, np.arange(MANY))
        used = draws.matrix[(draws.matrix != np.eye(3, dtype=np.float32)).any((1, 2))].astype(np.float64)
        assert abs(len(used) / MANY - 0.5) < 0.011
        return used

    shear = matrices("1")[:, ~np.eye(3, dtype=bool)]
    quantiles = np.quantile(shear, [0, 0.25, 0.5, 0.75, 1], axis=0)
    assert np.abs(quantiles - np.array([-0.5, -0.25, 0, 0.25, 0.5])[:, None]).max() < 0.015
    turns = matrices("2")
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), turns.shape), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(turns), 1, atol=1e-6)
    fixed = np.argmax(np.diagonal(turns, axis1=1, axis2=2) == 1, axis=1)
    assert chi_square(np.bincount(fixed, minlength=3)) < 9.2
    angles = np.degrees(np.arccos((np.trace(turns, axis1=1, axis2=2) - 1) / 2))
    assert np.abs(np.quantile(angles, [0.25, 0.5, 0.75, 1]) - [7.5, 15, 22.5, 30]).max() < 0.4
    scale = np.diagonal(matrices("3"), axis1=1, axis2=2)
    assert np.abs(np.quantile(scale, [0, 0.25, 0.5, 0.75, 1], axis=0).T - [0.8, 0.9, 1, 1.1, 1.2]).max() < 0.01
    for independent in (shear, scale):
        assert np.abs(np.corrcoef(independent.T) - np.eye(independent.shape[1])).max() < 0.03
    axis = np.argmin(np.diagonal(matrices("8"), axis1=1, axis2=2), axis=1)
    assert chi_square(np.bincount(axis, minlength=3)) < 9.2


def test_rotation_and_shear_have_the_official_entries() -> None:
    cos, sin = np.cos(np.radians(30)), np.sin(np.radians(30))
    x, y, z = rotation_about(np.array([0, 1, 2]), np.full(3, 30.0))
    np.testing.assert_allclose(x, [[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    np.testing.assert_allclose(y, [[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    np.testing.assert_allclose(z, [[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    np.testing.assert_array_equal(shear_matrices(np.arange(2, 8.0)[None])[0], [[1, 2, 5], [3, 1, 6], [4, 7, 1]])


def test_partners_are_even_over_the_class(clips: Clips, drawn: SkateformerNtuDraws) -> None:
    partner = drawn.partner[drawn.partner >= 0]
    class_of_11 = np.flatnonzero(clips.labels == clips.labels[11])
    counts = np.bincount(partner, minlength=len(clips))
    assert counts.sum() == counts[class_of_11].sum()
    assert 11 in class_of_11
    assert chi_square(counts[class_of_11]) < 15.1  # 5 degrees of freedom, 1 %


def test_crops_and_frames_are_even(clips: Clips) -> None:
    whole = skateformer(p_interval=[0.999999, 1], intra_p=0, inter_p=0)
    shown = whole.draw(clips, np.full(MANY, 15), 0, 0, np.arange(MANY)).number[..., 1]  # 298 of 299 frames, from 0 or 1 on
    edges = np.arange(65) * 298 // 64
    for place in (0, 1, 40, 63):
        low, high = edges[place], edges[place + 1]
        share = np.full(high - low + 1, 1 / (high - low))
        share[[0, -1]] /= 2
        counts = np.bincount(shown[:, place], minlength=high + 1)
        assert counts.sum() == counts[low : high + 1].sum()
        expected = share * MANY
        assert ((counts[low : high + 1] - expected) ** 2 / expected).sum() < 20.5  # 5 degrees of freedom at most, 0.1 %
    half = skateformer(p_interval=[0.5, 0.5], intra_p=0, inter_p=0, thres=1, window=24)
    index = np.full(MANY, 6)  # 64 frames: 32 of them, from 0 to 32 on; 24 shown, eight gaps among 25 places
    shown = half.draw(clips, index, 0, 0, np.arange(MANY)).number[..., 1]
    first_gap = np.diff(shown, axis=1) > 1
    share = first_gap.mean(0)
    assert np.abs(share - 8 / 25).max() < 4.5 * np.sqrt(0.32 * 0.68 / MANY)
    together = (first_gap[:, 3] & first_gap[:, 4]).mean()
    assert abs(together - 8 * 7 / (25 * 24)) < 0.006
    first = np.bincount(shown[:, 0])  # the start, and one more where the first place is a gap
    assert len(first) == 33 + 1
    assert chi_square(first[1:33]) < 61.1  # 31 degrees of freedom, 0.1 %


def test_thirds_of_numbers_are_even_and_choose_even_subsets() -> None:
    u = np.random.default_rng(0).integers(0, 2**53, (MANY, 2)) / 2.0**53
    values = thirds(u, 5)
    assert values.shape == (MANY, 5)
    assert values.min() >= 0
    assert values.max() < 1
    assert (np.diff(np.sort(values, axis=1), axis=1) > 0).all()
    assert np.abs(np.corrcoef(values.T) - np.eye(5)).max() < 0.02
    assert chi_square(np.bincount((values * 100).astype(int).reshape(-1), minlength=100)) < 135
    chosen = random_subset(values, np.full(MANY, 2))
    assert (chosen.sum(1) == 2).all()
    assert chi_square(np.unique(chosen @ (1 << np.arange(5)), return_counts=True)[1]) < 21.7  # ten sets
    assert not random_subset(values, np.zeros(MANY, int)).any()
    assert random_subset(values, np.full(MANY, 5)).all()


# ------------------------------------------------------------------ single operations


def plain(ours: SkateformerNtu, clips: Clips, index: np.ndarray, **changes: np.ndarray) -> torch.Tensor:
    """Training batch of the test frames with some draws changed."""
    return ours.train(clips, index, dataclasses.replace(ours.test_draws(clips, index), **changes))


def test_people_are_exchanged_cleared_and_absent_ones_stay_zero(clips: Clips) -> None:
    ours = skateformer()
    index = np.array([11, 10, 4, 17])  # two people, one, one, none
    batch = ours.test(clips, index)
    assert not batch[1:, ..., 1].any()
    assert not batch[3].any()
    swapped = plain(ours, clips, index, swap=np.array([True, True, False, True]))
    assert torch.equal(swapped[:2], batch[:2].flip(-1))
    assert torch.equal(swapped[2:], batch[2:])
    both = plain(ours, clips, index, swap=np.ones(4, bool), clear=np.array([True, False, False, False]))
    assert not both[0, ..., 0].any()
    assert torch.equal(both[0, ..., 1], batch[0, ..., 0])


def test_left_and_right_are_exchanged_but_not_mirrored(clips: Clips) -> None:
    index = np.arange(len(clips))
    for stream in ("j", "b"):
        ours, parts = skateformer(partition=False, stream=stream), skateformer(stream=stream)
        batch = ours.test(clips, index)
        mirrored = plain(ours, clips, index, mirror=np.ones(len(clips), bool))
        assert torch.equal(mirrored, batch[:, :, :, list(NTU25.mirror)])
        assert torch.equal(plain(parts, clips, index, mirror=np.ones(len(clips), bool)), mirrored[:, :, :, ORDER])
    assert not batch[:, :, :, 1].any(), "the bone of the root"
    assert 20 not in ORDER
    assert len(ORDER) == 24


def test_bone_lengths_are_the_partners_and_directions_the_clips() -> None:
    rng = np.random.default_rng(4)
    sample, reference = (torch.from_numpy(rng.standard_normal((3, 3, 64, 25)).astype(np.float32)) for _ in range(2))
    sample[2] = 0
    moved = transfer_bone_lengths(sample, reference, NTU25.bone_table("skateformer"), 1)
    assert torch.equal(moved[:2, ..., 1], reference[:2, ..., 1])
    parents = [BONES[joint] for joint in range(25)]
    ours, wanted, before = (x - x[..., parents] for x in (moved, reference, sample))
    assert (ours[:2].norm(dim=1) - wanted[:2].norm(dim=1)).abs().max() < 5e-4  # 1e-5 / (shortest bone) of relative error
    cosine = torch.nn.functional.cosine_similarity(ours[:2], before[:2], dim=1)
    assert (cosine[..., [joint for joint in range(25) if joint != 1]] > 0.999).all()
    assert torch.equal(moved[2], reference[2, ..., 1:2].expand_as(moved[2])), "nobody there: all joints at the partner's joint 2"


def test_a_second_person_of_the_partner_alone_collapses_onto_a_joint(clips: Clips) -> None:
    ours = skateformer(partition=False)
    index, partner = np.array([10, 10]), np.array([11, 8])  # partners of two people and of one
    batch = plain(ours, clips, index, partner=partner)
    assert torch.equal(batch[0, ..., 1], batch[0, :, :, 1:2, 1].expand(3, 64, 25))
    assert batch[0, ..., 1].any()
    assert not batch[1, ..., 1].any()


def test_noise(clips: Clips) -> None:
    noise = gaussian_noise(np.array([1, 2, 2**53 - 1]), (3, 64, 25))
    assert noise.dtype == np.float32
    assert abs(noise.std() - 0.05) < 0.001
    assert abs(noise.mean()) < 0.001
    assert abs(np.corrcoef(noise.reshape(3, -1)) - np.eye(3)).max() < 0.05
    assert abs(np.mean(np.abs(noise) < 0.05) - 0.6827) < 0.01
    np.testing.assert_array_equal(gaussian_noise(np.array([2]), (3, 64, 25))[0], noise[1])
    ours = skateformer(aug_method="6", partition=False)
    index = np.array([10, 11, 17])
    flat = np.diag([2, 2, 0]).astype(np.float32)
    batch, calm = (
        plain(ours, clips, index, noise=keys, matrix=np.broadcast_to(flat, (3, 3, 3)))
        for keys in (np.array([5, -1, 6]), np.full(3, -1))
    )
    assert torch.equal(batch[1], calm[1])
    for row in (0, 2):
        difference = batch[row] - calm[row]
        assert not difference[2].any(), "none on an axis that is dropped"
        assert abs(float(difference[:2].std()) - 0.05) < 0.002, "not scaled, and where nobody is, too"


def test_dropped_joints_are_zero_in_dropped_frames_only(clips: Clips) -> None:
    ours = skateformer(partition=False)
    index = np.array([11, 13])
    joints, frames = np.zeros((2, 25), bool), np.zeros((2, 64), bool)
    joints[0, [4, 20]] = frames[0, 10:13] = True
    batch = plain(ours, clips, index, dropped_joints=joints, dropped_frames=frames, mirror=np.array([True, False]))
    expected = ours.test(clips, index)
    expected[0] = expected[0][:, :, list(NTU25.mirror)]
    expected[0][:, 10:13, [[4], [20]]] = 0
    assert torch.equal(batch, expected)


# ------------------------------------------------------------------ use


def test_one_interval_number_makes_training_windows_fixed(clips: Clips) -> None:
    for uniform in (True, False):
        ours = skateformer(p_interval=[0.95], intra_p=0, inter_p=0, uniform=uniform)
        index = np.arange(len(clips))
        assert torch.equal(ours.train(clips, index, ours.draw(clips, index, 0, 0)), ours.test(clips, index))


def test_clips_of_one_person_are_not_swapped_away() -> None:
    alone = build([np.ones((300, 1, 25, 3), np.float32)] * 50, np.zeros(50, int))
    ours = skateformer(intra_p=1, inter_p=0, aug_method="a6")
    draws = ours.draw(alone, np.arange(50), 0, 0)
    assert not draws.swap.any()
    assert ours.train(alone, np.arange(50), draws).shape == (50, 3, 64, 24, 1)


def test_the_loader_hands_out_positions(clips: Clips) -> None:
    for train in (True, False):
        batches = list(Loader(clips, pipeline("skateformer_ntu"), batch_size=7, train=train).epoch(0))
        assert [tuple(batch.positions.shape) for batch in batches if batch.positions is not None] == [(7, 64), (7, 64), (4, 64)]
    again = list(Loader(clips, pipeline("skateformer_ntu"), batch_size=4, train=True, workers=0).epoch(0))
    by_name = {name: clip for batch in again for name, clip in zip(batch.ids, batch.clips, strict=True)}
    for batch in Loader(clips, pipeline("skateformer_ntu"), batch_size=7, train=True).epoch(0):
        for name, clip in zip(batch.ids, batch.clips, strict=True):
            assert torch.equal(clip, by_name[name])


def test_draws_are_cut_by_row(clips: Clips) -> None:
    draws = skateformer().draw(clips, np.arange(len(clips)), 0, 0)
    assert all(len(getattr(draws, field.name)) == len(clips) for field in dataclasses.fields(draws))
    assert rows_of(draws, slice(3, 5)).number.shape == (2, 64, 2)


def test_ucla_positions_and_order(parity_clips: Path) -> None:
    clips = open_data(parity_clips / "clips_ucla.zip").train
    index = np.arange(len(clips))
    ours, others = pipeline("skateformer_ucla"), pipeline("hypergcn_ucla")
    order = list(UCLA20.order("skateformer"))
    assert torch.equal(ours.test(clips, index), others.test(clips, index)[:, :, :, order])
    draws = ours.draw(clips, index, 0, 0)
    assert torch.equal(ours.train(clips, index, draws), others.train(clips, index, draws)[:, :, :, order])
    batch = next(iter(Loader(clips, ours, batch_size=len(clips), train=False).epoch(0)))
    assert batch.positions is not None
    last = 2 * (clips.extent - 1) / clips.extent - 1
    np.testing.assert_allclose(np.asarray(batch.positions)[:, [0, -1]], np.stack([-np.ones(len(clips)), last], 1), atol=1e-6)


def test_interaction_classes_are_renumbered() -> None:
    labels = np.array([48, 49, 59, 60, 104, 105, 119, 3, 50])
    clips = build([np.ones((4, 2, 25, 3), np.float32) * (n + 1) for n in range(9)], labels)
    subset = interaction_subset(clips)
    assert subset.labels.tolist() == [0, 10, 11, 25, 1]
    assert subset.ids.tolist() == ["train_1", "train_2", "train_5", "train_6", "train_8"]
    assert subset.clip(2)[0, 0, 0, 0] == 6
    assert len(interaction_subset(clips.subset(labels < 49))) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aug_method": "a1234z"}, "option aug_method is 'a1234z'"),
        ({"aug_method": True}, "option aug_method"),
        ({"intra_p": 1.5}, "option intra_p is 1.5"),
        ({"inter_p": "0.2"}, "option inter_p"),
        ({"thres": 0}, "option thres is 0"),
        ({"thres": 64.0}, "option thres"),
        ({"uniform": "yes"}, "option uniform"),
        ({"partition": 1}, "option partition"),
        ({"p_interval": [1, 0.5]}, "option p_interval"),
        ({"window": 0}, "option window"),
        ({"stream": "mb"}, "option stream"),
        ({"aug_methd": "a"}, "did you mean aug_method"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(LabError, match=message):
        pipeline("skateformer_ntu", **options)


def test_options_of_ucla_and_clips_of_another_kind_are_refused(clips: Clips) -> None:
    with pytest.raises(LabError, match="option partition"):
        pipeline("skateformer_ucla", partition="no")
    with pytest.raises(LabError, match="no joint order"):
        pipeline("skateformer_ucla", skeleton="coco17")
    three = dataclasses.replace(clips, max_people=3)
    with pytest.raises(LabError, match="up to 3 people"):
        pipeline("skateformer_ntu").accept(three)
    few = build([np.ones((4, 1, 20, 3), np.float32)], np.zeros(1, int))
    with pytest.raises(LabError, match="20 joints"):
        pipeline("skateformer_ntu").accept(few)
    assert pipeline("skateformer_ntu", aug_method=123489).options.aug_method == "123489"  # type: ignore[attr-defined]
