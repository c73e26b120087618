"""What a network that segments says about every frame."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FrameScores:
    """Logits of B sequences, T the frames of the longest; those of padded frames mean nothing.

    classes     stages of (B, K, T): the head's own first, then each refinement; the last counts
    boundaries  stages of (B, 1, T) in the same order; () where a network has no boundary branch
    """

    classes: tuple[Tensor, ...]
    boundaries: tuple[Tensor, ...]
