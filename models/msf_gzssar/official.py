"""Where each entry of an official MSF-GZSSAR encoder lives in ours."""

from __future__ import annotations

from engine.official import Entry
from engine.zeroshot.network import Encoder
from engine.zeroshot.official import halves


def encoder(ours: Encoder) -> list[Entry]:
    """Every entry of the official state dict of one encoder, in its order."""
    return halves("", ours.affine.out_features // 2, ("mu_transformation.0", "logvar_transformation.0"))
