"""Two affine variational autoencoders and a classifier of latents: the networks that the zero-shot systems share.

The published encoders have no hidden layer, so each is one affine map, and mean and log-variance are halves of its output.
Decoders and classifier end with a ReLU, officially: negative numbers of a text feature are never reconstructed, and classes whose
score is negative tie at 0. Source: the zero-shot specification, section 3.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from shared_data.batches.randomness import ZERO_SHOT_WEIGHTS, sample_keys, uniforms

GAIN = 0.5  # of the Xavier-uniform start values


class Enhancement(Protocol):
    """A linear map of feature rows with learned weights, in front of an encoder.

    ``joined(parts(x))`` equals ``enhance(x)``; `parts` depends on no weight, so rows that stay the same are taken apart once.
    """

    def __call__(self, x: Tensor) -> Tensor: ...
    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]: ...
    def joined(self, parts: tuple[Tensor, Tensor]) -> Tensor: ...


class Encoder(nn.Module):
    """Features (N, D) to the mean and the log-variance (N, L) of their latents, behind an `enhance` where there is one."""

    def __init__(self, features: int, latent: int, enhance: nn.Module | None = None) -> None:
        super().__init__()
        self.enhance = enhance
        self.affine = nn.Linear(features, 2 * latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(x if self.enhance is None else self.enhance(x))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same for features that are enhanced already."""
        mean, log_variance = self.affine(x).chunk(2, dim=-1)
        return mean, log_variance


class Decoder(nn.Module):
    """Latents (N, L) to features (N, D), not negative unless `relu` is off."""

    def __init__(self, latent: int, features: int, *, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.affine = nn.Linear(latent, features)

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.affine(z)
        return x.relu() if self.relu else x


class LatentClassifier(nn.Module):
    """Latents (N, L) to scores (N, U) of the unseen classes, not negative unless `relu` is off."""

    def __init__(self, latent: int, unseen: int, *, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.affine = nn.Linear(latent, unseen)

    def forward(self, z: Tensor) -> Tensor:
        scores: Tensor = self.affine(z)
        return scores.relu() if self.relu else scores


class Sizes(NamedTuple):
    """Widths: of skeleton features, of text features, of latents."""

    skeleton: int
    text: int
    latent: int


class AlignedVAE(nn.Module):
    """A skeleton and a text autoencoder with latents of the same width."""

    def __init__(
        self,
        sizes: Sizes,
        *,
        relu_output: bool = True,
        enhance_skeleton: nn.Module | None = None,
        enhance_text: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.skeleton_encoder = Encoder(sizes.skeleton, sizes.latent, enhance_skeleton)
        self.skeleton_decoder = Decoder(sizes.latent, sizes.skeleton, relu=relu_output)
        self.text_encoder = Encoder(sizes.text, sizes.latent, enhance_text)
        self.text_decoder = Decoder(sizes.latent, sizes.text, relu=relu_output)


def reparameterised(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Latents (N, L) at `noise`: (N, 1), one number for all dimensions of a row as officially, or (N, L)."""
    return mean + (0.5 * log_variance).exp() * noise


def initialise(network: nn.Module, seed: int, *, turn: int = 0) -> None:
    """Xavier-uniform weights (gain 0.5) and zero biases of every linear layer, a function of (seed, turn, layer) alone.

    The halves of an encoder are two layers, each with its own fan-out. `turn` tells networks of one seed apart.
    """
    layers = [(parent, layer) for parent in network.modules() for layer in parent.children() if isinstance(layer, nn.Linear)]
    for number, (parent, layer) in enumerate(layers):
        rows, columns = layer.weight.shape
        outputs = rows // 2 if isinstance(parent, Encoder) else rows
        bound = GAIN * math.sqrt(6.0 / (columns + outputs))
        u = uniforms(seed, turn, sample_keys(np.arange(rows), number), ZERO_SHOT_WEIGHTS, columns)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy((2.0 * u - 1.0) * bound))
            layer.bias.zero_()
