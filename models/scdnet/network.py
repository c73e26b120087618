"""SCD-Net: spatiotemporal clues disentanglement (Wu et al., AAAI 2024), to be read beside the paper.

Two paths look at a clip, each with weights of its own: three of CTR-GCN's blocks, tokens, a transformer, the maximum over the
tokens. The temporal path makes a token of each frame, the spatial one of each joint of each person. A token holds no code of its
place, so that a feature does not depend on the order of the tokens; the blocks have seen the neighbourhood of each.

Letters in the shapes: N clips, M people, C channels, T frames, V joints, W the transformer's width, K classes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from layers.ctr import Block, people_apart
from layers.recompute import cheap, segment
from layers.transformer import Embedding, PostNormLayer
from shared_data.batches.shape import require_clips
from shared_data.errors import require
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named
from shared_data.skeletons.spatial import spatial_adjacency

COORDINATES = 3
STEM = ((COORDINATES, 64, "none"), (64, 256, "convolution"), (256, 64, "convolution"))
"""Channels in, channels out and the residual around each block; all keep the frames."""
CHANNELS = STEM[-1][1]


class CluePath(nn.Module):
    """Clips to one feature.

    of   what a token is made of: a "frame" of all joints of all people, or a "joint" of one person in all frames
    The other arguments are those of `Encoder`.
    """

    def __init__(
        self, of: Literal["frame", "joint"], *, layout: Skeleton, people: int, frames: int, width: int, heads: int, layers: int,
        dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.of, self.people = of, people
        adjacency = torch.tensor(spatial_adjacency(layout))
        self.data_bn = nn.BatchNorm1d(people * layout.joints * COORDINATES)
        self.blocks = nn.Sequential(*(Block(c_in, c_out, 1, around, adjacency, adaptive=True) for c_in, c_out, around in STEM))
        self.embed = Embedding(CHANNELS * (people * layout.joints if of == "frame" else frames), width)
        self.layers = nn.Sequential(*(PostNormLayer(width, heads, width, dropout=dropout) for _ in range(layers)))

    def forward(self, clips: Tensor) -> Tensor:
        """(N, 3, T, V, M) -> (N, W)."""
        return self.pooled(self.embedded(clips))

    def embedded(self, clips: Tensor) -> Tensor:
        """(N, 3, T, V, M) -> (N, T, W) of frames, or (N, M*V, W) of joints."""
        x = people_apart(self.data_bn, clips)
        for block in self.blocks:
            x = segment(block, x)
        return segment(self.embed, cheap(self.tokens, x))

    def tokens(self, x: Tensor) -> Tensor:
        """(N*M, C, V, T) -> (N, T, M*V*C) of frames, or (N, M*V, T*C) of joints."""
        order = "(n m) c v t -> n t (m v c)" if self.of == "frame" else "(n m) c v t -> n (m v) (t c)"
        return rearrange(x, order, m=self.people).contiguous()

    def pooled(self, tokens: Tensor) -> Tensor:
        """(N, L, W) -> (N, W)."""
        for layer in self.layers:
            tokens = segment(layer, tokens)
        return tokens.max(1).values


class Encoder(nn.Module):
    """Skeleton clips to features: W of the temporal path, then W of the spatial one.

    skeleton, people, frames   V, M and T of the clips; absent people are zero
    width, heads, layers       of both transformers
    dropout                    rate inside the transformers
    """

    def __init__(
        self,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        frames: int = 64,
        width: int = 2048,
        heads: int = 8,
        layers: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        layout = skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton
        require(frames >= 1, "frames", frames, "1 or more")
        require(layers >= 1, "layers", layers, "1 or more")
        require(heads >= 1 and width >= 1 and width % heads == 0, "width", width, f"a multiple of the {heads} heads")
        self.width, self.shape = width, (COORDINATES, frames, layout.joints, people)
        size: dict[str, Any] = {"layout": layout, "people": people, "frames": frames}
        size |= {"width": width, "heads": heads, "layers": layers, "dropout": dropout}
        self.temporal, self.spatial = CluePath("frame", **size), CluePath("joint", **size)
        start(self)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (N, 3, T, V, M) to features (N, 2W). Raises `LabError` for another shape."""
        require_clips("SCD-Net", clips, self.shape)
        return torch.cat([self.temporal(clips), self.spatial(clips)], 1)


class Classifier(nn.Module):
    """Skeleton clips to class scores: a linear layer on the encoder's features. The arguments are those of `Encoder`."""

    def __init__(
        self,
        num_classes: int,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        frames: int = 64,
        width: int = 2048,
        heads: int = 8,
        layers: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(
            skeleton=skeleton, people=people, frames=frames, width=width, heads=heads, layers=layers, dropout=dropout
        )
        self.fc = nn.Linear(2 * width, num_classes)
        nn.init.normal_(self.fc.weight, 0.0, 0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (N, 3, T, V, M) to logits (N, K). Raises `LabError` for another shape."""
        return self.fc(self.encoder(clips))


def start(network: nn.Module) -> None:
    """Official start values of all linear layers in `network`: Xavier-uniform weights."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
