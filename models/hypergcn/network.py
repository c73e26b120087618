"""Hyper-GCN: adaptive hyper-graph convolution with virtual joints (ICCV 2025), to be read beside the paper.

Letters in the shapes: N clips, M people, B = N*M, C channels, T frames, V joints, h virtual joints, P = V + h nodes, S = 8 groups
of channels with a graph each, d hidden channels of a group, u the joint that receives and v the one that sends.

The network is lean by construction: it computes the paper's formulas in another order, all of them exact identities.

1. A virtual joint is the same in every clip and frame. So nothing is concatenated to an activation: what virtual joints send to
   joint u is one small term (B, C, V), added to all frames. What they would receive is never used and never computed.
2. Mixing joints by a graph and mixing the channels of a group by a 1x1 convolution commute, because all channels of a group
   have one graph. Joints come first, which is cheaper where the convolution widens; both are batched products, and what lies
   between them is computed again in the backward pass rather than kept.
3. W enters a hyper-graph twice, as a factor of the rows and of the columns: ``H diag(W) diag(W / c) H'`` needs only W * W / c.
4. The time mean commutes with 1x1 convolutions: the hyper-graph is made from (B, C, P), its two maps as one product.
5. The 1x1 convolutions that open the temporal branches are one convolution with one BatchNorm, and the BatchNorms that end
   the branches are one: BatchNorm works channel by channel.

Activations are (B, C, T, V) inside, joints innermost: then the joints of a group are mixed by one product without a copy of an
activation. `official.py` tells where each entry of an official checkpoint lives in the joined parameters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from engine.step import without_autocast
from models.hypergcn.graph import ensemble_adjacency
from shared_data.errors import LabError, require, require_known
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named

GROUPS = 8
EPS = 1e-8
WIDTHS = {"base": (128, 256, 256), "large": (128, 256, 512)}  # channels of the three stages of three blocks each
VIRTUAL_INITS = ("repeated", "independent")


def conv(c_in: int, c_out: int, kernel: int = 1, *, stride: int = 1, dilation: int = 1, fan_out: int | None = None) -> nn.Conv2d:
    """Convolution over time, (B, c_in, T, V) -> (B, c_out, T', V), without padding.

    Weights N(0, 2 / fan_out), bias 0. `fan_out` is given where several of the paper's convolutions are joined in this one.
    """
    layer = nn.Conv2d(c_in, c_out, (kernel, 1), (stride, 1), 0, (dilation, 1))
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / (fan_out or c_out * kernel)))
    nn.init.zeros_(layer.bias)
    return layer


def projection(c_in: int, c_out: int, *, stride: int = 1) -> nn.Sequential:
    """A residual that changes width or length: 1x1 convolution and BatchNorm."""
    return nn.Sequential(conv(c_in, c_out, stride=stride), nn.BatchNorm2d(c_out))


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


def mixed(x: Tensor, graph: Tensor, value: Tensor) -> Tensor:
    """Joints mixed by a graph per clip and group, then the channels of each group: ``y[s] = W_s x_s A_s'``.

    x (B, S * I, T, V), graph A (B, S, V, V), value W (S, O, I) -> (B, S, O, T * V).
    """
    return torch.matmul(value, mixed_joints(x, graph))


class Mix(torch.autograd.Function):
    """`mixed` for training, of one dtype: its backward pass computes `mixed_joints` again, which autograd would keep.

    One product more, and one activation per block less in memory.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, graph: Tensor, value: Tensor) -> Tensor:
        """As `mixed`."""
        ctx.save_for_backward(x, graph, value)
        with without_autocast(x):
            return mixed(x, graph, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of x, graph and value."""
        x, graph, value = ctx.saved_tensors
        with without_autocast(x):
            grad_value = torch.matmul(grad, mixed_joints(x, graph).transpose(2, 3)).sum(0)
            grad_mixed = torch.matmul(value.transpose(1, 2), grad).view(graph.shape[0] * graph.shape[1], -1, x.shape[3])
            grad_x = torch.bmm(grad_mixed, graph.flatten(0, 1)).view(x.shape)
            grad_graph = torch.bmm(grad_mixed.transpose(1, 2), x.reshape(grad_mixed.shape)).view(graph.shape)
        return grad_x, grad_graph, grad_value


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

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T, V) -> (B, C, T, V)."""
        b, _, t, v = x.shape
        graph = self.graph(x)
        mix = Mix.apply if self.training else mixed
        y = mix(x, graph[..., :v], self.value.to(x.dtype)).view(b, GROUPS, -1, t, v) + self.constant(graph)
        return F.relu(self.bn(y.flatten(1, 2)).add_(self.down(x)), inplace=True)

    def constant(self, graph: Tensor) -> Tensor:
        """What reaches joint u in every frame alike, (B, S, C/S, 1, V): the bias of all its senders, and the virtual joints."""
        v = graph.shape[2]
        senders = torch.cat([graph.sum(3, keepdim=True), graph[..., v:]], 3)
        virtual = torch.matmul(self.virtual.unflatten(1, (GROUPS, -1)).transpose(0, 1), self.value.transpose(1, 2))
        values = torch.cat([self.value_bias.unsqueeze(1), virtual], 1)
        return torch.matmul(senders, values).transpose(2, 3).unsqueeze(3)

    def graph(self, x: Tensor) -> Tensor:
        """(B, C_in, T, V) -> (B, S, V, P): fixed graph and hyper-graph, as far as real joints receive.

        Always in full precision: under autocast, rounding would choose other neighbours.
        """
        v = x.shape[3]
        with without_autocast(x):
            nodes = x.mean(2, dtype=torch.promote_types(x.dtype, torch.float32))
            nodes = torch.cat([nodes, self.virtual.t().expand(x.shape[0], -1, -1)], 2)
            places, weights = self.relations(nodes)
            fixed = self.adjacency[:, :v] * self.importance[:, :v].to(nodes)
            fixed = fixed / (fixed.abs().sum(2, keepdim=True) + EPS)
            graph = fixed + F.relu(self.alpha) * hyper_graph(incidence(places, self.neighbours), weights, v)
            return graph.to(x.dtype)

    def relations(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C_in, P) -> the nodes' places in the learned space (B, S, d, P), the weights of their hyper-edges (B, S, P)."""
        b, _, p = nodes.shape
        relate, weigh = self.relate.to(nodes).unsqueeze(1), self.weigh.to(nodes)
        places, hidden = torch.matmul(relate, nodes.view(b, GROUPS, -1, p)) + self.relate_bias[:, None, ..., None]
        hidden = F.leaky_relu(hidden, 0.01).reshape(b, -1, p)
        return places, torch.tanh(torch.matmul(weigh, hidden) + self.weigh_bias.unsqueeze(1))


def incidence(places: Tensor, neighbours: int) -> Tensor:
    """H: places (B, S, d, P) -> (B, S, P, P), row v the soft membership of all nodes in the hyper-edge around v.

    Distances are exact differences: the matrix-product formula leaves a node at some distance from itself, and moves
    near-ties. Their gradient at distance 0 is 0.
    """
    distance = torch.linalg.vector_norm(places.unsqueeze(4) - places.unsqueeze(3), dim=2)
    near = distance.detach().topk(neighbours, largest=False, sorted=False).indices
    outside = torch.ones_like(distance, dtype=torch.bool).scatter_(3, near, False)
    return torch.softmax((-distance).masked_fill(outside, -math.inf), 3)


def hyper_graph(memberships: Tensor, weights: Tensor, receivers: int) -> Tensor:
    """G: H (B, S, P, P) and W (B, S, P) -> (B, S, receivers, P), the rows of the first nodes.

    ``G[v, u] = sum_j (H[v, j] W[j] / r[v]) (W[j] / c[j]) H[u, j]``, with r[v] the row sum of |H W| and c[j] the column sum of H.
    """
    rows = memberships[:, :, :receivers]
    per_edge = weights.square() / (memberships.sum(2) + EPS)
    norm = torch.matmul(rows, weights.abs().unsqueeze(3)) + EPS
    return torch.matmul(rows * per_edge.unsqueeze(2), memberships.transpose(2, 3)) / norm


def peaks(x: Tensor, stride: int) -> Tensor:
    """Largest of three frames, (B, C, T, V) -> (B, C, ceil(T / stride), V)."""
    return F.max_pool2d(x, (3, 1), (stride, 1), (1, 0))


class Peak(torch.autograd.Function):
    """`peaks` for training: its backward pass finds the largest frames again; autograd would keep their numbers, 8 bytes each."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, stride: int) -> Tensor:
        """As `peaks`."""
        ctx.save_for_backward(x)
        ctx.stride = stride
        return peaks(x, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient of x."""
        (x,), window = ctx.saved_tensors, ((3, 1), (ctx.stride, 1), (1, 0))
        _, frames = F.max_pool2d(x, *window, return_indices=True)
        return torch.ops.aten.max_pool2d_with_indices_backward(grad, x, *window, (1, 1), False, frames), None


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
        near, far, peak = F.relu(repeat_ends(self.enter_bn(self.enter(x)), 4), inplace=True).chunk(3, 1)
        peak = (Peak.apply if self.training else peaks)(peak[:, :, 4:-4], self.stride)
        return self.bn(torch.cat([self.near(near[:, :, 2:-2]), self.far(far), peak, self.skip(x)], 1))


class Block(nn.Module):
    """``relu(tcn(gcn(x)) + residual(x))``."""

    def __init__(self, gcn: HyperGraphConv, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.gcn = gcn
        self.tcn = MultiScaleTemporalConv(c_out, stride)
        same = c_in == c_out and stride == 1
        self.residual = nn.Identity() if same else projection(c_in, c_out, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T, V) -> (B, C, ceil(T / stride), V)."""
        return F.relu(self.tcn(self.gcn(x)).add_(self.residual(x)), inplace=True)


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
        x = self.embedded(x)
        for first, second, third in self.stages:
            x = first(x)
            x = third(second(x) + x)
        x = x.mean((2, 3))
        return self.fc(self.dropout(x.view(n, m, -1).mean(1)))

    def embedded(self, x: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) -> (B, C_1, T, V): embedding of each joint, its own code, tanh, BatchNorm."""
        m, v = x.shape[4], x.shape[3]
        x = torch.matmul(self.embed.weight, rearrange(x, "n c t v m -> n m v c t"))
        x = x.add_((self.joint_code + self.embed.bias).unsqueeze(2)).tanh_()
        x = self.data_bn(rearrange(x, "n m v c t -> n (m v c) t"))
        return rearrange(x, "n (m v c) t -> (n m) c t v", m=m, v=v).contiguous()

    def penalty(self) -> Tensor:
        """(): how alike the virtual joints of a block are: mean ReLU(cosine) of its pairs, averaged over the blocks.

        1 if they are all alike, 0 if orthogonal or opposite. 0 with fewer than two virtual joints, where officially it is 0 / 0.
        Officially they start alike, which is a stationary point of the cosine: the gradient stays rounding noise.
        """
        h = len(self.blocks[0].gcn.virtual)
        if h < 2:
            return self.fc.weight.new_zeros(())
        excess = []
        for block in self.blocks:
            virtual = block.gcn.virtual
            length = virtual.norm(dim=1)
            dots = (virtual.unsqueeze(0) * virtual.unsqueeze(1)).sum(2)  # no product: autocast would round it
            excess.append(F.relu(dots / (length.unsqueeze(0) * length.unsqueeze(1) + EPS)).sum() - h)
        return torch.stack(excess).mean() / (h * (h - 1))
