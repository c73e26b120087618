"""A random set of things from one uniform number: which joints, which blocks of frames."""

from __future__ import annotations

import functools
from math import comb

import numpy as np

_MOST_SETS = 2**40  # far below the 2**53 values of a uniform number: no set is noticeably likelier than another


def random_set(u: np.ndarray, size: int, count: int) -> np.ndarray:
    """`count` of `size` things, every set equally likely: uniform numbers `u` (...) -> (..., size) bool.

    The number is the rank of the set in a list of all sets: first by how many of the first half of the things it has, then
    by which of these, then by which of the rest. Raises ValueError where there is no such set, or too many for one number.
    """
    if not 0 <= count <= size or comb(size, count) > _MOST_SETS:
        raise ValueError(f"{count} of {size} things")
    left, right, first_rank = _table(size, count)
    rank = (u.reshape(-1) * comb(size, count)).astype(np.int64)
    taken = np.searchsorted(first_rank, rank, side="right") - 1  # of the first half
    which, other = np.divmod(rank - first_rank[taken], right.ways[count - taken])
    sets = np.empty((len(rank), size), dtype=bool)
    np.take(left.sets, left.begin[taken] + which, axis=0, out=sets[:, : size // 2], mode="clip")
    np.take(right.sets, right.begin[count - taken] + other, axis=0, out=sets[:, size // 2 :], mode="clip")
    return sets.reshape(*u.shape, size)


class _Subsets:
    """All subsets of `size` things (2**size, size), the smaller ones first.

    begin[k], ways[k]  where those of k things begin, and how many there are: 0 and 0 for k that no subset has
    """

    def __init__(self, size: int, count: int) -> None:
        members = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
        self.sets = members[np.argsort(members.sum(1), kind="stable")].astype(bool)
        self.ways = np.array([comb(size, k) for k in range(count + 1)], dtype=np.int64)
        self.begin = np.cumsum(self.ways) - self.ways


@functools.lru_cache(maxsize=8)
def _table(size: int, count: int) -> tuple[_Subsets, _Subsets, np.ndarray]:
    """Subsets of the first half and of the rest, and the rank of the first set with k things of the first half."""
    left, right = _Subsets(size // 2, count), _Subsets(size - size // 2, count)
    ways = left.ways * right.ways[::-1]
    return left, right, np.cumsum(ways) - ways
