"""The counter-based generator: the published vectors, uniformity, independence of everything but its inputs."""

from __future__ import annotations

import numpy as np
import pytest

from shared_data.batches.randomness import AUGMENTATION, permutation, philox, sample_keys, uniforms, words


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_answers(counter: str, key: str, expected: str) -> None:
    """Known answers of Random123 for philox4x32, 10 rounds."""
    first, second = (int(word, 16) for word in key.split())
    block = np.array([[int(word, 16)] for word in counter.split()], dtype=np.uint64)
    assert " ".join(f"{int(word):08x}" for word in philox(block, (first, second))[:, 0]) == expected


def test_many_counters_at_once_are_the_counters_one_by_one() -> None:
    rng = np.random.default_rng(0)
    counters = rng.integers(0, 2**32, (4, 50), dtype=np.uint64)
    together = philox(counters, (7, 9))
    for i in range(50):
        np.testing.assert_array_equal(philox(counters[:, i : i + 1], (7, 9))[:, 0], together[:, i])


def test_a_sample_has_its_numbers_whatever_the_batch() -> None:
    keys = sample_keys(np.arange(100), np.arange(100) % 3)
    whole = uniforms(5, 7, keys, AUGMENTATION, 9)
    some = np.array([90, 3, 41])
    np.testing.assert_array_equal(uniforms(5, 7, keys[some], AUGMENTATION, 9), whole[some])
    np.testing.assert_array_equal(uniforms(5, 7, keys, AUGMENTATION, 4), whole[:, :4])


def test_every_input_changes_the_numbers() -> None:
    keys = sample_keys(np.arange(4))
    base = uniforms(1, 2, keys, AUGMENTATION, 4)
    others = [
        uniforms(2, 2, keys, AUGMENTATION, 4),
        uniforms(1 + 2**32, 2, keys, AUGMENTATION, 4),
        uniforms(1, 3, keys, AUGMENTATION, 4),
        uniforms(1, 2, keys, AUGMENTATION + 1, 4),
        uniforms(1, 2, sample_keys(np.arange(4), 1), AUGMENTATION, 4),
        uniforms(1, 2, sample_keys(np.arange(4) + 4), AUGMENTATION, 4),
    ]
    for other in others:
        assert not np.isin(other, base).any()


def test_numbers_are_uniform() -> None:
    u = np.sort(uniforms(3, 0, sample_keys(np.arange(40_000)), AUGMENTATION, 5), axis=0)
    assert u.min() >= 0
    assert u.max() < 1
    distance = np.abs(u - (np.arange(len(u)) + 0.5)[:, None] / len(u)).max(axis=0)  # Kolmogorov-Smirnov
    assert (distance < 1.63 / np.sqrt(len(u))).all()  # 1 % level
    u = uniforms(3, 0, sample_keys(np.arange(40_000)), AUGMENTATION, 5)
    correlation = np.corrcoef(np.concatenate([u[:-1], u[1:]], axis=1).T)
    assert np.abs(correlation - np.eye(10)).max() < 0.03


def test_seeds_of_any_size_and_bad_requests() -> None:
    keys = sample_keys(np.arange(2))
    np.testing.assert_array_equal(words(-1, 0, keys, 0, 1), words(2**64 - 1, 0, keys, 0, 1))
    with pytest.raises(ValueError, match="epoch -1"):
        words(0, -1, keys, 0, 1)
    with pytest.raises(ValueError, match="blocks"):
        words(0, 0, keys, 0, 2**16 + 1)


def test_a_permutation_shows_everything_once_and_differs_by_epoch_and_seed() -> None:
    base = permutation(0, 0, 1000)
    np.testing.assert_array_equal(np.sort(base), np.arange(1000))
    np.testing.assert_array_equal(base, permutation(0, 0, 1000))
    for other in (permutation(0, 1, 1000), permutation(1, 0, 1000)):
        assert np.mean(other == base) < 0.02
    first = np.array([permutation(0, epoch, 20)[0] for epoch in range(2000)])
    counts = np.bincount(first, minlength=20)
    assert ((counts - 100) ** 2 / 100).sum() < 36.2  # chi square, 19 degrees of freedom, 1 % level
