"""CTR-GCN: channel-wise topology refinement (Chen et al., ICCV 2021), to be read beside the paper.

Letters in the shapes: N clips, M people, B = N*M, C channels, T frames, V joints (u receives, v sends), R relation channels,
S = 3 subsets of the skeleton graph (self, inward, outward).

The network is lean by construction: it computes the paper's formulas in another order, all of them exact identities.

1. A mean over time commutes with a 1x1 convolution: relations come from (B, C, V), never from (B, C, T, V).
2. The relation convolutions of all subsets are one product, and so are the value convolutions.
3. alpha is folded into the small weight, its bias into the shared graph: a refined graph is one `baddbmm`.
4. The sum over the subsets is the contraction of one batched product of length S*V.
5. The 1x1 convolutions that open the temporal branches are one convolution with one BatchNorm, and the BatchNorms that end
   the branches are one: BatchNorm works channel by channel.

Activations are (B, C, V, T) inside, time innermost: the products of 4. then need no transposed copy of an activation, and rows
of 64, 32 or 16 frames are aligned where rows of 25 joints are not. `official.py` tells where each entry of an official
checkpoint lives in the joined parameters.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from layers.convolution import Projection, conv_over_time
from layers.recompute import cheap, normalised, segment
from models.ctrgcn.graph import spatial_adjacency
from shared_data.errors import LabError
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named

SUBSETS = 3

# (channels in, channels out, stride in time, residual around the block)
BLOCKS = (
    (3, 64, 1, "none"),
    *[(64, 64, 1, "identity")] * 3,
    (64, 128, 2, "convolution"),
    *[(128, 128, 1, "identity")] * 2,
    (128, 256, 2, "convolution"),
    *[(256, 256, 1, "identity")] * 2,
)


conv = partial(conv_over_time, axis=3)
projection = partial(Projection, axis=3)


class RefinedGraphConv(nn.Module):
    """Graph convolution with a graph refined per clip and per channel (paper, section 3.2).

    For subset s: ``G_s = alpha * W4_s tanh(p_s[u] - q_s[v]) + A_s`` with p, q from the time means of x.
    ``out = relu(bn(sum_s G_s W3_s x) + down(x))``.
    """

    def __init__(self, c_in: int, c_out: int, adjacency: Tensor, *, adaptive: bool) -> None:
        """`adjacency` (S, V, V) is the start of the learned shared graph A, or with ``adaptive=False`` the fixed one."""
        super().__init__()
        self.c_out = c_out
        relations = 8 if c_in in (3, 9) else c_in // 8
        if adaptive:
            self.graph = nn.Parameter(adjacency.clone())
        else:
            self.register_buffer("graph", adjacency.clone(), persistent=False)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.relate = conv(c_in, 2 * SUBSETS * relations, fan_out=relations)  # rows: p of each subset, then q of each
        self.refine = nn.Parameter(torch.empty(SUBSETS, c_out, relations).normal_(0.0, math.sqrt(2.0 / c_out)))
        self.refine_bias = nn.Parameter(torch.zeros(SUBSETS, c_out))
        self.value = conv(c_in, c_out * SUBSETS, fan_out=c_out)  # row c * S + s: channel c of subset s
        self.bn = nn.BatchNorm2d(c_out)
        nn.init.constant_(self.bn.weight, 1e-6)  # the graph branch starts almost switched off
        self.down = projection(c_in, c_out) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, V, T) -> (B, C, V, T)."""
        b, _, v, t = x.shape
        graph = cheap(self.refined_graph, x).view(b * self.c_out, SUBSETS * v, v)
        value = cheap(self.value, x).view(b * self.c_out, SUBSETS * v, t)
        y = torch.bmm(graph.transpose(1, 2), value).view(b, self.c_out, v, t)
        return normalised(self.bn, y, relu_of_sum, self.down(x))

    def refined_graph(self, x: Tensor) -> Tensor:
        """(B, C_in, V, T) -> G as (B, C, S, V*V), the sending joint v before the receiving joint u."""
        b, _, v, _ = x.shape
        p, q = self.relate(x.mean(3, keepdim=True)).squeeze(3).view(b, 2, SUBSETS, -1, v).unbind(1)
        relation = cheap(relations, p, q)
        weight = self.alpha * self.refine
        shared = self.graph.transpose(1, 2).reshape(SUBSETS, 1, v * v) + (self.alpha * self.refine_bias).unsqueeze(2)
        parts = [
            torch.baddbmm(a.expand(b, -1, -1), w.expand(b, -1, -1), d)
            for a, w, d in zip(shared, weight, relation.unbind(1), strict=True)
        ]
        return torch.stack(parts, 2)


