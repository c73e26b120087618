"""FreqMixFormer: frequency-aware mixed transformer (Wu et al., ACM MM 2024), to be read beside the paper.

Letters in the shapes: N clips, M people, B = N*M, C channels, T frames, V joints (v sends, w receives), S = 3 subsets of the
skeleton graph (self, inward, outward), G = 4 groups of C/4 neighbouring channels.

The network is lean by construction: it computes the paper's formulas in another order, all of them exact identities.

1. Attention looks at features averaged over time and over half a group of channels. Both means commute with the 1x1 convolution
   that makes the features: all attention starts from 24 channels of the input's mean over time.
2. The DCT runs over the joints and commutes with these means: it is applied to 24 rows of V numbers, not to every channel and
   frame, and joins the linear layer that follows. Its inverse joins the scaling of the frequencies.
3. Attention is the same for all channels of a group and is kept as (B, G, S, V, V); the learned graph has 8 patterns for all
   channels. Their sum, one graph per channel, is not kept for the backward pass, nor are the features that it mixes: both are
   computed again (`products.py`).
4. The channel gate depends on the mean of the mixed features over joints and frames, which the row sums of the graph and the
   input's mean over time determine: the gate is known before the product and is folded into the graph.
5. The sum over the subsets is the contraction of one batched product of length S*V.
6. The 1x1 convolutions of temporal branches are joined, and so are the BatchNorms that end all five: BatchNorm works channel
   by channel.

Activations are (B, C, V, T), time innermost, as in CTR-GCN here: the products of 5. and the attention over time then need no
transposed copy. `official.py` tells where each entry of an official checkpoint lives in the joined parameters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from engine.step import without_autocast
from models.freqmixformer.graph import ancestors, cosine_transforms, spatial_adjacency
from models.freqmixformer.products import GraphConvolution
from shared_data.errors import LabError, require
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named

SUBSETS = 3
GROUPS = 4  # of channels, each with its own attention
PATTERNS = 8  # of the learned graph: channel c has pattern c mod 8
LOW, HIGH = 0.5, 1.5  # factors of the low and the high joint frequencies of mixed attention
WIDTH = 80

# (channels in, channels out, stride in time, residual around the block)
BLOCKS = (
    (WIDTH, 80, 1, "none"),
    *[(80, 80, 1, "identity")] * 3,
    (80, 160, 2, "convolution"),
    *[(160, 160, 1, "identity")] * 2,
    (160, 320, 2, "convolution"),
    *[(320, 320, 1, "identity")] * 2,
)
EARLY, MIDDLE = 4, 7  # blocks whose outputs are also read by the classifier
SHRINKING = math.prod(stride for _, _, stride, _ in BLOCKS)


def conv(c_in: int, c_out: int, kernel: int = 1, *, stride: int = 1, dilation: int = 1, fan_out: int | None = None) -> nn.Conv2d:
    """Convolution over time, (B, c_in, V, T) -> (B, c_out, V, ceil(T / stride)), zero padded.

    Weights N(0, 2 / fan_out), bias 0. `fan_out` is given where several of the paper's convolutions are joined in this one.
    """
    padding = (kernel - 1) * dilation // 2
    layer = nn.Conv2d(c_in, c_out, (1, kernel), (1, stride), (0, padding), (1, dilation))
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / (fan_out or c_out * kernel)))
    nn.init.zeros_(layer.bias)
    return layer


def projection(c_in: int, c_out: int, *, stride: int = 1) -> nn.Sequential:
    """A residual that changes width: 1x1 convolution and BatchNorm."""
    return nn.Sequential(conv(c_in, c_out, stride=stride), nn.BatchNorm2d(c_out))


class DeadWeight(nn.Module):
    """Parameters that the official network makes and never uses: no output and no gradient depends on them.

    They are here so that official checkpoints load strictly and go back complete, and parameter counts are the official ones.
    """

    def __init__(self, joints: int, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.fc = nn.Linear(2 * joints, joints)
        nn.init.normal_(self.fc.weight, 0.0, math.sqrt(2.0 / joints))
        self.bn = nn.BatchNorm2d(channels // GROUPS)


class MixedAttention(nn.Module):
    """Attention between joints, in the joint domain and in the frequency domain, within and between channel groups (sec. 3).

    In the features of a group, Q is the mean over time and the first half of its channels, K that over the second half. With r
    a linear layer and ReLU: self attention of group g is ``softmax_w(r(Q_g)[v] r(K_g)[w])``, mixed attention of the groups g
    and g + 1 is ``softmax_w(r'(K_g)[v] r'(Q_g+1)[w])``. A group gets half its self attention and a quarter of the mixed
    attention on either side. The frequency domain does the same with the DCT over the joints, scales the low and the high
    columns of mixed attention, and goes back by the inverse DCT over w. The result is the mean of the two domains.
    """

    def __init__(self, joints: int, split: int) -> None:
        """`split`: columns from here on count as high frequencies."""
        super().__init__()
        self.within = nn.Linear(joints, joints)
        self.between = nn.Linear(joints, joints)
        forward, inverse = cosine_transforms(joints)
        scale = [[LOW if column < split else HIGH] for column in range(joints)]
        # Float64, as they are cast to the dtype of the pass: a network in double keeps exact ones.
        self.register_buffer("dct", torch.tensor(forward), persistent=False)
        self.register_buffer("back", torch.cat([torch.tensor(inverse), torch.tensor(scale * inverse)]), persistent=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """Mean features over time (B, G, 2, S, V), Q then K, to attention (B, G, S, V, V)."""
        joint = torch.cat([self.within.weight, self.between.weight])
        frequency = joint @ self.dct.to(joint.dtype).T
        bias = torch.cat([self.within.bias, self.between.bias]).repeat(2)
        rows = F.relu(F.linear(pooled, torch.cat([joint, frequency]), bias))
        q, k = rows.view(*rows.shape[:-1], 2, 2, -1).unbind(2)  # each (B, G, S, domain, within or between, V)
        left = torch.cat([q[..., 0, :], k[:, :-1, ..., 1, :]], 1)
        right = torch.cat([k[..., 0, :], q[:, 1:, ..., 1, :]], 1)
        attention = torch.softmax(left.unsqueeze(-1) * right.unsqueeze(-2), -1)
        within, between = attention.split([GROUPS, GROUPS - 1], 1)
        padded = F.pad(between, (0, 0, 0, 0, 0, 0, 0, 0, 1, 1))  # the first and the last group have one neighbour
        parts = torch.cat([within, 0.5 * (padded[:, :-1] + padded[:, 1:])], -1)  # (B, G, S, domain, V, 2V)
        in_joints, in_frequencies = parts.unbind(3)
        within, between = in_joints.chunk(2, -1)
        return 0.25 * (within + between + in_frequencies @ self.back.to(parts.dtype))


class SpatialMixing(nn.Module):
    """Mixes the joints: a graph of attention, skeleton and learned entries, and a gate on the channels.

    ``out = relu(bn(gate * sum_s A_s W_s x) + down(x))``
    """

    def __init__(self, c_in: int, c_out: int, adjacency: Tensor, split: int) -> None:
        """`adjacency` (S, V, V) is fixed, and is the start of each pattern of the learned graph, too."""
        super().__init__()
        joints = adjacency.shape[-1]
        self.weight = nn.Parameter(torch.empty(c_out, SUBSETS, c_in).normal_(0.0, math.sqrt(2.0 / (SUBSETS * c_out))))
        self.bias = nn.Parameter(torch.zeros(c_out, SUBSETS))
        self.attention = MixedAttention(joints, split)
        self.register_buffer("skeleton", adjacency.clone(), persistent=False)
        self.graph = nn.Parameter(adjacency.unsqueeze(1).repeat(1, PATTERNS, 1, 1))
        self.gate = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        self.down = projection(c_in, c_out) if c_in != c_out else nn.Identity()
        self.unused = DeadWeight(joints, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, V, T) -> (B, C, V, T)."""
        weight, bias = self.weight.flatten(0, 1)[..., None, None], self.bias.flatten()
        y = GraphConvolution.apply(x, weight, bias, *self.graph_parts(x))
        return F.relu(self.bn(y).add_(self.down(x)), inplace=True)

    def graph_parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attention (B, G, S*V, V), the graph of all clips (C, S*V, V), and the gate (B, C).

        Under autocast they stay in the precision of the weights, as officially: they are small, and a softmax of products of
        sums over joints rounds badly.
        """
        with without_autocast(x):
            mean = x.mean(3, dtype=self.weight.dtype)
            mean = torch.cat([mean, torch.ones_like(mean[:, :1])], 1)  # the last channel is that of the bias
            linear = torch.cat([self.weight, self.bias.unsqueeze(2)], 2)  # (C, S, C_in + 1)
            c_out, *rest = linear.shape
            halves = linear.view(GROUPS, 2, -1, *rest).mean(2)
            maps = self.attention(torch.einsum("ghsk,bkv->bghsv", halves, mean))
            patterns = (self.graph + self.skeleton.unsqueeze(1)).transpose(0, 1)
            by_group = torch.einsum("bgsv,bkv->bgsk", maps.sum(-1), mean)
            by_pattern = torch.einsum("psv,bkv->bpsk", patterns.sum(-1), mean)
            mixed = torch.einsum("gcsk,bgsk->bgc", linear.view(GROUPS, -1, *rest), by_group).flatten(1)
            mixed = mixed + torch.einsum("cpsk,bpsk->bcp", linear.view(-1, PATTERNS, *rest), by_pattern).flatten(1)
            gate = 1.0 + torch.sigmoid(self.gate(mixed.unsqueeze(1) / mean.shape[2]).squeeze(1))
        shared = patterns.repeat(c_out // PATTERNS, 1, 1, 1)
        return maps.flatten(2, 3), shared.flatten(1, 2), gate


class TimeAttention(nn.Module):
    """Frames to frames: ``out[m] = sum_t x[t] sigmoid(q[t] k[m])``, with q from means and k from maxima of the features."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.linear = nn.Linear(frames, frames)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, V, T) -> (B, C, V, T)."""
        asking, asked = x.chunk(2, 1)
        q = F.relu(self.linear(asking.mean((1, 2))))
        k = F.relu(self.linear(asked.amax((1, 2))))
        attention = torch.sigmoid(q.unsqueeze(2) * k.unsqueeze(1))
        return torch.bmm(x.flatten(1, 2), attention).view_as(x)


