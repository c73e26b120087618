"""InfoNCE against a double loop, queues around their end, momentum by its formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.pretraining.contrast import NOBODY, Queue, follow, freeze_copy, info_nce


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=1)


def test_info_nce_is_the_double_loop():
    torch.manual_seed(0)
    queries, keys, negatives = unit(3, 5), unit(3, 5), unit(7, 5).T
    expected = 0.0
    for u, v in zip(queries, keys, strict=True):
        positive = math.exp(float(u @ v) / 0.2)
        expected -= math.log(positive / (positive + sum(math.exp(float(u @ n) / 0.2) for n in negatives.T))) / 3
    assert float(info_nce(queries, keys, negatives, 0.2)) == pytest.approx(expected, rel=1e-12)


def test_queue_wraps_around_and_says_whose_keys_it_has():
    queue = Queue(2, 5)
    assert torch.allclose(queue.features.norm(dim=0), torch.ones(5)) and queue.ids.eq(NOBODY).all()
    first, second = torch.full((3, 2), 1.0), torch.tensor([[2.0, 2], [3, 3], [4, 4]])
    queue.enqueue(first, torch.tensor([10, 11, 12]))
    queue.enqueue(second, torch.tensor([20, 21, 22]))
    assert queue.features[0].tolist() == [4, 1, 1, 2, 3] and queue.ids.tolist() == [22, 11, 12, 20, 21]
    assert queue.pointer.tolist() == [1]


def test_more_keys_than_places_leave_the_last():
    queue = Queue(1, 3)
    queue.enqueue(torch.arange(5.0)[:, None], torch.arange(5))
    assert queue.features[0].tolist() == [3, 4, 2] and queue.ids.tolist() == [3, 4, 2] and int(queue.pointer) == 2


def test_nobody_is_his_own_neighbour():
    torch.manual_seed(0)
    queue, keys = Queue(4, 6), unit(6, 4).float()
    queue.enqueue(keys, torch.arange(6))
    assert torch.equal(queue.nearest(keys, torch.full((6,), 99)), keys)
    alike = (keys @ keys.T).fill_diagonal_(-2)
    assert torch.equal(queue.nearest(keys, torch.arange(6)), keys[alike.argmax(1)])


def test_a_key_encoder_follows_with_its_parameters_alone():
    torch.manual_seed(0)
    query, key = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2))
    freeze_copy(key, query)
    assert not any(p.requires_grad for p in key.parameters())
    before = [p.clone() for p in key.parameters()]
    query(torch.randn(8, 2))  # moves the query's statistics
    with torch.no_grad():
        for p in query.parameters():
            p.add_(1.0)
    follow(key, query, 0.9)
    for k, b, q in zip(key.parameters(), before, query.parameters(), strict=True):
        torch.testing.assert_close(k, 0.9 * b + 0.1 * q)
    assert not key[1].running_mean.any() and query[1].running_mean.any()
