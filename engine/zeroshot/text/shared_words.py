"""Text features without a language model, for when no weights are at hand: texts are alike if they share words or parts of words.

A baseline that knows no meaning: "sit down" and "take a seat" have nothing in common here. Each word, and each run of three and
four letters of one, stands for a fixed sign vector; a text is their sum, in which what many texts hold counts little.
Deterministic on every machine: the vectors come from BLAKE2 hashes.

Source: Weinberger et al., Feature Hashing for Large Scale Multitask Learning, ICML 2009; Spärck Jones, 1972 (weights by rarity).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared_data.errors import DataError, UsageError

WIDTH = 512
RUNS = (3, 4)  # letters
PLACES = 8  # entries that a term touches
LARGEST_WIDTH = 1 << 15


def features(texts: Sequence[str], width: int = WIDTH) -> NDArray[np.float32]:
    """(N, width) float32 of `texts`, each row of unit length.

    A term that stands c times in a text and in d of all N texts counts (1 + log c) log((1 + N) / d).
    Raises `UsageError` for a `width` of none or too many, and `DataError` for a text without a letter or digit.
    """
    if not PLACES <= width <= LARGEST_WIDTH:
        raise UsageError(f"text features of width {width}", expected=f"{PLACES} .. {LARGEST_WIDTH}")
    counted = [Counter(terms(text)) for text in texts]
    if empty := [n for n, found in enumerate(counted, 1) if not found]:
        raise DataError("a text without a word", where=f"text {empty[0]}: {texts[empty[0] - 1][:60]!r}")
    texts_with = Counter(term for found in counted for term in found)
    rows = np.zeros((len(texts), width))
    for row, found in zip(rows, counted, strict=True):
        for term, count in sorted(found.items()):
            weight = (1 + math.log(count)) * math.log((1 + len(texts)) / texts_with[term])
            places, signs = _vector(term, width)
            np.add.at(row, places, weight * signs)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (length > 0).all():
        raise DataError(
            "the terms of a text cancel out", where=f"text {int(np.argmin(length)) + 1}", next_step="choose another width"
        )
    return np.asarray(rows / length, np.float32)


def terms(text: str) -> list[str]:
    """Its words in lower case, and runs of letters in them; `<` and `>` mark where a word begins and ends."""
    found: list[str] = []
    for word in re.findall(r"[^\W_]+", text.lower()):
        bounded = f"<{word}>"
        found.append(bounded)
        found += [bounded[at : at + n] for n in RUNS for at in range(len(bounded) - n + 1) if n < len(bounded)]
    return found


def _vector(term: str, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of a term's vector and what it adds there, 1 or -1."""
    numbers = np.frombuffer(hashlib.blake2b(term.encode("utf-8"), digest_size=4 * PLACES).digest(), "<u4")
    return (numbers >> 1).astype(np.int64) % width, 1 - 2 * (numbers & 1).astype(np.int64)
