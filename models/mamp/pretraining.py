"""What MAMP learns from clips without labels: to predict the motion of masked joints (Mao et al., ICCV 2023).

Letters in the shapes as in `network.py`; k tokens of L are kept. Only these go through the encoder, gathered before they are even
embedded; a light decoder sees all places.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from engine.pretraining.objective import Embedded
from layers.recompute import segment
from layers.transformer import PreNormLayer
from models.mamp.network import Encoder, PositionCode, start
from models.mamp.tuning import Neighbours
from shared_data.errors import require, require_known
from shared_data.skeletons import Skeleton

__all__ = ["MaskedMotion", "Neighbours", "Prediction", "kept_tokens", "motion", "stirred"]

Target = Literal["motion", "position"]
TINY = 1e-10  # keeps logarithms and quotients finite, in the masking
FLAT = 1e-6  # added to the variance of a patch


def motion(clips: Tensor, stride: int = 1) -> Tensor:
    """(N, C, T, V, M) -> the same shape: where joints go in `stride` frames, 0 in the last ones."""
    moved = torch.zeros_like(clips)
    moved[:, :, :-stride] = clips[:, :, stride:] - clips[:, :, :-stride]
    return moved


def stirred(patches: Tensor, steps: int) -> Tensor:
    """How much tokens move: patches (S, L, C * p) of so many time steps -> (S, L).

    The mean distance of a patch's numbers to those of the same joint one step before; the first step has that of the second.
    """
    change = patches.unflatten(1, (steps, -1)).diff(dim=1).abs().mean(-1)
    return torch.cat([change[:, :1], change], 1).flatten(1)


def kept_tokens(moves: Tensor, noise: Tensor, count: int, tau: float) -> Tensor:
    """The tokens (S, count) that are not masked, of (S, L) that move so much: those that move tend to be masked.

    noise  (S, L), uniform in [0, 1)
    tau    the smaller, the more motion decides; 0 (the official code's sign for it): motion does not matter

    Lowest of log p + Gumbel noise, p the softmax of the motion in units of tau times a sequence's largest.
    """
    if tau == 0:
        return noise.topk(count, largest=False, sorted=False).indices
    logits = moves / (tau * moves.amax(1, keepdim=True) + TINY)
    gumbel = -torch.log(-torch.log(noise + TINY) + TINY)
    return (logits.log_softmax(1) + gumbel).topk(count, largest=False, sorted=False).indices


class Prediction(NamedTuple):
    """What the decoder makes of masked clips.

    predicted, target   (S, L, p * C)
    mask                (S, L), 1 where a token was masked
    encoded             (S, k, D), the tokens that were not
    """

    predicted: Tensor
    target: Tensor
    mask: Tensor
    encoded: Tensor


class Decoder(nn.Module):
    """Encoded tokens, with one learned token for all that were masked, to a prediction at every place."""

    def __init__(self, encoder: Encoder, *, width: int, depth: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, width))  # no vector: weight decay acts on it
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.position = PositionCode(encoder.steps, encoder.joints, width)
        self.embed = nn.Linear(encoder.width, width)
        self.blocks = nn.ModuleList(PreNormLayer(width, heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, encoder.shape[0] * encoder.patch)
        start(self)

    def forward(self, encoded: Tensor, keep: Tensor) -> Tensor:
        """(S, k, D) of the tokens `keep` (S, k) -> (S, L, p * C)."""
        known, code = self.embed(encoded), self.position()
        tokens = self.mask_token.to(known.dtype).expand(len(known), len(code), -1)
        tokens = tokens.scatter(1, keep.unsqueeze(-1).expand(-1, -1, known.shape[-1]), known) + code
        for block in self.blocks:
            tokens = segment(block, tokens)
        out: Tensor = self.predict(self.norm(tokens))
        return out


class MaskedMotion(nn.Module):
    """The objective: 90 % of the tokens are masked, and their motion is predicted from the others.

    mask_ratio     share of the tokens that is masked, at least: what is kept is rounded down
    tau            see `kept_tokens`: 0.80 for NTU-60 and PKU-MMD, 0.75 for NTU-120
    stride         frames over which motion is taken
    target         "motion", or "position": what a masked autoencoder predicts (with tau 0)
    norm_target    each patch of the target has mean 0 and variance 1
    decoder_width, decoder_depth   D and blocks of the decoder, which is thrown away afterwards
    others         see `Encoder`

    The loss of a clip is the mean over its masked tokens, those of absent people too: their target is 0.
    """

    in_batch = False

    def __init__(
        self,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        frames: int = 120,
        in_channels: int = 3,
        width: int = 256,
        depth: int = 8,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        patch: int = 4,
        decoder_width: int = 256,
        decoder_depth: int = 5,
        mask_ratio: float = 0.9,
        tau: float = 0.8,
        stride: int = 1,
        target: str = "motion",
        norm_target: bool = True,
    ) -> None:
        super().__init__()
        require(decoder_depth >= 1, "decoder_depth", decoder_depth, "1 or more blocks")
        require(
            decoder_width >= heads and decoder_width % heads == 0, "decoder_width", decoder_width, f"a multiple of {heads} heads"
        )
        require(tau >= 0, "tau", tau, "0 or more")
        require(1 <= stride < frames, "stride", stride, f"1 to {frames - 1} frames")
        require_known("target", target, get_args(Target))
        self.encoder = Encoder(
            skeleton=skeleton, people=people, frames=frames, in_channels=in_channels, width=width, depth=depth, heads=heads,
            mlp_ratio=mlp_ratio, patch=patch,
        )  # fmt: skip
        tokens = self.encoder.steps * self.encoder.joints
        self.keep = int(tokens * (1 - mask_ratio))  # 74 of 750 at 0.9: the float is below 75
        require(0 < self.keep < tokens, "mask_ratio", mask_ratio, f"a share that leaves 1 to {tokens - 1} of {tokens} tokens")
        require(self.encoder.steps > 1, "frames", frames, f"two patches of {patch} frames or more")
        self.decoder = Decoder(self.encoder, width=decoder_width, depth=decoder_depth, heads=heads, mlp_ratio=mlp_ratio)
        self.tau, self.stride, self.target, self.norm_target = tau, stride, target, norm_target

    def begin(self) -> None:
        """Nothing: there is no momentum encoder."""

    def embed(self, views: Tensor, ids: Tensor, noise: Tensor | None = None) -> Embedded:
        """Of views (N, K, C, T, V, M) the error of each clip, a mean over its views and people, and its features.

        noise  (N * K * M, L) uniform numbers that decide what is masked; None: drawn here
        """
        found = self.predicted(views.flatten(0, 1), noise)
        features = found.encoded.detach().mean(1).unflatten(0, (len(views), -1)).mean(1)
        return {**self.error(found, len(views)), "features": features}

    def error(self, found: Prediction, clips: int) -> Embedded:
        """The error (N,) of so many clips, whose views and people are the sequences of what was `found`."""
        errors = (found.predicted - found.target).square().mean(-1)
        error = (errors * found.mask).sum(1) / found.mask.sum(1)
        return {"error": error.unflatten(0, (clips, -1)).mean(1)}

    def predicted(self, clips: Tensor, noise: Tensor | None = None) -> Prediction:
        """Mask clips (N, C, T, V, M), and predict what was masked."""
        patches = self.encoder.patches(clips)
        if noise is None:
            noise = torch.rand(patches.shape[:2], device=clips.device)
        keep = kept_tokens(stirred(patches, self.encoder.steps), noise, self.keep, self.tau)
        encoded = self.encoder.encoded(self.encoder.embedded(patches, keep))
        mask = torch.ones_like(patches[..., 0]).scatter_(1, keep, 0.0)
        predicted = self.decoder(encoded, keep).to(patches.dtype)
        return Prediction(predicted, self._target(clips), mask, encoded)

    def _target(self, clips: Tensor) -> Tensor:
        """(S, L, p * C)."""
        values = motion(clips, self.stride) if self.target == "motion" else clips
        patches = rearrange(values, "n c (t p) v m -> (n m) (t v) (p c)", p=self.encoder.patch)
        if self.norm_target:
            variance, mean = torch.var_mean(patches, -1, keepdim=True)
            patches = (patches - mean) / (variance + FLAT).sqrt()
        return patches

    def loss(self, embedded: Embedded) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean error of the clips."""
        error = embedded["error"].mean()
        return error, {"masked_error": error.detach()}

    def finish(self, embedded: Embedded) -> None:
        """Nothing: no step needs an earlier one."""

    def encoders(self) -> dict[str, nn.Module]:
        """The encoder; the decoder is of no use afterwards."""
        return {"": self.encoder}

    def classifier(self, name: str) -> dict[str, Any]:
        """The arguments of a classifier with such an encoder."""
        return self.encoder.arguments

    def features(self, embedded: Embedded) -> Tensor:
        """(N, D): the means of the tokens that the encoder was shown."""
        return embedded["features"]
