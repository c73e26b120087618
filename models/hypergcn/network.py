"""Hyper-GCN: adaptive hyper-graph convolution with virtual joints (ICCV 2025), to be read beside the paper.

Letters in the shapes: N clips, M people, B = N*M, C channels, T frames, V joints, h virtual joints, P = V + h nodes, S = 8 groups
of channels with a graph each, d hidden channels of a group, u the joint that receives and v the one that sends.

The network is lean by construction: it computes the paper's formulas in another order, all of them exact identities.

1. A virtual joint is the same in every clip and frame. So nothing is concatenated to an activation: what virtual joints send to
   joint u is one small term (B, C, V), added to all frames. What they would receive is never used and never computed.
2. Mixing joints by a graph and mixing the channels of a group by a 1x1 convolution commute, because all channels of a group
   have one graph. Joints come first, which is cheaper where the convolution widens; both are batched products, no grouped
   convolution.
3. W enters a hyper-graph twice, as a factor of the rows and of the columns: ``H diag(W) diag(W / c) H'`` needs only W * W / c.
4. The time mean commutes with 1x1 convolutions: the hyper-graph is made from (B, C, P), its two maps as one product.
5. No clip is in the fixed graphs: they are normalised once for all blocks.
6. The 1x1 convolutions of the temporal branches are one convolution, those that have a BatchNorm and ReLU behind them share it,
   and the BatchNorms that end the branches are one: BatchNorm works channel by channel.
7. A bias in front of a BatchNorm cancels in training: it is not added, its gradient is 0, and it moves the running mean alone.

A training step that computes again what is cheap (`layers.recompute`) keeps of each block its output and what its two BatchNorms
of the temporal branches read, next to maps as small as a graph; from these, two products per block and otherwise elementwise
steps make the rest.

Activations are (B, C, T, V) inside, joints innermost: then the joints of a group are mixed by one product without a copy of an
activation. `official.py` tells where each entry of an official checkpoint lives in the joined parameters.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from engine.step import without_autocast
from layers.bias import before, convolved, move_mean
from layers.convolution import Projection, conv_over_time, peaks, relu_of_sum
from layers.recompute import cheap, normalised, segment
from models.hypergcn.graph import ensemble_adjacency
from shared_data.errors import LabError, require, require_known
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named

GROUPS = 8
EPS = 1e-8
WIDTHS = {"base": (128, 256, 256), "large": (128, 256, 512)}  # channels of the three stages of three blocks each
VIRTUAL_INITS = ("repeated", "independent")


conv = partial(conv_over_time, axis=2, pad=False)
projection = partial(Projection, axis=2)


def repeat_ends(x: Tensor, frames: int) -> Tensor:
    """(B, C, T, V) -> (B, C, frames + T + frames, V), the first and the last frame repeated.

    The same as replicate padding, in one copy each way, and deterministic on a GPU too.
    """
    t = x.shape[2]
    if t == 1:
        return x.repeat(1, 1, 2 * frames + 1, 1)
    first, between, last = x.split([1, t - 2, 1], 2)
    return torch.cat([first.expand(-1, -1, frames + 1, -1), between, last.expand(-1, -1, frames + 1, -1)], 2)


def mixed_joints(x: Tensor, graph: Tensor) -> Tensor:
    """x (B, S * I, T, V) and A (B, S, V, V) -> ``x_s A_s'`` as (B, S, I, T * V)."""
    b, s, v, _ = graph.shape
    return torch.bmm(x.reshape(b * s, -1, v), graph.flatten(0, 1).transpose(1, 2)).view(b, s, -1, x.shape[2] * v)


