"""Random numbers of a step: what they are a function of, and that they are what they claim to be."""

from __future__ import annotations

import numpy as np
import torch

from engine.zeroshot.draws import Draw, counted, normals, sequential
from shared_data.batches.randomness import sample_keys


def same(a: Draw, b: Draw) -> bool:
    return all(x is y or torch.equal(x, y) for x, y in zip(a, b, strict=True))  # type: ignore[arg-type]


def test_a_step_does_not_depend_on_those_before() -> None:
    whole = list(counted(5, 2, range(40), rows=300, batch=64, width=3))
    late = list(counted(5, 2, range(30, 40), rows=300, batch=64, width=3))
    assert all(same(a, b) for a, b in zip(whole[30:], late, strict=True))
    assert not same(whole[0], whole[1])
    assert not same(whole[0], next(counted(6, 2, range(1), rows=300, batch=64, width=3)))
    assert not same(whole[0], next(counted(5, 3, range(1), rows=300, batch=64, width=3)))


def test_many_steps_are_made_in_pieces() -> None:
    steps = 2000  # of 64 * 101 numbers: more than one piece
    found = list(counted(1, 0, range(steps), rows=100, batch=64, width=100))
    assert len(found) == steps
    assert same(found[1500], next(counted(1, 0, range(1500, 1501), rows=100, batch=64, width=100)))


def test_rows_are_different_ones_and_all_come() -> None:
    counts = np.zeros(90, np.int64)
    for draw in counted(3, 0, range(3000), rows=90, batch=32):
        rows = draw.rows.numpy()
        assert len(set(rows)) == 32
        counts[rows] += 1
    expected = 3000 * 32 / 90
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected)


def test_the_whole_set_is_a_permutation_and_every_order_comes() -> None:
    orders = [tuple(draw.rows.tolist()) for draw in counted(3, 0, range(1200), rows=3, batch=64)]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert all(120 < orders.count(order) < 280 for order in set(orders)) and len(set(orders)) == 6


def test_pairing_and_shapes() -> None:
    draw = next(counted(1, 0, range(1), rows=100, batch=16, width=7))
    assert draw.skeleton_noise.shape == draw.text_noise.shape == (16, 7)
    assert draw.pairing is not None and sorted(draw.pairing.tolist()) == list(range(16))
    assert not torch.equal(draw.skeleton_noise, draw.text_noise)
    assert next(counted(1, 0, range(1), rows=100, batch=16, pairing=False)).pairing is None


def test_noise_is_normal() -> None:
    values = normals(7, 0, sample_keys(np.arange(2000)), 3, 51)
    assert values.shape == (2000, 51) and np.isfinite(values).all()
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02 and abs((values**4).mean() - 3) < 0.15
    assert abs((values[:, 0] * values[:, 1]).mean()) < 0.1
    assert np.array_equal(values[:, :7], normals(7, 0, sample_keys(np.arange(2000)), 3, 7))


def test_sequential_draws_are_in_the_official_order() -> None:
    generator = torch.Generator().manual_seed(5)
    found = list(sequential(generator, 2, rows=20, batch=8))
    again = torch.Generator().manual_seed(5)
    for draw in found:
        assert torch.equal(draw.rows, torch.randperm(20, generator=again)[:8])
        assert torch.equal(draw.skeleton_noise, torch.randn(8, 1, generator=again))
        assert torch.equal(draw.text_noise, torch.randn(8, 1, generator=again))
        assert draw.pairing is not None and torch.equal(draw.pairing, torch.randperm(8, generator=again))
        torch.randperm(8, generator=again)
    plain = list(sequential(torch.Generator().manual_seed(5), 2, rows=20, batch=8, pairing=False))
    assert torch.equal(plain[0].rows, found[0].rows) and not torch.equal(plain[1].rows, found[1].rows)