class TimeGate(nn.Module):
    """A weight in (0, 1) for every frame, from the mean and the maximum of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2).normal_(0.0, math.sqrt(2.0)))  # of the mean, of the maximum
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, V, T) -> (B, C, V, T)."""
        mean, largest = x.mean((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
        return x * torch.sigmoid(self.weight[0] * mean + self.weight[1] * largest + self.bias).to(x.dtype)


class TemporalMixing(nn.Module):
    """Five parallel branches over time, C/5 channels each: kernel 5, kernel 5 dilated by 2, max pool 3, attention, gate.

    `enter` opens the first three (1x1 convolution, BatchNorm, ReLU), `embed` the other two, `bn` ends all five; no ReLU follows.
    """

    def __init__(self, channels: int, stride: int, frames: int) -> None:
        """`frames` are those after the stride."""
        super().__init__()
        c = channels // 5
        self.stride = stride
        self.enter = conv(channels, 3 * c, fan_out=c)
        self.enter_bn = nn.BatchNorm2d(3 * c)
        self.near = conv(c, c, 5, stride=stride)
        self.far = conv(c, c, 5, stride=stride, dilation=2)
        self.embed = conv(channels, 2 * c, stride=stride, fan_out=c)
        self.attention = TimeAttention(frames)
        self.attention_bn = nn.BatchNorm2d(c)  # a second one follows in `bn`: so officially
        self.gate = TimeGate()
        self.bn = nn.BatchNorm2d(channels)
        self.unused_bn = nn.BatchNorm2d(c)  # dead weight, see `DeadWeight`

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, V, T) -> (B, C, V, ceil(T / stride))."""
        near, far, peak = F.relu(self.enter_bn(self.enter(x)), inplace=True).chunk(3, 1)
        peak = F.max_pool2d(peak, (1, 3), (1, self.stride), (0, 1))
        attended, gated = self.embed(x).chunk(2, 1)
        attended = self.attention_bn(self.attention(attended))
        return self.bn(torch.cat([self.near(near), self.far(far), peak, attended, self.gate(gated)], 1))


class Block(nn.Module):
    """``relu(temporal(spatial(x)) + residual(x))``."""

    def __init__(self, c_in: int, c_out: int, stride: int, residual: str, *, adjacency: Tensor, split: int, frames: int) -> None:
        """`frames` are those after the stride; see `SpatialMixing` for the others."""
        super().__init__()
        self.spatial = SpatialMixing(c_in, c_out, adjacency, split)
        self.temporal = TemporalMixing(c_out, stride, frames)
        self.residual: nn.Module | None = None
        if residual != "none":
            self.residual = nn.Identity() if residual == "identity" else projection(c_in, c_out, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, V, T) -> (B, C, V, ceil(T / stride))."""
        y = self.temporal(self.spatial(x))
        if self.residual is not None:
            y = y.add_(self.residual(x))
        return F.relu(y, inplace=True)


class FreqMixFormer(nn.Module):
    """Skeleton clips to class scores.

    num_classes  K
    skeleton     joint layout, by name or as an object: V and the tree
    people       M of the clips; absent people are zero and are averaged in, as officially
    frames       T of the clips, a multiple of 4: attention over time has weights for each pair of frames
    hop          a joint's coordinates are taken relative to the joint so many steps nearer to the root. The official ensemble
                 uses 8 (nobody has so distant an ancestor: plain coordinates), 1 (bones) and 2
    split        joint frequencies from here on count as high; None: (V + 1) // 2, officially 13 of 25
    in_channels  coordinates per joint (3)
    dropout      rate in front of the classifier
    """

    def __init__(
        self,
        num_classes: int,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        frames: int = 64,
        hop: int = 8,
        split: int | None = None,
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layout = skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton
        joints = layout.joints
        split = (joints + 1) // 2 if split is None else split
        whole = frames >= SHRINKING and frames % SHRINKING == 0
        require(whole, "frames", frames, f"a multiple of {SHRINKING}, such as {max(frames // SHRINKING, 1) * SHRINKING}")
        require(hop >= 1, "hop", hop, "1 or more; 8 for plain coordinates")
        require(type(split) is int and 0 <= split <= joints, "split", split, f"a whole number, 0 to {joints}")
        self.people, self.joints, self.frames, self.in_channels = people, joints, frames, in_channels
        origin = ancestors(layout, hop)
        self.relative = any(joint is not None for joint in origin)
        self.register_buffer("origin", torch.tensor([joint or 0 for joint in origin]), persistent=False)
        self.register_buffer("has_origin", torch.tensor([[float(joint is not None)] for joint in origin]), persistent=False)
        self.embedding = nn.Conv1d(in_channels, WIDTH, 1)  # a linear layer on coordinates, and starts like one
        self.position = nn.Parameter(torch.randn(joints, WIDTH, 1))
        self.data_bn = nn.BatchNorm1d(people * joints * WIDTH)
        adjacency = torch.tensor(spatial_adjacency(layout))
        blocks = []
        for c_in, c_out, stride, residual in BLOCKS:
            frames //= stride
            blocks.append(Block(c_in, c_out, stride, residual, adjacency=adjacency, split=split, frames=frames))
        self.blocks = nn.ModuleList(blocks)
        c_early, c_middle, c_last = BLOCKS[EARLY][0], BLOCKS[MIDDLE][0], BLOCKS[-1][1]
        self.early = projection(c_early, c_last)
        self.middle = projection(c_middle, c_last)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c_last, num_classes)
        nn.init.normal_(self.fc.weight, 0.0, math.sqrt(2.0 / num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) to logits (N, K). Raises `LabError` for another shape."""
        shape = (self.in_channels, self.frames, self.joints, self.people)
        if x.dim() != 5 or tuple(x.shape[1:]) != shape:
            raise LabError(
                f"FreqMixFormer was given clips of shape {tuple(x.shape)}",
                expected=f"(N, {', '.join(map(str, shape))}): coordinates, frames, joints, people",
                next_step="build the model for the skeleton and the people of the data, and for its window: --model-args.frames",
            )
        x = self.embed(x)
        seen = []
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if number == EARLY:
                seen.append(self.early(F.avg_pool2d(x, (1, 4))))
            elif number == MIDDLE:
                seen.append(self.middle(F.avg_pool2d(x, (1, 2))))
        early, middle = (F.relu(y, inplace=True).mean((2, 3)) for y in seen)
        x = x.mean((2, 3)) + early + middle
        return self.fc(self.dropout(x.view(-1, self.people, x.shape[1]).mean(1)))

    def embed(self, x: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) to (B, 80, V, T): relative coordinates, linear layer, joint positions, BatchNorm."""
        n = x.shape[0]
        x = rearrange(x, "n c t v m -> n m v c t")
        if self.relative:
            x = x - x.index_select(2, self.origin) * self.has_origin.unsqueeze(2).to(x.dtype)
        x = rearrange(self.embedding(x.flatten(0, 2)), "(b v) c t -> b v c t", v=self.joints) + self.position
        x = self.data_bn(x.view(n, -1, self.frames))
        return rearrange(x, "n (m v c) t -> (n m) c v t", m=self.people, v=self.joints).contiguous()
