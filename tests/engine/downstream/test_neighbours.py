"""Neighbours against a naive search in float64, whatever the blocks; ties, votes, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.downstream import neighbours
from engine.downstream.neighbours import GRID, Metric, Neighbours, accuracies, majority, nearest, weighted
from shared_data.errors import DataError, UsageError

TINY = 8 * 4 * 12 * 24  # bytes: blocks of a few rows


def made(count: int, width: int = 12, seed: int = 0, *, of: int | None = None) -> np.ndarray:
    """`count` features, drawn from only `of` different ones where that is given: then many are equally near."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(of or count, width)).astype(np.float32) + 0.5
    return values if of is None else values[rng.integers(0, of, count)]


def naive(gallery: np.ndarray, queries: np.ndarray, k: int, metric: Metric) -> np.ndarray:
    """Pair by pair, in float64, rounded as it is said to be."""
    g, q = gallery.astype(np.float64), queries.astype(np.float64)
    scale = 2 ** np.ceil(np.log2(max(np.linalg.norm(row) for row in (*g, *q))))
    rows = []
    for query in q:
        if metric == "cosine":
            alike = [(query * key).sum() / np.linalg.norm(query) / np.linalg.norm(key) for key in g]
        else:
            alike = [-(((query - key) / scale) ** 2).sum() / 2 for key in g]
        rows.append(sorted(range(len(g)), key=lambda n: (-round(alike[n] / GRID), n))[:k])
    return np.array(rows)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("different", [None, 9, 1], ids=["different", "many alike", "all alike"])
@pytest.mark.parametrize("memory", [1, TINY, 10**9])
def test_the_naive_search_finds_the_same(metric: Metric, different: int | None, memory: int) -> None:
    gallery, queries = made(150, of=different), made(40, seed=1)
    found = nearest(gallery, queries, 5, metric=metric, memory=memory)
    np.testing.assert_array_equal(found.rows, naive(gallery, queries, 5, metric))
    assert found.rows.shape == found.alike.shape == (40, 5)
    assert (np.diff(found.alike) <= 0).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_what_float32_cannot_tell_apart_is_found(metric: Metric) -> None:
    """Fifty rows of the gallery differ by less than a product of float32 is wrong by."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=64).astype(np.float32)
    gallery = np.repeat(one[None], 50, 0)
    gallery[np.arange(50), rng.integers(0, 64, 50)] *= 1 + rng.uniform(0, 2e-4, 50).astype(np.float32)
    queries = one[None] + rng.normal(size=(20, 64)).astype(np.float32) * 1e-3
    found = nearest(gallery, queries, 3, metric=metric, memory=TINY)
    np.testing.assert_array_equal(found.rows, naive(gallery, queries, 3, metric))


def test_similarities_and_the_first_of_equal_rows() -> None:
    gallery = np.array([[0, 2], [1, 0], [3, 0], [1, 1]], np.float32)
    found = nearest(gallery, np.array([[5, 0]], np.float32), 4)
    assert found.rows.tolist() == [[1, 2, 3, 0]]
    np.testing.assert_allclose(found.alike, [[1, 1, 0.5**0.5, 0]], atol=GRID)
    near = nearest(gallery, np.array([[2, 0]], np.float32), 4, metric="euclidean")
    assert near.rows.tolist() == [[1, 2, 3, 0]]
    np.testing.assert_allclose(near.alike * 16, [[-0.5, -0.5, -1, -4]], atol=16 * GRID)  # the longest has length 3: units of 4


def test_memory_mapped_files_and_all_threads_give_the_same(tmp_path: Path) -> None:
    gallery, queries = made(300, of=40), made(60, seed=3)
    straight = nearest(gallery, queries, 7)
    for name, values in (("g", gallery), ("q", queries)):
        np.save(tmp_path / f"{name}.npy", values)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        mapped = nearest(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "gq"), 7, memory=TINY)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(mapped.rows, straight.rows)
    np.testing.assert_array_equal(mapped.alike, straight.alike)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("different", [None, 40], ids=["different", "many alike"])
def test_a_gpu_finds_the_same(metric: Metric, different: int | None) -> None:
    gallery, queries = made(3000, 64, of=different), made(500, 64, seed=3)
    there, here = (nearest(gallery, queries, 7, metric=metric, device=device, memory=10**6) for device in ("cuda", "cpu"))
    np.testing.assert_array_equal(there.rows, here.rows)
    np.testing.assert_array_equal(there.alike, here.alike)


def test_a_split_finds_itself() -> None:
    values = made(200)
    labels = np.arange(200) % 7
    assert accuracies(nearest(values, values, 1), labels, labels, [1]) == {1: 1.0}


def test_blocks_fit_the_memory() -> None:
    for memory, width in ((2**20, 16), (2**26, 2048), (2**28, 4096)):
        pair = neighbours._Pair(made(2, width), made(2, width), "cosine", 1.0, torch.device("cpu"), memory)
        for kind, size in ((torch.float32, 4), (torch.float64, 8)):
            n = pair.block(kind)
            assert size * (4 * n * width + 3 * n * n) <= memory
            assert n == neighbours.LARGEST or size * (4 * (n + 2) * width + 3 * (n + 2) ** 2) > memory


def test_votes_by_hand() -> None:
    labels = np.array([2, 0, 0, 1, 1])
    found = Neighbours("cosine", np.array([[0, 1, 2, 3], [3, 1, 4, 2]]), np.array([[0.9, 0.5, 0.4, 0.3], [0.8, 0.8, 0.8, 0.1]]))
    assert majority(found, labels, 1).tolist() == [2, 1]
    assert majority(found, labels, 2).tolist() == [2, 1], "one vote each: the nearest"
    assert majority(found, labels, 3).tolist() == [0, 1]
    assert majority(found, labels, 4).tolist() == [0, 1], "two votes each: the class that comes first"
    # exp(.9/.1) = 8103 beats exp(5) + exp(4) = 203; at temperature 1, 2.46 does not beat 1.65 + 1.49
    assert weighted(found, labels, 3, temperature=0.1).tolist() == [2, 1]
    assert weighted(found, labels, 3, temperature=1.0).tolist() == [0, 1]
    assert accuracies(found, labels, np.array([0, 1]), [1, 3]) == {1: 0.5, 3: 1.0}
    assert accuracies(found, labels, np.array([0, 1]), [3], temperature=0.1) == {3: 0.5}


def test_refusals() -> None:
    values = made(10)
    for k in (0, 11):
        with pytest.raises(UsageError, match=f"{k} neighbours in a gallery of 10"):
            nearest(values, values, k)
    with pytest.raises(DataError, match="a gallery"):
        nearest(values, values[:, :3], 1)
    with pytest.raises(UsageError, match="similarity 'dot'"):
        nearest(values, values, 1, metric="dot")  # type: ignore[arg-type]
    broken = values.copy()
    broken[3, 2] = np.nan
    with pytest.raises(DataError, match=r"NaN or infinite numbers in 1 of 10 rows\n.*the queries.*3"):
        nearest(values, broken, 1)
    found = nearest(values, values, 2, metric="euclidean")
    with pytest.raises(UsageError, match="weighted vote"):
        weighted(found, np.zeros(10, np.int64), 2)
    with pytest.raises(UsageError, match="a vote of 3 of 2"):
        majority(found, np.zeros(10, np.int64), 3)
