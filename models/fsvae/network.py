"""The networks of FS-VAE: the shared autoencoders behind a learned weighting of frequencies.

The frequencies are those of a cosine transform along the *feature* axis (256 numbers of a skeleton, or the text's), not of time.
Source: the zero-shot specification, section 3.1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from engine.zeroshot.network import AlignedVAE, Encoder, Sizes

BANDS = 30
LOW_EDGE = 30  # a band that ends here or earlier is low: it is raised, the others are damped. Not a number of bands
DAMPING_SHIFT = 1  # `m` of the official code
STRENGTH = 0.3  # start value of k


class FrequencyEnhancement(nn.Module):
    """Rows (N, D) with each of 30 bands of their frequencies multiplied by a learned factor; linear in the rows.

    strength     () k, one for all bands
    weights      (30,) one per band; a band's factor is 1 + k * weight * slope, with a fixed slope of either sign
    """

    cosines: Tensor
    bands: Tensor
    slopes: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(STRENGTH))
        self.weights = nn.Parameter(torch.ones(BANDS))
        edges = band_edges(features)
        bands = np.zeros((BANDS, features))
        for i in range(BANDS):
            bands[i, edges[i] : edges[i + 1]] = 1.0
        # Float64, as they are cast to the dtype of the pass: a network in double keeps exact ones.
        self.register_buffer("cosines", torch.from_numpy(cosine_transform(features)), persistent=False)
        self.register_buffer("bands", torch.from_numpy(bands), persistent=False)
        self.register_buffer("slopes", torch.tensor(band_slopes(edges), dtype=torch.float64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        cosines = self.cosines.to(x.dtype)
        return (x @ cosines.T * self.factors()) @ cosines

    def changes(self) -> Tensor:
        """(30,) what the factor of each band adds to 1."""
        return self.strength * self.weights * self.slopes.to(self.weights.dtype)

    def factors(self) -> Tensor:
        """(D,) the factor of each frequency; the last one is in no band and keeps 1."""
        return 1.0 + self.changes() @ self.bands.to(self.weights.dtype)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (N, D) and their share in each band, (30, N, D): what `joined` weighs."""
        cosines = self.cosines.to(x.dtype)
        coefficients = x @ cosines.T
        return x, torch.stack([(coefficients * band) @ cosines for band in self.bands.to(x.dtype)])

    def joined(self, parts: tuple[Tensor, Tensor]) -> Tensor:
        """The enhanced rows (N, D) of `parts`."""
        rows, shares = parts
        return rows + (self.changes() @ shares.flatten(1)).view_as(rows)


def folded(encoder: Encoder) -> Encoder:
    """The same map without the transforms, for inference: the enhancement goes into the affine map behind it."""
    plain = Encoder(encoder.affine.in_features, encoder.affine.out_features // 2).to(encoder.affine.weight)
    with torch.no_grad():
        weight = encoder.affine.weight
        plain.affine.weight.copy_(weight if encoder.enhance is None else encoder.enhance(weight))  # a symmetric map of rows
        plain.affine.bias.copy_(encoder.affine.bias)
    return plain


def build(sizes: Sizes, *, relu_output: bool = True, enhance: bool = True) -> AlignedVAE:
    """Both autoencoders; `relu_output` is the official ReLU behind the decoders, `enhance` the weighting of frequencies."""
    return AlignedVAE(
        sizes,
        relu_output=relu_output,
        enhance_skeleton=FrequencyEnhancement(sizes.skeleton) if enhance else None,
        enhance_text=FrequencyEnhancement(sizes.text) if enhance else None,
    )


def band_edges(features: int) -> list[int]:
    """31 edges of the bands; the float32 spacing decides where an edge comes out one lower than i (D - 1) / 30 rounded down."""
    spaced = torch.linspace(0, features - 1, BANDS + 1, dtype=torch.float32, device="cpu")
    return [int(edge) for edge in spaced.tolist()]


def band_slopes(edges: list[int]) -> list[float]:
    """What k times a band's weight is multiplied with: positive for low bands, negative for the others."""
    return [1 - i / BANDS if edges[i + 1] <= LOW_EDGE else -(1 - (i - BANDS // DAMPING_SHIFT) / BANDS) for i in range(BANDS)]


def cosine_transform(features: int) -> np.ndarray:
    """(D, D) float64: the orthonormal cosine transform of type II, one frequency per row; its transpose is its inverse."""
    frequency, place = np.mgrid[:features, :features]
    turns = frequency * (2 * place + 1) % (4 * features)  # whole numbers: large angles would lose digits
    table = np.cos(np.pi * turns / (2 * features)) * math.sqrt(2 / features)
    table[0] /= math.sqrt(2)
    return np.asarray(table)
