"""CTR-GCN: channel-wise topology refinement (Chen et al., ICCV 2021), to be read beside the paper.

Ten of the blocks that `layers.ctr` defines and explains, which are most of the paper, between a BatchNorm over the input and a
linear classifier. Letters in the shapes: N clips, M people, C channels, T frames, V joints, K classes.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from layers.ctr import Block, people_apart
from layers.recompute import segment
from shared_data.errors import LabError
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named
from shared_data.skeletons.spatial import spatial_adjacency

# (channels in, channels out, stride in time, residual around the block)
BLOCKS = (
    (3, 64, 1, "none"),
    *[(64, 64, 1, "identity")] * 3,
    (64, 128, 2, "convolution"),
    *[(128, 128, 1, "identity")] * 2,
    (128, 256, 2, "convolution"),
    *[(256, 256, 1, "identity")] * 2,
)


class CTRGCN(nn.Module):
    """Skeleton clips to class scores.

    num_classes  K
    skeleton     joint layout, by name or as an object: V and the edges of the graph
    people       M of the clips; absent people are zero and are averaged in, as officially
    in_channels  coordinates per joint (3)
    adaptive     learn the shared graph of each block (the paper); False keeps the skeleton's own
    dropout      rate in front of the classifier
    """

    def __init__(
        self,
        num_classes: int,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        in_channels: int = 3,
        adaptive: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layout = skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton
        self.people, self.joints, self.in_channels = people, layout.joints, in_channels
        adjacency = torch.tensor(spatial_adjacency(layout))
        self.data_bn = nn.BatchNorm1d(people * layout.joints * in_channels)
        plan = [(in_channels, *BLOCKS[0][1:]), *BLOCKS[1:]]
        self.blocks = nn.Sequential(*(Block(*row, adjacency, adaptive=adaptive) for row in plan))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(BLOCKS[-1][1], num_classes)
        nn.init.normal_(self.fc.weight, 0.0, math.sqrt(2.0 / num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, C, T, V, M), or of one person as (N, T, V*C), to logits (N, K). Raises `LabError` for another shape."""
        n, c, v, m = x.shape[0], self.in_channels, self.joints, self.people
        if m == 1 and x.dim() == 3 and x.shape[2] == v * c:
            x = rearrange(x, "n t (v c) -> n c t v 1", v=v)
        if x.dim() != 5 or (x.shape[1], *x.shape[3:]) != (c, v, m):
            raise LabError(
                f"CTR-GCN was given clips of shape {tuple(x.shape)}",
                expected=f"(N, {self.in_channels}, T, {self.joints}, {self.people}): coordinates, frames, joints, people",
                next_step="build the model for the skeleton and the people of the data",
            )
        x = people_apart(self.data_bn, x)
        for block in self.blocks:
            x = segment(block, x)
        x = x.mean((2, 3))
        return self.fc(self.dropout(x.view(n, m, -1).mean(1)))