class HyperGraphConv(nn.Module):
    """Graph convolution over real and virtual joints, with a fixed and a hyper-graph per group of channels.

    The hyper-graph of a clip has one hyper-edge around each node: the `neighbours` nodes that are nearest to it in a learned
    space, by softmax of the negative distance (H), with a learned weight in (-1, 1) per hyper-edge (W).
    ``out = relu(bn((A0 + relu(alpha) G) W_d x) + down(x))`` with G the normalised ``H diag(W) diag(W) H'``.
    """

    def __init__(
        self, c_in: int, c_out: int, adjacency: Tensor, hyper_joints: int, neighbours: int, *, independent: bool
    ) -> None:
        """`adjacency` (S, P, P) stays fixed; virtual joints start alike, as officially, or `independent` of one another."""
        super().__init__()
        hidden = c_in // GROUPS // 4
        self.neighbours = neighbours
        start = torch.empty(hyper_joints if independent else 1, c_in).normal_()
        self.virtual = nn.Parameter(start.expand(hyper_joints, -1).clone())
        self.alpha = nn.Parameter(torch.ones(1))
        self.adjacency = nn.Parameter(adjacency.clone(), requires_grad=False)  # not trained, but saved and counted, as officially
        self.importance = nn.Parameter(torch.ones_like(adjacency))
        std = math.sqrt(2.0 / (GROUPS * hidden))
        self.relate = nn.Parameter(torch.empty(2, GROUPS, hidden, c_in // GROUPS).normal_(0.0, std))  # [0] places, [1] weights
        self.relate_bias = nn.Parameter(torch.zeros(2, GROUPS, hidden))
        self.weigh = nn.Parameter(torch.empty(GROUPS, GROUPS * hidden).normal_(0.0, math.sqrt(2.0 / GROUPS)))
        self.weigh_bias = nn.Parameter(torch.zeros(GROUPS))
        self.value = nn.Parameter(torch.empty(GROUPS, c_out // GROUPS, c_in // GROUPS).normal_(0.0, math.sqrt(2.0 / c_out)))
        self.value_bias = nn.Parameter(torch.zeros(GROUPS, c_out // GROUPS))
        self.bn = nn.BatchNorm2d(c_out)
        nn.init.constant_(self.bn.weight, 1e-6)  # the graph branch starts almost switched off
        self.down = projection(c_in, c_out) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, fixed: Tensor) -> Tensor:
        """(B, C_in, T, V), fixed graph (S, V, P) -> (B, C, T, V)."""
        virtual = self.virtual.view_as(self.virtual)  # its gradient is gathered here, as that of x is in `Block`
        y = cheap(self.mixed, x, self.graph(x, fixed, virtual), virtual)
        return normalised(self.bn, y, relu_of_sum, self.down(x))

    def mixed(self, x: Tensor, graph: Tensor, virtual: Tensor) -> Tensor:
        """Joints mixed by a graph per clip and group, then the channels of each group: ``W_s x_s A_s'``, (B, C, T, V)."""
        b, _, t, v = x.shape
        y = torch.matmul(self.value, cheap(mixed_joints, x, graph[..., :v])).view(b, GROUPS, -1, t, v)
        return (y + self.constant(graph, virtual)).flatten(1, 2)

    def constant(self, graph: Tensor, virtual: Tensor) -> Tensor:
        """What reaches joint u in every frame alike, (B, S, C/S, 1, V): the bias of all its senders, and the virtual joints."""
        bias = self.value_bias.unsqueeze(1)
        values = torch.matmul(virtual.unflatten(1, (GROUPS, -1)).transpose(0, 1), self.value.transpose(1, 2)) + bias
        sent = torch.cat([bias.expand(-1, graph.shape[2], -1), values], 1)
        return torch.matmul(graph, sent).transpose(2, 3).unsqueeze(3)

    def graph(self, x: Tensor, fixed: Tensor, virtual: Tensor) -> Tensor:
        """(B, C_in, T, V), fixed graph (S, V, P), (h, C_in) -> with the hyper-graph (B, S, V, P), as far as real joints receive.

        Always in full precision: under autocast, rounding would choose other neighbours.
        """
        t, v = x.shape[2:]
        with without_autocast(x):
            nodes = x.sum(2, dtype=torch.promote_types(x.dtype, torch.float32)) / t  # a sum's gradient is a view, a mean's is not
            nodes = torch.cat([nodes, virtual.t().expand(x.shape[0], -1, -1)], 2)
            places, weights = self.relations(nodes)
            graph = hyper_graph(incidence(places, self.neighbours), weights, v)
            return torch.addcmul(fixed, F.relu(self.alpha), graph).to(x.dtype)

    def relations(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C_in, P) -> the nodes' places in the learned space (B, S, d, P), the weights of their hyper-edges (B, S, P)."""
        b = nodes.shape[0]
        nodes = rearrange(nodes, "b (s c) p -> s c (b p)", s=GROUPS)
        relate = rearrange(self.relate.to(nodes), "two s d c -> s (two d) c")
        bias = rearrange(self.relate_bias.to(nodes), "two s d -> s (two d) 1")
        places, hidden = torch.baddbmm(bias, relate, nodes).chunk(2, 1)
        hidden = F.leaky_relu(hidden, 0.01).flatten(0, 1)
        weights = torch.tanh(torch.addmm(self.weigh_bias.to(nodes).unsqueeze(1), self.weigh.to(nodes), hidden))
        return rearrange(places, "s d (b p) -> b s d p", b=b).contiguous(), rearrange(weights, "s (b p) -> b s p", b=b)


def distances(places: Tensor) -> Tensor:
    """Between all pairs of places, (B, S, d, P) -> (B, S, P, P); the gradient at distance 0 is 0.

    Exact differences: the matrix-product formula leaves a node at some distance from itself, and moves near-ties. `cdist` never
    writes the differences down; on a CPU it is 15 times as fast, on a GPU it starts a block of threads for each distance.
    """
    if places.is_cpu and not torch.compiler.is_compiling():
        points = places.transpose(2, 3)
        return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.linalg.vector_norm(cheap(differences, places), dim=2)


def differences(places: Tensor) -> Tensor:
    """(B, S, d, P) -> (B, S, d, P, P)."""
    return places.unsqueeze(4) - places.unsqueeze(3)


def incidence(places: Tensor, neighbours: int) -> Tensor:
    """H: places (B, S, d, P) -> (B, S, P, P), row v the soft membership of all nodes in the hyper-edge around v."""
    distance = distances(places)
    near = distance.detach().topk(neighbours, largest=False, sorted=False).indices
    outside = torch.full_like(distance, -math.inf).scatter_(3, near, 0.0)
    return torch.softmax(outside - distance, 3)


def hyper_graph(memberships: Tensor, weights: Tensor, receivers: int) -> Tensor:
    """G: H (B, S, P, P) and W (B, S, P) -> (B, S, receivers, P), the rows of the first nodes.

    ``G[v, u] = sum_j (H[v, j] W[j] / r[v]) (W[j] / c[j]) H[u, j]``, with r[v] the row sum of |H W| and c[j] the column sum of H.
    """
    rows = memberships[:, :, :receivers]
    per_edge = weights.square() / (memberships.sum(2) + EPS)
    norm = torch.matmul(rows, weights.abs().unsqueeze(3)) + EPS
    return torch.matmul(rows * per_edge.unsqueeze(2), memberships.transpose(2, 3)) / norm


def joints_as_channels(x: Tensor) -> Tensor:
    """(B, C, T, V) -> (B * C, V, T, 1), innermost in memory what counts as channels: so a CPU pools twice as fast."""
    return x.clone(memory_format=torch.contiguous_format).flatten(0, 1).unsqueeze(2).permute(0, 3, 1, 2)


class MultiScaleTemporalConv(nn.Module):
    """Four parallel branches over time, C/4 channels each: kernel 5, kernel 5 dilated by 2, max pool 3, 1x1.

    `enter` opens the first three (1x1 convolution, BatchNorm, ReLU), `skip` is the fourth, `bn` ends all four; no ReLU follows.
    The two kernels of 5 see the first and the last frame repeated beyond the ends of the clip, the pool sees nothing there.
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
        """(B, C, T, V) -> (B, C, ceil(T / stride), V)."""
        opened, skip = self.opened(x)
        near, far, peak = normalised(self.enter_bn, opened, F.relu_).chunk(3, 1)
        near = convolved(self.near, cheap(repeat_ends, near, 2), self.bn)
        far = convolved(self.far, cheap(repeat_ends, far, 4), self.bn)
        peak, _ = cheap(self.peaks, peak)  # with the numbers of the largest frames, 8 bytes each
        y = self.bn(torch.cat([near, far, peak, skip], 1))
        move_mean(self.enter_bn, self.enter.bias)
        move_mean(self.bn, self.near, self.far, None, self.skip.bias)
        return y

    def opened(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T, V) -> what opens three branches (B, 3 C/4, T, V), and the fourth (B, C/4, ceil(T / stride), V).

        One convolution: x is read once, and so is the gradient of x written once.
        """
        pairs = [before(bn, layer.weight, layer.bias) for bn, layer in ((self.enter_bn, self.enter), (self.bn, self.skip))]
        weight = torch.cat([weight for weight, _ in pairs])
        bias = None
        if any(bias is not None for _, bias in pairs):
            bias = torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in pairs])
        opened, skip = F.conv2d(x, weight, bias).split([len(weight) for weight, _ in pairs], 1)
        return opened.contiguous(), skip[:, :, :: self.stride]

    def peaks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Largest of three frames, (B, C, T, V) -> (B, C, ceil(T / stride), V), and where they are."""
        if not x.is_cpu:
            return peaks(x, 2, self.stride)
        found, frames = peaks(cheap(joints_as_channels, x), 2, self.stride)
        return found.permute(0, 2, 3, 1).reshape(*x.shape[:2], -1, x.shape[3]), frames


class Block(nn.Module):
    """``relu(tcn(gcn(x)) + residual(x))``."""

    def __init__(self, gcn: HyperGraphConv, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.gcn = gcn
        self.tcn = MultiScaleTemporalConv(c_out, stride)
        same = c_in == c_out and stride == 1
        self.residual = nn.Identity() if same else projection(c_in, c_out, stride=stride)

    def forward(self, x: Tensor, fixed: Tensor) -> Tensor:
        """(B, C_in, T, V), fixed graph (S, V, P) -> (B, C, ceil(T / stride), V)."""
        x = x.view_as(x)  # gathers the gradient of x from within the block, in one order at every level of recomputing
        residual = self.residual(x)
        return relu_of_sum(self.tcn(self.gcn(x, fixed)), residual)


class HyperGCN(nn.Module):
    """Skeleton clips to class scores.

    num_classes   K
    skeleton      joint layout, by name or as an object: V and the bones of the graph
    people        M of the clips; absent people are zero and are averaged in, as officially
    size          "base" or "large"
    hyper_joints  virtual joints of each block (3); 0 leaves them out
    virtual_init  "repeated": the virtual joints of a block start alike, as officially, and stay nearly alike; "independent"
                  draws each for itself, an extension
    neighbours    nodes in a hyper-edge, itself included (9)
    in_channels   coordinates per joint (3)
    dropout       rate in front of the classifier
    """

    def __init__(
        self,
        num_classes: int,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        size: str = "base",
        hyper_joints: int = 3,
        virtual_init: str = "repeated",
        neighbours: int = 9,
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layout = skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton
        require_known("size", size, WIDTHS)
        require_known("virtual_init", virtual_init, VIRTUAL_INITS)
        require(hyper_joints >= 0, "hyper_joints", hyper_joints, "0 or more")
        require(neighbours >= 1, "neighbours", neighbours, "1 or more")
        most = layout.joints + hyper_joints
        fewest = f"{neighbours - layout.joints} virtual joints or more: {layout.name} has {layout.joints} joints"
        require(neighbours <= most, "neighbours", neighbours, f"at most {most}, or {fewest}")
        self.people, self.joints, self.in_channels = people, layout.joints, in_channels
        adjacency = torch.tensor(ensemble_adjacency(layout, hyper_joints, GROUPS))
        width = WIDTHS[size][0]
        self.embed = nn.Linear(in_channels, width)
        self.joint_code = nn.Parameter(torch.empty(layout.joints, width).normal_())
        self.data_bn = nn.BatchNorm1d(people * layout.joints * width)
        self.stages = nn.ModuleList()
        for i, c_out in enumerate(WIDTHS[size]):
            rows = [(width, c_out, 2 if i else 1), (c_out, c_out, 1), (c_out, c_out, 1)]
            self.stages.append(
                nn.ModuleList(
                    Block(
                        HyperGraphConv(a, b, adjacency, hyper_joints, neighbours, independent=virtual_init == "independent"),
                        a,
                        b,
                        stride,
                    )
                    for a, b, stride in rows
                )
            )
            width = c_out
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, num_classes)
        nn.init.normal_(self.fc.weight, 0.0, math.sqrt(2.0 / num_classes))

    @property
    def blocks(self) -> list[Block]:
        """The nine blocks in order."""
        return [block for stage in self.stages for block in stage]

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) to logits (N, K). Raises `LabError` for another shape."""
        n, c, v, m = x.shape[0], self.in_channels, self.joints, self.people
        if x.dim() != 5 or (x.shape[1], *x.shape[3:]) != (c, v, m):
            raise LabError(
                f"Hyper-GCN was given clips of shape {tuple(x.shape)}",
                expected=f"(N, {self.in_channels}, T, {self.joints}, {self.people}): coordinates, frames, joints, people",
                next_step="build the model for the skeleton and the people of the data",
            )
        x, fixed = self.embedded(x), iter(self.fixed_graphs())
        for first, second, third in self.stages:
            x = segment(first, x, next(fixed))
            x = segment(third, cheap(torch.add, segment(second, x, next(fixed)), x), next(fixed))
        x = x.mean((2, 3)).view(n, m, -1).mean(1)
        return self.fc(self.dropout(x))

    def fixed_graphs(self) -> tuple[Tensor, ...]:
        """The fixed graph (S, V, P) of each block, as far as real joints receive: rows of absolute sum 1."""
        adjacency = torch.stack([block.gcn.adjacency for block in self.blocks])
        importance = torch.stack([block.gcn.importance for block in self.blocks])
        graph = (adjacency * importance)[:, :, : self.joints]
        return (graph / (graph.abs().sum(3, keepdim=True) + EPS)).unbind()

    def embedded(self, x: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) -> (B, C_1, T, V): embedding of each joint, its own code, tanh, BatchNorm."""
        m, v = x.shape[4], x.shape[3]

        def inner(x: Tensor) -> Tensor:
            return rearrange(x, "n (m v c) t -> (n m) c t v", m=m, v=v).contiguous()

        return normalised(self.data_bn, cheap(self.placed, x), inner)

    def placed(self, x: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) -> (N, M * V * C_1, T): embedding of each joint, its own code, tanh."""
        x = torch.matmul(self.embed.weight, rearrange(x, "n c t v m -> n m v c t"))
        x = x.add_((self.joint_code + self.embed.bias).unsqueeze(2)).tanh_()
        return rearrange(x, "n m v c t -> n (m v c) t")

    def penalty(self) -> Tensor:
        """(): how alike the virtual joints of a block are: mean ReLU(cosine) of its pairs, averaged over the blocks.

        1 if they are all alike, 0 if orthogonal or opposite. 0 with fewer than two virtual joints, where officially it is 0 / 0.
        Officially they start alike, which is a stationary point of the cosine: the gradient stays rounding noise.
        """
        h = len(self.blocks[0].gcn.virtual)
        if h < 2:
            return self.fc.weight.new_zeros(())
        widths: dict[int, list[Tensor]] = {}
        for block in self.blocks:
            widths.setdefault(block.gcn.virtual.shape[1], []).append(block.gcn.virtual)
        excess = []
        for alike in widths.values():
            virtual = torch.stack(alike)
            length = virtual.norm(dim=2)
            dots = (virtual.unsqueeze(1) * virtual.unsqueeze(2)).sum(3)  # no product: autocast would round it
            excess.append(F.relu(dots / (length.unsqueeze(1) * length.unsqueeze(2) + EPS)).sum((1, 2)) - h)
        return torch.cat(excess).mean() / (h * (h - 1))
