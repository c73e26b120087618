"""Coordinates of whole sequences: those that encoders were pretrained on."""

from __future__ import annotations

import numpy as np
import pytest

from shared_data.batches.prenormalise import prenormalise
from shared_data.errors import DataError
from shared_data.pipelines.normalised import normalised
from shared_data.skeletons import NTU25, UCLA20


def scene(length: int = 30, people: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    body = rng.normal(0, 0.4, (1, people, 25, 3)) + np.array([0.5, 0.2, 3.0])
    return (body + np.cumsum(rng.normal(0, 0.02, (length, people, 25, 3)), 0)).astype(np.float32)


def unfold(feature: np.ndarray, people: int) -> np.ndarray:
    """(3 M, V, T) -> (T, M, V, 3)."""
    return feature.reshape(people, 3, feature.shape[1], -1).transpose(3, 0, 2, 1)


def test_a_whole_sequence_equals_the_offline_normalisation_of_pretraining():
    frames = scene()
    frames[7:12, 1] = 0  # the second person is away for a while
    frames[3, 0, 20] = 0  # a joint that was not seen
    feature = normalised(frames, NTU25)
    assert feature.shape == (6, 25, 30) and feature.dtype == np.float32
    np.testing.assert_allclose(unfold(feature, 2), prenormalise(frames[None])[0], rtol=0, atol=2e-6)
    assert not unfold(feature, 2)[7:12, 1].any() and not unfold(feature, 2)[3, 0, 20].any()


def test_spine_and_shoulders_of_the_first_valid_frame_lie_along_z_and_x():
    frames = scene()
    frames[:4] = 0
    spine = frames[4, 0, 1] - frames[4, 0, 0]
    frames[4, 0, 8] = frames[4, 0, 4] + np.cross(spine, [0.3, 0.2, 0.9])  # a right angle, as bodies have it
    out = unfold(normalised(frames, NTU25), 2)
    assert not out[:4].any() and not out[:, 0, 1].any(), "the middle of the spine is the origin throughout"
    up, across = out[4, 0, 1] - out[4, 0, 0], out[4, 0, 8] - out[4, 0, 4]
    assert np.abs(up[:2]).max() < 1e-6 and up[2] > 0.1
    assert np.abs(across[1:]).max() < 1e-6 and across[0] > 0.05
    inner = np.linalg.norm(frames[4:, :, 5] - frames[4:, :, 9], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(out[4:, :, 5] - out[4:, :, 9], axis=-1), inner, rtol=1e-5)
    between = np.linalg.norm(frames[4:, 1, 1] - frames[4:, 0, 1], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(out[4:, 1, 1], axis=-1), between, rtol=1e-5)


def test_without_the_first_person_the_origin_stays_where_it_was():
    still = np.repeat(scene(1), 8, axis=0)
    frames = still.copy()
    frames[:2, 0] = frames[5:, 0] = 0
    whole, part = unfold(normalised(still, NTU25), 2), unfold(normalised(frames, NTU25), 2)
    np.testing.assert_allclose(part[:, 1], whole[:, 1], atol=1e-6)
    assert not part[:2, 0].any() and not part[5:, 0].any()
    alone = still.copy()
    alone[:, 0] = 0
    out = unfold(normalised(alone, NTU25), 2)
    assert not out[:, 0].any() and not out[:, 1, 1].any() and out[:, 1, 0].any(), "the only person is the origin"
    assert not normalised(np.zeros((3, 2, 25, 3), np.float32), NTU25).any()


def test_nw_ucla_stays_as_its_clips_are_pretrained_on():
    frames = np.random.default_rng(0).normal(0, 1, (9, 1, 20, 3))
    np.testing.assert_array_equal(normalised(frames, UCLA20), frames[:, 0].transpose(2, 1, 0).astype(np.float32))


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 2, 20, 3)), np.zeros((0, 2, 25, 3)), np.zeros((3, 2, 25, 3), int), np.zeros((3, 25, 3))]
)
def test_what_is_no_sequence_of_the_skeleton_is_refused(bad):
    with pytest.raises(DataError, match="shape"):
        normalised(bad, NTU25)
