"""Terms of the loss that the zero-shot systems share. Source: the zero-shot specification, section 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import mse_loss

from engine.zeroshot.draws import Draw
from engine.zeroshot.network import AlignedVAE, reparameterised
from engine.zeroshot.schedule import Factors

Alignment = Callable[["Crossed"], tuple[Tensor, Tensor]]  # -> the text's and the skeleton's term


class Crossed(NamedTuple):
    """What an alignment compares: features (N, D) of either kind, and their reconstruction from the other's latents.

    pairing  (N,) int64 permutation, for alignments that compare with other rows too; None where none was drawn
    """

    skeleton: Tensor
    skeleton_from_text: Tensor
    text: Tensor
    text_from_skeleton: Tensor
    pairing: Tensor | None


class Terms(NamedTuple):
    """Scalars, before their factors. The alignment's are None where their factor is 0 and they were not computed."""

    skeleton_reconstruction: Tensor
    text_reconstruction: Tensor
    skeleton_divergence: Tensor
    text_divergence: Tensor
    text_alignment: Tensor | None
    skeleton_alignment: Tensor | None

    def total(self, factors: Factors, weight: float) -> Tensor:
        """The loss; `weight` is that of the alignment, on top of its factor. Terms with factor 0 are left out."""
        loss = self.skeleton_reconstruction + self.text_reconstruction
        if factors.skeleton:
            loss = loss + factors.skeleton * self.skeleton_divergence
        if factors.text:
            loss = loss + factors.text * self.text_divergence
        if factors.alignment and self.text_alignment is not None and self.skeleton_alignment is not None:
            loss = loss + weight * factors.alignment * (self.text_alignment + self.skeleton_alignment)
        return loss


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the standard normal: summed over latent dimensions, mean over the batch; 0 or more."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum() / len(mean)


def terms(
    network: AlignedVAE, skeleton: Tensor, text: Tensor, draw: Draw, alignment: Alignment, *, enhanced: Tensor | None = None,
    crossed: bool = True,
) -> Terms:  # fmt: skip
    """All terms for skeleton features (N, D) and the text features (N, Dt) of the same rows' classes.

    enhanced  what the text's enhancement makes of `text`, where that is known already
    crossed   whether the alignment is wanted
    """
    s_mean, s_log = network.skeleton_encoder(skeleton)
    t_mean, t_log = network.text_encoder(text) if enhanced is None else network.text_encoder.encode(enhanced)
    s_latent, t_latent = reparameterised(s_mean, s_log, draw.skeleton_noise), reparameterised(t_mean, t_log, draw.text_noise)
    aligned: tuple[Tensor | None, Tensor | None] = (None, None)
    if crossed:
        pair = Crossed(skeleton, network.skeleton_decoder(t_latent), text, network.text_decoder(s_latent), draw.pairing)
        aligned = alignment(pair)
    return Terms(
        mse_loss(network.skeleton_decoder(s_latent), skeleton),
        mse_loss(network.text_decoder(t_latent), text),
        divergence(s_mean, s_log),
        divergence(t_mean, t_log),
        *aligned,
    )
