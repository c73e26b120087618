"""Nearest neighbours among features: exact, in bounded memory, on a CPU or a GPU, and the votes that they take.

How alike two clips are is the cosine between their features, or for "euclidean" minus half the squared distance between them, in
units of the longest feature of all. The answer is that of float64 numbers rounded to multiples of `GRID`; of equally near ones
the first row of the gallery counts. It does not depend on the size of blocks, the number of threads or the device.

It is found in float32: a few more candidates than are asked for, then those again in float64. Products of float32 have errors
that grow as sqrt(D) in all but freak cases (Higham and Mary, 2019). Where the last candidate is so near that what was left out
may be nearer than that, the query is looked at again, all in float64.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.downstream.features import require_finite
from shared_data.errors import DataError, UsageError

Metric = Literal["cosine", "euclidean"]
MEMORY = 256 * 2**20
GRID = 2.0**-36
SPARE = 8  # candidates beyond those asked for
SAFETY = 4.0  # times sqrt(D) unit roundoffs
MOST_ROWS = 1 << 25  # of a gallery: a similarity and a row fit 63 bits
LARGEST = 4096  # rows of a block: larger ones are no faster


@dataclass(frozen=True)
class Neighbours:
    """For each of Q queries the K nearest rows of a gallery, nearest first.

    rows    (Q, K) int64
    alike   (Q, K) float64, the similarity (see the module), falling in each row
    """

    metric: Metric
    rows: NDArray[np.int64]
    alike: NDArray[np.float64]


def nearest(
    gallery: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    *,
    metric: Metric = "cosine",
    device: torch.device | str = "cpu",
    memory: int = MEMORY,
) -> Neighbours:
    """The `k` nearest rows of `gallery` (G, D) for each of `queries` (Q, D), both finite, perhaps memory-mapped.

    memory   bytes on `device` for blocks of rows and of products; the features themselves are read from where they are. The
             answer and the candidates of each query, k + 8 of 12 bytes, come on top. Blocks have at least 8 rows
    Raises `UsageError` for a k beyond the gallery, `DataError` for features that do not fit together or are no numbers.
    """
    _check(gallery, queries, k, metric)
    with torch.inference_mode(), _full_precision():
        scale = _scale(gallery, queries, metric)
        pair = _Pair(gallery, queries, metric, scale, torch.device(device), memory)
        wanted = min(k + SPARE, len(gallery))
        bound, rows = _candidates(pair, np.arange(len(queries)), wanted, torch.float32)
        found_rows, found = _looked_at_again(pair, rows, k)
        if wanted < len(gallery):
            error = 2 * SAFETY * gallery.shape[1] ** 0.5 * float(torch.finfo(torch.float32).eps) / 2
            unsure = np.flatnonzero(found[:, -1] <= bound + error)
            if len(unsure):
                _, again = _candidates(pair, unsure, k, torch.float64)
                found_rows[unsure], found[unsure] = _looked_at_again(pair, again, k, unsure)
    return Neighbours(metric, found_rows, found)


def majority(neighbours: Neighbours, labels: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """(Q,) the class of most of the `k` nearest, by the `labels` (G,) of the gallery; among equals that of the nearest one."""
    return _voted(neighbours, labels, k, np.ones_like(neighbours.alike))


def weighted(neighbours: Neighbours, labels: NDArray[np.int64], k: int, *, temperature: float = 0.1) -> NDArray[np.int64]:
    """(Q,) the class of the largest sum of exp(cosine / temperature) over the `k` nearest.

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018.
    Raises `UsageError` for other similarities than cosines and for a temperature that is not above 0.
    """
    if neighbours.metric != "cosine" or temperature <= 0:
        raise UsageError(
            f"a weighted vote of {neighbours.metric} neighbours at temperature {temperature}", where="k-NN",
            expected="cosine, and a temperature above 0",
        )  # fmt: skip
    return _voted(neighbours, labels, k, np.exp((neighbours.alike - neighbours.alike[:, :1]) / temperature))


def accuracies(
    neighbours: Neighbours,
    gallery_labels: NDArray[np.int64],
    labels: NDArray[np.int64],
    ks: Sequence[int],
    *,
    temperature: float | None = None,
) -> dict[int, float]:
    """Top-1, a fraction, of the vote of k neighbours for each k of `ks`; weighted where there is a `temperature`."""
    if temperature is None:
        return {k: float((majority(neighbours, gallery_labels, k) == labels).mean()) for k in ks}
    return {k: float((weighted(neighbours, gallery_labels, k, temperature=temperature) == labels).mean()) for k in ks}


def _voted(neighbours: Neighbours, labels: NDArray[np.int64], k: int, votes: NDArray[np.float64]) -> NDArray[np.int64]:
    if not 1 <= k <= neighbours.rows.shape[1]:
        raise UsageError(
            f"a vote of {k} of {neighbours.rows.shape[1]} neighbours", where="k", expected="1 or more of those found"
        )
    classes = labels[neighbours.rows[:, :k]]
    sums = np.zeros(classes.shape)  # for each neighbour, the votes for its class
    for j in range(k):
        sums += (classes == classes[:, j : j + 1]) * votes[:, j : j + 1]
    winner: NDArray[np.int64] = classes[np.arange(len(classes)), sums.argmax(1)]  # the first of the highest, so the nearest
    return winner


# ---- how


@dataclass(frozen=True)
class _Pair:
    gallery: NDArray[np.float32]
    queries: NDArray[np.float32]
    metric: Metric
    scale: float
    device: torch.device
    memory: int

    def rows(self, values: NDArray[np.float32], kind: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Rows (n, D) on the device whose products are similarities, less their halved squares (n,) if they are no cosines."""
        found = torch.from_numpy(np.array(values, np.float32)).to(self.device, kind)
        if self.metric == "cosine":
            return torch.nn.functional.normalize(found, dim=1, eps=1e-30), None
        found /= self.scale
        return found, found.square().sum(1) / 2

    def block(self, kind: torch.dtype) -> int:
        """Rows n of a block: four times (n, D) and three times (n, n) of numbers of `kind` fit the memory."""
        numbers = self.memory / (8 if kind == torch.float64 else 4)
        width = self.gallery.shape[1]
        return max(min(int(((4 * width) ** 2 + 12 * numbers) ** 0.5 - 4 * width) // 6, LARGEST), 8)


def _candidates(
    pair: _Pair, which: NDArray[np.int64], k: int, kind: torch.dtype
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For the queries `which` (Q,) how alike the last of `k` nearest is, and rows of these (Q, k), from products of `kind`.

    In float64 the order is that of rounded similarities, then rows; the first result is then of no use.
    """
    step, exact = pair.block(kind), kind == torch.float64
    parts = [which[at : at + step] for at in range(0, len(which), step)]
    best = [torch.empty((len(part), 0), dtype=torch.int64 if exact else kind, device=pair.device) for part in parts]
    rows = [torch.empty((len(part), 0), dtype=torch.int32, device=pair.device) for part in parts]
    for first in range(0, len(pair.gallery), step):
        keys, key_squares = pair.rows(pair.gallery[first : first + step], kind)
        for at, part in enumerate(parts):
            queries, squares = pair.rows(pair.queries[part], kind)
            alike = queries @ keys.T
            if squares is not None and key_squares is not None:
                alike -= squares[:, None]
                alike -= key_squares
            if exact:
                best[at] = _highest(torch.cat([best[at], _highest(_numbered(alike, first), k).values], 1), k).values
                continue
            found, columns = _highest(alike, k)
            best[at], order = _highest(torch.cat([best[at], found], 1), k)
            rows[at] = torch.cat([rows[at], columns.int() + first], 1).gather(1, order)
    if exact:
        rows = [MOST_ROWS - 1 - part % MOST_ROWS for part in best]
    return torch.cat(best)[:, -1].double().cpu().numpy(), torch.cat(rows).long().cpu().numpy()


def _highest(alike: Tensor, k: int) -> torch.return_types.topk:
    return alike.topk(min(k, alike.shape[1]), dim=1)


def _numbered(alike: Tensor, first: int) -> Tensor:
    """(q, n) int64: a similarity and the row it is of, counted from `first`, in one number, so that no two are equal."""
    numbers = alike.div_(GRID).round_().long().mul_(MOST_ROWS)
    numbers += MOST_ROWS - 1 - first - torch.arange(alike.shape[1], device=alike.device)
    return numbers


def _looked_at_again(
    pair: _Pair, rows: NDArray[np.int64], k: int, which: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `k` nearest among candidates `rows` (Q, K) of the queries `which` (None: all), by similarities in float64."""
    which = np.arange(len(rows)) if which is None else which
    found_rows, found = np.empty((len(rows), k), np.int64), np.empty((len(rows), k))
    step = max(pair.memory // (24 * rows.shape[1] * pair.gallery.shape[1]), 1)
    for first in range(0, len(rows), step):
        part = np.sort(rows[first : first + step], axis=1)
        queries, _ = pair.rows(pair.queries[which[first : first + step]], torch.float64)
        keys, _ = pair.rows(pair.gallery[part.reshape(-1)], torch.float64)
        keys = keys.view(*part.shape, -1)
        if pair.metric == "cosine":
            alike = keys.mul_(queries[:, None]).sum(2)
        else:
            alike = keys.sub_(queries[:, None]).square_().sum(2) / -2
        alike = alike.div_(GRID).round_().mul_(GRID)
        ordered = alike.sort(dim=1, descending=True, stable=True)
        places = ordered.indices[:, :k].cpu().numpy()
        found_rows[first : first + step] = np.take_along_axis(part, places, 1)
        found[first : first + step] = ordered.values[:, :k].cpu().numpy()
    return found_rows, found


def _scale(gallery: NDArray[np.float32], queries: NDArray[np.float32], metric: Metric) -> float:
    """The length of the longest feature, as a power of two so that dividing by it rounds nothing; 1 where it is not needed."""
    if metric == "cosine":
        return 1.0
    pieces = (part[i : i + LARGEST] for part in (gallery, queries) for i in range(0, len(part), LARGEST))
    longest = max(float(np.linalg.norm(piece.astype(np.float64), axis=1).max()) for piece in pieces)
    return float(2.0 ** np.ceil(np.log2(longest))) if longest > 0 else 1.0


def _check(gallery: NDArray[np.float32], queries: NDArray[np.float32], k: int, metric: str) -> None:
    if metric not in get_args(Metric):
        raise UsageError(f"similarity {metric!r}", where="k-NN", expected=", ".join(get_args(Metric)))
    if gallery.ndim != 2 or queries.ndim != 2 or gallery.shape[1] != queries.shape[1] or not gallery.size or not len(queries):
        raise DataError(
            f"a gallery {gallery.shape} and queries {queries.shape}", where="k-NN", expected="(G, D) and (Q, D), none of them 0"
        )
    if not 1 <= k <= len(gallery) < MOST_ROWS:
        raise UsageError(f"{k} neighbours in a gallery of {len(gallery)}", where="k", expected=f"1 .. {len(gallery)}")
    for values, name in ((gallery, "the gallery"), (queries, "the queries")):
        require_finite(values, name)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Products of float32 are made in float32 on GPUs too, whatever the process had chosen."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
