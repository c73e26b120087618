"""FS-VAE's calibrated alignment: distances between features and crossed reconstructions, through a sigmoid."""

from __future__ import annotations

from torch import Tensor

from engine.zeroshot.losses import Crossed

SCALE = 100.0  # λ, of squared distances


def alignment(crossed: Crossed) -> tuple[Tensor, Tensor]:
    """Calibrated terms of text and skeleton, each the mean of numbers in 0 .. 1. Source: the specification, section 4.

    The text's is a contrast: a feature shall be nearer to its own reconstruction than to that of the row it is paired with.
    The skeleton's only pulls: 0.5 at a perfect reconstruction.
    """
    assert crossed.pairing is not None
    own = _distance(crossed.text, crossed.text_from_skeleton)
    other = _distance(crossed.text, crossed.text_from_skeleton.index_select(0, crossed.pairing))
    pull = _distance(crossed.skeleton, crossed.skeleton_from_text)
    return ((own - other) / SCALE).sigmoid().mean(), (pull / SCALE).sigmoid().mean()


def weight(classes: int) -> float:
    """That of the alignment, λ α: α is 0.5 for NTU-60 and 0.1 for NTU-120. Data sets of up to 60 classes take the former."""
    return SCALE * (0.5 if classes <= 60 else 0.1)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of rows, (N, D) twice to (N,)."""
    return (a - b).square().sum(1)
