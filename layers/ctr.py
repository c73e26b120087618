"""CTR-GCN's block (Chen et al., ICCV 2021): graphs refined per clip and channel, then temporal convolutions of several scales.

Letters in the shapes: N clips, M people, B = N*M, C channels, T frames, V joints (u receives, v sends), R relation channels,
S = 3 subsets of the skeleton graph (self, inward, outward).

The block is lean by construction: it computes the paper's formulas in another order, all of them exact identities.

1. A mean over time commutes with a 1x1 convolution: relations come from (B, C, V), never from (B, C, T, V).
2. The relation convolutions of all subsets are one product, and so are the value convolutions.
3. alpha is folded into the small weight; its bias and the shared graph are two more relations, one constant, one with weight 1:
   a refined graph is one matrix product, and so is the gradient of each of its parts.
4. The sum over the subsets is the contraction of one batched product of length S*V.
5. The 1x1 convolutions that open the temporal branches are one convolution with one BatchNorm, and the BatchNorms that end
   the branches are one: BatchNorm works channel by channel.
6. A BatchNorm in training takes a bias in front of it out again (`conv_bn`, `joined_bn`).

For the backward pass it keeps, with recomputation, the blocks' inputs, the graph products and what enters the last BatchNorm of
a block; relations, 1x1 convolutions, normalised and pooled values are computed again. Refined graphs, the largest tensors, are
never kept.

Activations are (B, C, V, T) inside, time innermost: the products of 4. then need no transposed copy of an activation, and rows
of 64, 32 or 16 frames are aligned where rows of 25 joints are not. `engine.official_ctr` tells where each entry of an official
checkpoint lives in the joined parameters.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layers.convolution import Projection, conv_bn, conv_over_time, joined_bn, peaks, relu_of_sum
from layers.recompute import cheap, normalised

SUBSETS = 3

conv = partial(conv_over_time, axis=3)
projection = partial(Projection, axis=3)


def people_apart(data_bn: nn.Module, clips: Tensor) -> Tensor:
    """Clips (N, C, T, V, M) through a BatchNorm over M*V*C channels, each person on its own: (N*M, C, V, T)."""
    _, _, _, v, m = clips.shape
    x: Tensor = data_bn(rearrange(clips, "n c t v m -> n (m v c) t"))
    apart: Tensor = rearrange(x, "n (m v c) t -> (n m) c v t", m=m, v=v)
    return apart


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
        p, q = self.relate(x.mean(3, keepdim=True)).squeeze(3).unflatten(1, (2, SUBSETS, -1)).unbind(1)
        weight = self.alpha * torch.cat([self.refine, self.refine_bias.unsqueeze(2)], 2)
        y = refined_product(F.pad(weight, (0, 1), value=1.0), cheap(self.relations, p, q), cheap(self.value, x))
        return normalised(self.bn, y, relu_of_sum, self.down(x))

    def relations(self, p: Tensor, q: Tensor) -> Tensor:
        """What a refined graph is a combination of: p, q (B, S, R, V) -> (B, S, R + 2, V*V), v before u.

        ``tanh(p[u] - q[v])`` of each relation channel, ones for the bias, and the shared graph.
        """
        relation = cheap(differences, p, q)
        shared = F.pad(self.graph.transpose(1, 2).flatten(1).unsqueeze(1), (0, 0, 1, 0), value=1.0)
        return torch.cat([relation, shared.to(relation).expand(p.shape[0], -1, -1, -1)], 2)


def differences(p: Tensor, q: Tensor) -> Tensor:
    """``tanh(p[u] - q[v])``: p, q (B, S, R, V) -> (B, S, R, V*V), v before u."""
    return torch.tanh(p.unsqueeze(3) - q.unsqueeze(4)).flatten(3)


def refined_product(weight: Tensor, relation: Tensor, value: Tensor) -> Tensor:
    """Every subset's frames through its refined graph, and summed.

    weight (S, C, R'), relation (B, S, R', V*V), value (B, C*S, V, T), channel before subset -> (B, C, V, T):
    ``y[b, c, u] = sum_{s, v, r} weight[s, c, r] relation[b, s, r, (v, u)] value[b, (c, s), v]``
    """
    weight, relation = weight.to(value.dtype), relation.to(value.dtype)  # autocast has chosen that of `value`
    if torch.compiler.is_compiling():
        return _spread(torch.einsum("scr,bsrg->bcsg", weight, relation), value)
    return RefinedProduct.apply(weight, relation, value)  # type: ignore[no-any-return]


def _spread(graph: Tensor, value: Tensor) -> Tensor:
    """The contraction over subset and sender: graph (B, C, S, V*V), value (B, C*S, V, T) -> (B, C, V, T)."""
    b, c, s, _ = graph.shape
    v, t = value.shape[2:]
    return torch.bmm(graph.reshape(b * c, s * v, v).transpose(1, 2), value.view(b * c, s * v, t)).view(b, c, v, t)


class RefinedProduct(torch.autograd.Function):
    """`refined_product` with the refined graphs, its largest tensor, computed again in the backward pass.

    By hand, because autograd would write the graphs' gradient transposed and copy it, and because each subset's graph goes
    straight to its place between the other subsets'.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, relation: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(weight, relation, value)
        return _spread(_graphs(weight, relation), value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, relation, value = ctx.saved_tensors
        (b, s, _, _), (v, t) = relation.shape, value.shape[2:]
        gradient = gradient.reshape(-1, v, t)
        graph = _graphs(weight, relation)
        to_value = torch.bmm(graph.view(-1, s * v, v), gradient)
        del graph
        to_graph = torch.bmm(value.view(-1, s * v, t), gradient.transpose(1, 2)).view(b, -1, s, v * v)
        to_relation = torch.empty_like(relation)
        to_weight = weight.new_empty(b, *weight.shape)
        for i, w in enumerate(weight):
            torch.bmm(w.t().expand(b, -1, -1), to_graph[:, :, i], out=to_relation[:, i])
            torch.bmm(to_graph[:, :, i], relation[:, i].transpose(1, 2), out=to_weight[:, i])
        return to_weight.sum(0), to_relation, to_value.view_as(value)


def _graphs(weight: Tensor, relation: Tensor) -> Tensor:
    """weight (S, C, R'), relation (B, S, R', V*V) -> refined graphs (B, C, S, V*V)."""
    b, s, _, n = relation.shape
    graph = relation.new_empty(b, weight.shape[1], s, n)
    for i, w in enumerate(weight):
        torch.bmm(w.expand(b, -1, -1), relation[:, i], out=graph[:, :, i])
    return graph


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
        near, far, peak = conv_bn(self.enter, self.enter_bn, x, F.relu_).chunk(3, 1)
        peak, _ = cheap(peaks, peak, 3, self.stride)
        return joined_bn(self.bn, (self.near, near), (self.far, far), peak, (self.skip, x))


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