def relations(p: Tensor, q: Tensor) -> Tensor:
    """``tanh(p[u] - q[v])``: p, q (B, S, R, V) -> (B, S, R, V*V), v before u."""
    return torch.tanh(p.unsqueeze(3) - q.unsqueeze(4)).flatten(3)


def relu_of_sum(x: Tensor, y: Tensor) -> Tensor:
    """``relu(x + y)``, in x."""
    return F.relu_(x.add_(y))


class MultiScaleTemporalConv(nn.Module):
    """Four parallel branches over time, C/4 channels each: kernel 5, kernel 5 dilated by 2, max pool 3, 1x1 (section 3.4).

    `enter` opens the first three (1x1 convolution, BatchNorm, ReLU), `skip` is the fourth, `bn` ends all four; no ReLU follows.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        c = channels // 4
        self.stride = stride
        self.enter = conv(channels, 3 * c, fan_out=c)
        self.enter_bn = nn.BatchNorm2d(3 * c)
        self.near = conv(c, c, 5, stride=stride)
        self.far = conv(c, c, 5, stride=stride, dilation=2)
        self.skip = conv(channels, c, stride=stride)
        self.bn = nn.BatchNorm2d(channels)
        for bn in (self.enter_bn, self.bn):
            nn.init.normal_(bn.weight, 1.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, V, T) -> (B, C, V, ceil(T / stride))."""
        near, far, peak = normalised(self.enter_bn, self.enter(x), F.relu_).chunk(3, 1)
        peak, _ = cheap(self.peaks, peak)  # with the numbers of the largest frames, 8 bytes each
        return self.bn(torch.cat([self.near(near), self.far(far), peak, self.skip(x)], 1))

    def peaks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Largest of three frames, (B, C, V, T) -> (B, C, V, ceil(T / stride)), and where they are."""
        return F.max_pool2d(x, (1, 3), (1, self.stride), (0, 1), return_indices=True)


class Block(nn.Module):
    """``relu(tcn(gcn(x)) + residual(x))``."""

    def __init__(self, c_in: int, c_out: int, stride: int, residual: str, adjacency: Tensor, *, adaptive: bool) -> None:
        super().__init__()
        self.gcn = RefinedGraphConv(c_in, c_out, adjacency, adaptive=adaptive)
        self.tcn = MultiScaleTemporalConv(c_out, stride)
        self.residual: nn.Module | None = None
        if residual != "none":
            self.residual = nn.Identity() if residual == "identity" else projection(c_in, c_out, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, V, T) -> (B, C, V, ceil(T / stride))."""
        y = self.tcn(self.gcn(x))
        if self.residual is not None:
            y = y.add_(self.residual(x))
        return F.relu(y, inplace=True)


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
        x = self.data_bn(rearrange(x, "n c t v m -> n (m v c) t"))
        x = rearrange(x, "n (m v c) t -> (n m) c v t", m=m, v=v)
        for block in self.blocks:
            x = segment(block, x)
        x = x.mean((2, 3))
        return self.fc(self.dropout(x.view(n, m, -1).mean(1)))
