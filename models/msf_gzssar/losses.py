"""MSF-GZSSAR's alignment: either kind of feature is reconstructed from the other's latents."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss

from engine.zeroshot.losses import Crossed


def alignment(crossed: Crossed) -> tuple[Tensor, Tensor]:
    """Mean squared errors of the crossed reconstructions, text and skeleton. Source: the specification, section 4."""
    return mse_loss(crossed.text_from_skeleton, crossed.text), mse_loss(crossed.skeleton_from_text, crossed.skeleton)


def weight(classes: int) -> float:
    """That of the alignment: 1 for every data set."""
    return 1.0
