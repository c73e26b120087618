"""Clips that occur more than once: a test clip that was trained on makes an accuracy worthless, and nothing else shows it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shared_data.clips import Clips
from shared_data.findings import ROWS_NAMED, WARNING, Finding
from shared_data.formats.source import Split


def duplicates(splits: Mapping[str, Split]) -> list[Finding]:
    """Warnings about clips with identical rows (`Scan.digests`), within each split and from split to split.

    Clips without any content are alike for another reason and are not counted.
    """
    found, seen = [], [(name, split.clips, *_known(split)) for name, split in splits.items()]
    for number, (name, clips, digest, row) in enumerate(seen):
        _, first, owner = np.unique(digest, return_index=True, return_inverse=True)
        again = np.flatnonzero(first[owner] != np.arange(len(digest)))
        if len(again):
            found.append(
                _finding(
                    "clip-repeated", f"clips of {name} that repeat an earlier one of the same split",
                    (name, clips, row[again]), (name, clips, row[first[owner[again]]]),
                    "leave one of each pair, or they count twice",
                )
            )  # fmt: skip
        for other, other_clips, other_digest, other_row in seen[:number]:
            known, place = np.unique(other_digest, return_index=True)
            shared = np.flatnonzero(np.isin(digest, known))
            if len(shared):
                twin = place[np.searchsorted(known, digest[shared])]
                found.append(
                    _finding(
                        "clip-shared", f"clips of {name} that {other} holds as well",
                        (name, clips, row[shared]), (other, other_clips, other_row[twin]),
                        "remove them from one of the splits: what was trained on does not test anything",
                    )
                )  # fmt: skip
    return found


def _known(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Digests (K,) uint64 of the clips that have content, and their row numbers (K,)."""
    digests = np.array(split.scan.digests, np.uint64)
    rows = np.setdiff1d(np.arange(len(digests)), np.array(split.scan.empty, np.int64))
    return digests[rows], rows


def _finding(
    code: str, what: str, these: tuple[str, Clips, np.ndarray], those: tuple[str, Clips, np.ndarray], step: str
) -> Finding:
    (here, clips, rows), (_, twins, twin_rows) = these, those
    named = slice(ROWS_NAMED)
    pairs = [f"{a} = {b}" for a, b in zip(clips.ids[rows[named]], twins.ids[twin_rows[named]], strict=True)]
    more = f" and {len(rows) - ROWS_NAMED} more" if len(rows) > ROWS_NAMED else ""
    odd = int((clips.labels[rows] != twins.labels[twin_rows]).sum())
    told = f"; {odd} of them with another label" if odd else ""
    first = tuple(int(row) for row in rows[:ROWS_NAMED])
    return Finding(code, WARNING, f"{len(rows)} {what}: {', '.join(pairs)}{more}{told}", here, len(rows), first, step)
