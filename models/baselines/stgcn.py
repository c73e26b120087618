"""A small ST-GCN: spatial temporal graph convolutions (Yan et al., AAAI 2018), to be read beside the paper.

Letters in the shapes: N clips, M people, B = N*M, C channels, T frames, V joints (u receives, v sends), S = 3 subsets of a
joint's neighbours. The published network has 10 blocks of 64 to 256 channels and 3.1 M parameters; this one has 6 of 32 to 128.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from layers.recompute import cheap, normalised, segment
from shared_data.skeletons import Skeleton

SUBSETS = 3
KERNEL = 9  # frames
BLOCKS = ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1))  # channels, stride in time


def spatial_partition(skeleton: Skeleton) -> Tensor:
    """(S, V, V) float32: the neighbours of joint u in rows u, by subset (the paper's spatial configuration partitioning).

    The joint itself, its neighbour nearer to the centre of the skeleton, and those farther away. Each joint takes the mean of a
    subset (the normalising term 1 / Z), so rows sum to 1, or to 0 where the subset is empty.
    """
    adjacency = torch.zeros(SUBSETS, skeleton.joints, skeleton.joints)
    adjacency[0] = torch.eye(skeleton.joints)
    for child, parent in skeleton.edges:
        adjacency[1, child, parent] = 1.0
        adjacency[2, parent, child] = 1.0
    return adjacency / adjacency.sum(2, keepdim=True).clamp(min=1.0)


def conv(c_in: int, c_out: int, kernel: tuple[int, int], **options: int | tuple[int, int]) -> nn.Conv2d:
    """Convolution in front of a BatchNorm: no bias, weights N(0, 2 / fan_out)."""
    layer = nn.Conv2d(c_in, c_out, kernel, bias=False, **options)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class GraphConv(nn.Module):
    """``y = sum_s (A_s * M_s) x W_s`` with a learned edge importance M that starts at 1 (the paper's edge importance weighting).

    The neighbours are averaged first, while there are few channels. The result holds the subsets of a frame below each other,
    which a convolution of height S and stride S sums with a weight for each.
    """

    def __init__(self, c_in: int, c_out: int, adjacency: Tensor) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency, persistent=False)
        self.importance = nn.Parameter(torch.ones_like(adjacency))
        self.weight = conv(c_in, c_out, (SUBSETS, 1), stride=(SUBSETS, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T, V) -> (B, C_out, T, V)."""
        graph = rearrange(self.adjacency * self.importance, "s u v -> v (s u)")
        return self.weight(cheap(neighbours, x, graph))


def neighbours(x: Tensor, graph: Tensor) -> Tensor:
    """(B, C, T, V) and (V, S * V) -> (B, C, T * S, V)."""
    return rearrange(x @ graph, "b c t (s u) -> b c (t s) u", s=SUBSETS)


class Block(nn.Module):
    """Graph convolution, then `KERNEL` frames of temporal convolution, around a residual (none in the first block)."""

    def __init__(self, c_in: int, c_out: int, stride: int, adjacency: Tensor, *, first: bool) -> None:
        super().__init__()
        self.gcn = nn.Sequential(GraphConv(c_in, c_out, adjacency), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))
        temporal = conv(c_out, c_out, (KERNEL, 1), stride=(stride, 1), padding=(KERNEL // 2, 0))
        self.tcn = nn.Sequential(temporal, nn.BatchNorm2d(c_out))
        self.residual: nn.Module | None = None
        if not first:
            changes = c_in != c_out or stride != 1
            narrow = (conv(c_in, c_out, (1, 1), stride=(stride, 1)), nn.BatchNorm2d(c_out)) if changes else ()
            self.residual = nn.Sequential(*narrow)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T, V) -> (B, C_out, ceil(T / stride), V)."""
        gcn, bn, _ = self.gcn
        y = self.tcn(normalised(bn, gcn(x), F.relu_))
        if self.residual is not None:
            y = y + self.residual(x)
        return F.relu(y, inplace=True)


class STGCN(nn.Module):
    """Clips to class scores; people are averaged before the classifier, absent ones (all zero) included."""

    def __init__(self, num_classes: int, *, skeleton: Skeleton, people: int, coordinates: int, dropout: float) -> None:
        """`coordinates` = M * V * C; `dropout` is the rate in front of the classifier."""
        super().__init__()
        adjacency = spatial_partition(skeleton)
        self.data_bn = nn.BatchNorm1d(coordinates)
        widths = [coordinates // (people * skeleton.joints), *(width for width, _ in BLOCKS)]
        self.blocks = nn.Sequential(
            *(Block(widths[i], width, stride, adjacency, first=i == 0) for i, (width, stride) in enumerate(BLOCKS))
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, V, M) -> (N, K)."""
        n, _, _, v, m = x.shape
        x = self.data_bn(rearrange(x, "n c t v m -> n (m v c) t"))
        x = rearrange(x, "n (m v c) t -> (n m) c t v", m=m, v=v)
        for block in self.blocks:
            x = segment(block, x)
        return self.fc(self.dropout(x.mean((2, 3)).view(n, m, -1).mean(1)))
