"""Which clips of NTU RGB+D 120 are novel to an encoder that was trained on NTU RGB+D, and which are its one-shot exemplars."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared_data.errors import DataError
from shared_data.protocols import NOVEL_ACTIONS, ntu_name, one_shot

KNOWN_ACTIONS = 60  # of NTU RGB+D; A061 ... A120 came with NTU RGB+D 120
EXEMPLARS = len(NOVEL_ACTIONS)
SEEN_BY_NTU60 = sum(action <= KNOWN_ACTIONS for action in NOVEL_ACTIONS)
"""How many of the one-shot protocol's novel classes an encoder saw, without labels, that was pretrained on NTU RGB+D."""


def novel(ids: NDArray[np.str_], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) whether a clip of NTU-120 shows an action that NTU-60 has not: by its name; by its label if no name is NTU's."""
    names = [ntu_name(str(name)) for name in ids]
    if any(names):
        _require(ids, [n for n, name in enumerate(names) if name is None])
        return np.array([name is not None and name.action > KNOWN_ACTIONS for name in names], bool)
    return np.asarray(labels >= KNOWN_ACTIONS)


def one_shot_parts(ids: NDArray[np.str_]) -> NDArray[np.str_]:
    """(N,) "auxiliary", "exemplar" or "evaluation", as `protocols.one_shot` says of each name.

    Raises `DataError` for a name that is not NTU's, and where an exemplar is missing or there twice.
    """
    names = [ntu_name(str(name)) for name in ids]
    _require(ids, [n for n, name in enumerate(names) if name is None])
    parts = np.array([one_shot(name) for name in names if name is not None], "U10")
    found = sorted(name.action for name, part in zip(names, parts, strict=True) if name is not None and part == "exemplar")
    if found != list(NOVEL_ACTIONS):
        missing = sorted(set(NOVEL_ACTIONS) - set(found))
        raise DataError(
            f"{len(found)} exemplars" + (f", none of A{missing[0]:03d}" if missing else ", some of them twice"),
            where="the one-shot protocol of NTU RGB+D 120",
            expected=f"one for each of its {EXEMPLARS} novel actions: S001C003P008R001A001 ... S018C003P008R001A115",
            next_step="give all clips of NTU RGB+D 120, training and test together",
        )  # fmt: skip
    return parts


def _require(ids: NDArray[np.str_], wrong: list[int]) -> None:
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(ids)} clips have no name of NTU RGB+D, such as {ids[wrong[0]]}", where="ids",
            expected="names like S001C002P003R002A013: they say who does what, and where",
            next_step="use data that keeps the samples' names, such as the raw .skeleton files",
        )  # fmt: skip
