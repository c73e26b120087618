"""Rotation matrices, bones and motion against their definitions."""

from __future__ import annotations

import numpy as np
import torch

from shared_data.batches.augment import bones, motion, rotation_matrices, stream_of, transform
from shared_data.skeletons import NTU25, UCLA20


def matrix_by_definition(angles: np.ndarray) -> torch.Tensor:
    """(Rz Ry) Rx of one triple by matrix products in float32."""
    (cx, cy, cz), (sx, sy, sz) = torch.cos(torch.tensor(angles)), torch.sin(torch.tensor(angles))
    rx = torch.tensor([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    ry = torch.tensor([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    rz = torch.tensor([[cz, sz, 0], [-sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx


def test_matrices_are_the_products_of_the_three_rotations() -> None:
    angles = np.random.default_rng(0).uniform(-0.3, 0.3, (64, 3)).astype(np.float32)
    matrices = rotation_matrices(angles)
    expected = np.stack([matrix_by_definition(triple).numpy() for triple in angles])
    assert np.abs(matrices - expected).max() <= 1.2e-7
    product = matrices.astype(np.float64) @ matrices.transpose(0, 2, 1).astype(np.float64)
    assert np.abs(product - np.eye(3)).max() < 5e-7
    np.testing.assert_allclose(np.linalg.det(matrices.astype(np.float64)), 1, atol=5e-7)
    np.testing.assert_array_equal(rotation_matrices(np.zeros((2, 3))), np.tile(np.eye(3, dtype=np.float32), (2, 1, 1)))


def test_a_matrix_does_not_depend_on_its_place_in_the_batch() -> None:
    angles = np.random.default_rng(1).uniform(-0.3, 0.3, (67, 3))
    together = rotation_matrices(angles)
    for n in range(67):
        np.testing.assert_array_equal(rotation_matrices(angles[n : n + 1])[0], together[n])


def test_rotation_turns_every_point_of_a_clip_alike_and_rounds_each_step() -> None:
    rng = np.random.default_rng(2)
    points = rng.standard_normal((5, 3, 40)).astype(np.float32)
    matrices = rotation_matrices(rng.uniform(-0.3, 0.3, (5, 3)))
    turned = transform(torch.from_numpy(points).view(5, 3, 8, 5), torch.from_numpy(matrices)).numpy().reshape(5, 3, 40)
    assert np.abs(turned - matrices.astype(np.float64) @ points.astype(np.float64)).max() < 1e-6
    x, y, z = points.transpose(1, 0, 2)[:, :, None]
    np.testing.assert_array_equal(turned, matrices[..., :1] * x + matrices[..., 1:2] * y + matrices[..., 2:] * z)
    lengths = np.linalg.norm(points, axis=1), np.linalg.norm(turned, axis=1)
    np.testing.assert_allclose(*lengths, rtol=1e-5)


def test_a_quarter_turn_about_each_axis() -> None:
    """About x, y turns to -z; about y, x turns to z; about z, x turns to -y."""
    quarter = np.pi / 2
    for axis, (source, target, sign) in enumerate([(1, 2, -1), (0, 2, 1), (0, 1, -1)]):
        angles = np.zeros((1, 3))
        angles[0, axis] = quarter
        unit = np.zeros((1, 3, 1), np.float32)
        unit[0, source] = 1
        expected = np.zeros(3)
        expected[target] = sign
        turned = transform(torch.from_numpy(unit)[..., None], torch.from_numpy(rotation_matrices(angles)))
        np.testing.assert_allclose(turned[0, :, 0, 0], expected, atol=1e-6)


def test_bones_follow_the_table() -> None:
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((2, 3, 8, 25)).astype(np.float32))
    result = bones(x, NTU25.bones)
    for child, parent in NTU25.bones:
        np.testing.assert_array_equal(result[..., child], x[..., child] - x[..., parent])
    assert not result[..., 20].any()
    assert not bones(x[..., :20], UCLA20.bones)[..., 2].any()


def test_motion_is_the_next_frame_minus_this_one() -> None:
    x = torch.from_numpy(np.random.default_rng(4).standard_normal((2, 3, 8, 25)).astype(np.float32))
    result = motion(x)
    for t in range(7):
        np.testing.assert_array_equal(result[:, :, t], x[:, :, t + 1] - x[:, :, t])
    assert not result[:, :, 7].any()
    assert not motion(x[:, :, :1]).any()


def test_streams_take_bone_first_then_motion() -> None:
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((1, 3, 6, 25)).astype(np.float32))
    table = NTU25.bones
    np.testing.assert_array_equal(stream_of(x, "j", table), x)
    np.testing.assert_array_equal(stream_of(x, "b", table), bones(x, NTU25.bones))
    np.testing.assert_array_equal(stream_of(x, "jm", table), motion(x))
    both = stream_of(x, "bm", table)
    np.testing.assert_array_equal(both, motion(bones(x, NTU25.bones)))
    assert not np.array_equal(both, bones(motion(x), table)), "the order shows in the rounding"
