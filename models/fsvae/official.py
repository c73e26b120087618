"""Where each entry of an official FS-VAE encoder lives in ours."""

from __future__ import annotations

from engine.official import Entry
from engine.zeroshot.network import Encoder
from engine.zeroshot.official import halves
from models.fsvae.network import BANDS, DAMPING_SHIFT, LOW_EDGE

# Official parameters that never get a gradient: how the weighting of frequencies is built.
CONSTANTS = {"dct_enhancement": 1.0, "num_freq_bands": float(BANDS), "split_freq": float(LOW_EDGE), "m": float(DAMPING_SHIFT)}


def encoder(ours: Encoder) -> list[Entry]:
    """Every learned entry of the official state dict of one encoder; without frequencies, those of its affine maps alone."""
    weighting = [Entry("k", "enhance.strength"), Entry("freq_weights", "enhance.weights")] if ours.enhance is not None else []
    return [*weighting, *halves("", ours.affine.out_features // 2, ("mu_transformation", "logvar_transformation"))]
