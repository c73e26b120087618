"""The graph-based encoder, A-GCN (Shi et al. 2019; ``specs/isc.md`` 4.3): a learned graph, and one from the clip, beside the
skeleton's.

Letters in the shapes: N clips, M people, B = N*M, C channels, T frames, V joints (u sends, v receives), S = 3 subsets of the
skeleton's graph (self, inward, outward), E = C / 4 embedding channels.

Activations are (B*V, C, 1, T): every joint of every person is a sequence, and

1. the graphs of all subsets are one product, (V*S, V) by (V, C*T), whose result is what the next 1x1 convolution reads;
2. the value convolutions of all subsets are that one convolution, of S*C channels;
3. the embeddings of all subsets are one convolution;
4. a BatchNorm in training takes a bias in front of it out again (`layers.bias`).

For the backward pass it keeps, with recomputation, the blocks' inputs and what enters the two BatchNorms of a block.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.bias import before, convolved, move_mean
from layers.convolution import Projection, conv_over_time, relu_of_sum
from layers.recompute import cheap, normalised, segment
from models.isc.clips import ClipSize
from shared_data.skeletons import Skeleton
from shared_data.skeletons.spatial import spatial_adjacency

SUBSETS = 3
ALMOST_OFF = 1e-6
"""Start value of the learned graphs, and of the scales behind the graph convolutions."""

# (channels in, channels out, stride in time, residual around the block), channels in units of the first block's
BLOCKS = (
    (0, 1, 1, "none"),
    *[(1, 1, 1, "identity")] * 3,
    (1, 2, 2, "convolution"),
    *[(2, 2, 1, "identity")] * 2,
    (2, 4, 2, "convolution"),
    *[(4, 4, 1, "identity")] * 2,
)

conv = partial(conv_over_time, axis=3)


def adjacency(skeleton: Skeleton) -> Tensor:
    """(S, V, V): self links, child to parent, parent to child, each applied as ``y[v] = sum_u x[u] A[u, v]``."""
    return torch.tensor(spatial_adjacency(skeleton))


class AdaptiveGraphConv(nn.Module):
    """``relu(bn(sum_s W_s x (A_s + learned_s + softmax_u(theta_s(x)' phi_s(x) / (E T)))) + down(x))``."""

    skeleton: Tensor

    def __init__(self, c_in: int, c_out: int, maps: Tensor) -> None:
        """`maps` (S, V, V) are the skeleton's."""
        super().__init__()
        self.register_buffer("skeleton", maps, persistent=False)
        self.learned = nn.Parameter(torch.full_like(maps, ALMOST_OFF))
        width = c_out // 4
        self.embed = conv(c_in, 2 * SUBSETS * width, fan_out=width)  # rows: theta of each subset, then phi of each
        self.value = nn.Parameter(torch.empty(SUBSETS, c_out, c_in).normal_(0.0, math.sqrt(2.0 / (SUBSETS * c_out))))
        self.value_bias = nn.Parameter(torch.zeros(SUBSETS, c_out))
        self.bn = nn.BatchNorm2d(c_out)
        nn.init.constant_(self.bn.weight, ALMOST_OFF)
        self.down = Projection(c_in, c_out, axis=3) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B*V, C_in, 1, T) -> (B*V, C, 1, T)."""
        moved = cheap(spread, self.graphs(cheap(self.embed, x)), x)
        weight, bias = before(self.bn, self.value, self.value_bias)
        kernel = weight.transpose(0, 1).flatten(1)[..., None, None]
        y = F.conv2d(moved, kernel, None if bias is None else bias.sum(0))
        out = normalised(self.bn, y, relu_of_sum, self.down(x))
        move_mean(self.bn, self.value_bias.sum(0))
        return out

    def graphs(self, embedded: Tensor) -> Tensor:
        """Embeddings (B*V, 2*S*E, 1, T) -> the graphs of each person's subsets (B, S, V, V), u before v."""
        thetas, phis = embedded.unflatten(0, (-1, self.skeleton.shape[1])).unflatten(2, (2, SUBSETS, -1)).flatten(4).unbind(2)
        pairs = zip(thetas.unbind(2), phis.unbind(2), strict=True)
        alike = torch.stack([torch.bmm(theta, phi.transpose(1, 2)) for theta, phi in pairs], 1)
        return (alike / thetas.shape[-1]).softmax(2) + (self.skeleton + self.learned)


def spread(graphs: Tensor, x: Tensor) -> Tensor:
    """Every channel and frame through every graph: (B, S, V, V), (B*V, C, 1, T) -> (B*V, S*C, 1, T)."""
    (b, s, v, _), (_, c, _, t) = graphs.shape, x.shape
    rows = graphs.permute(0, 3, 1, 2).reshape(b, v * s, v)
    return torch.bmm(rows.to(x.dtype), x.reshape(b, v, c * t)).view(b * v, s * c, 1, t)


class Block(nn.Module):
    """``relu(bn(convolution over 9 frames of gcn(x)) + residual(x))``."""

    def __init__(self, c_in: int, c_out: int, stride: int, residual: str, maps: Tensor) -> None:
        super().__init__()
        self.gcn = AdaptiveGraphConv(c_in, c_out, maps)
        self.tcn = conv(c_out, c_out, 9, stride=stride)
        self.bn = nn.BatchNorm2d(c_out)
        self.residual: nn.Module | None = None
        if residual != "none":
            self.residual = nn.Identity() if residual == "identity" else Projection(c_in, c_out, axis=3, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B*V, C_in, 1, T) -> (B*V, C, 1, ceil(T / stride))."""
        y = self.bn(convolved(self.tcn, self.gcn(x), self.bn))
        move_mean(self.bn, self.tcn)
        if self.residual is not None:
            y = y.add_(self.residual(x))
        return F.relu_(y)


class GraphEncoder(nn.Module):
    """Mean of the last block over frames, joints and people; absent people are zero and are averaged in.

    size     of the clips; any number of frames
    width    channels of the first block, a multiple of 4; the last has four times as many
    """

    def __init__(self, size: ClipSize, skeleton: Skeleton, *, width: int = 64) -> None:
        super().__init__()
        self.size, self.features = size, 4 * width
        self.data_bn = nn.BatchNorm1d(size.people * size.joints * size.channels)
        maps = adjacency(skeleton)
        self.blocks = nn.Sequential(
            *(Block(c_in * width or size.channels, c_out * width, stride, kind, maps) for c_in, c_out, stride, kind in BLOCKS)
        )

    def forward(self, clips: Tensor) -> Tensor:
        """(N, C, T, V, M) -> (N, 4 * width)."""
        self.size.check(clips)
        c, v, m = self.size.channels, self.size.joints, self.size.people
        x = self.data_bn(clips.permute(0, 4, 3, 1, 2).flatten(1, 3))
        x = x.view(-1, c, 1, x.shape[-1])
        for block in self.blocks:
            x = segment(block, x)
        return x.reshape(clips.shape[0], m * v, self.features, -1).mean((1, 3))
