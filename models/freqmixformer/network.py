"""FreqMixFormer: frequency-aware mixed transformer (Wu et al., ACM MM 2024), to be read beside the paper.

Letters in the shapes: N clips, M people, B = N*M, C channels, T frames, V joints (v sends, w receives), S = 3 subsets of the
skeleton graph (self, inward, outward), G = 4 groups of C/4 neighbouring channels.

The network is lean by construction: it computes the paper's formulas in another order, all of them exact identities.

1. Attention looks at features averaged over time and over half a group of channels. Both means commute with the 1x1 convolution
   that makes the features: all attention starts from 24 channels of the input's mean over time.
2. The DCT runs over the joints and commutes with these means: it is applied to 24 rows of V numbers, not to every channel and
   frame. Its inverse, the scaling of the frequencies, the shares of the groups and the mean of both domains are one matrix.
3. Attention is the same for all channels of a group and is kept as (B, G, S, V, V); the learned graph has 8 patterns for all
   channels. Their sum, a graph for each channel, lives only as long as the product that needs it.
4. The sum over the subsets is the contraction of one batched product of length S*V.
5. The 1x1 convolutions of temporal branches are joined, and so are the BatchNorms that end all five: BatchNorm works channel
   by channel. So are the means and maxima over joints that the last two branches look at.

For the backward pass (`layers.recompute`) a block keeps its input, the graph product and the two convolutions over time: all
else is a 1x1 convolution or cheaper, and is computed from these again.

Activations are (B, C, V, T), time innermost, as in CTR-GCN here: the products of 4. and the attention over time then need no
transposed copy. `official.py` tells where each entry of an official checkpoint lives in the joined parameters.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from engine.step import without_autocast
from layers.bias import convolved, move_mean
from layers.convolution import Projection, conv_bn, conv_over_time, peaks, relu_of_parts, relu_of_sum
from layers.recompute import cheap, normalised, segment
from models.freqmixformer.graph import ancestors, attention_transforms, spatial_adjacency
from shared_data.errors import LabError, require
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named

SUBSETS = 3
GROUPS = 4  # of channels, each with its own attention
PATTERNS = 8  # of the learned graph: channel c has pattern c mod 8
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


conv = partial(conv_over_time, axis=3)
projection = partial(Projection, axis=3)


def projected_mean(layer: Projection, x: Tensor, frames: int) -> Tensor:
    """(B, c_in, V, T) to (B, c_out): means of so many frames, projected, their mean after ReLU."""
    return conv_bn(*layer, cheap(F.avg_pool2d, x, (1, frames)), F.relu_).mean((2, 3))


def side_by_side(*branches: Tensor) -> Tensor:
    """Branches (B, c, V, T) to (B, C, V, T)."""
    return torch.cat(branches, 1)


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
        # Float64, as they are cast to the dtype of the pass: a network in double keeps exact ones.
        domains, back = attention_transforms(joints, split, GROUPS)
        self.register_buffer("domains", torch.tensor(domains), persistent=False)
        self.register_buffer("back", torch.tensor(back), persistent=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """Mean features over time (B, G, 2, S, V), Q then K, to attention (B, G, S, V, V)."""
        b, groups, _, subsets, joints = pooled.shape
        rows = F.linear(pooled.flatten(1, 2), self.domains.to(pooled.dtype)).unflatten(-1, (2, joints))
        # One after the other: Q and K of each group; then K of each but the last group and Q of its neighbour.
        rows = F.relu(torch.cat([self.within(rows), self.between(rows[:, 1:-1])], 1))
        left, right = rows.view(b, -1, 2, subsets, 2, joints).unbind(2)  # each (B, 2G - 1, S, domain, V)
        attention = cheap(outer_softmax, left.permute(0, 2, 4, 1, 3).contiguous(), right.transpose(1, 2))
        maps = attention.view(b, subsets, joints, -1) @ self.back.to(attention.dtype)
        return maps.view(b, subsets, joints, groups, joints).permute(0, 3, 1, 2, 4)


def outer_softmax(left: Tensor, right: Tensor) -> Tensor:
    """``softmax_w(left[v] right[w])``: (B, S, V, *rest) and (B, S, *rest, V) to (B, S, V, *rest, V)."""
    return torch.softmax(left.unsqueeze(-1) * right.unsqueeze(2), -1)


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
        # A block that widens still has the frames before its stride: half of its channels at a time keep the backward pass small.
        self.parts = 1 if c_in == c_out else 2
        self.unused = DeadWeight(joints, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, V, T) -> (B, C, V, T)."""
        maps = self.maps(x)
        parts = [self.mixed(x, maps, part) for part in range(self.parts)]
        y = parts[0] if self.parts == 1 else torch.cat(parts, 1)
        y = cheap(torch.mul, y, self.channel_gate(y))
        return normalised(self.bn, y, relu_of_sum, self.down(x))

    def mixed(self, x: Tensor, maps: Tensor, part: int) -> Tensor:
        """``sum_s A_s W_s x`` of one part of the channels, (B, C/parts, V, T)."""
        b, _, v, t = x.shape
        value = cheap(self.value, x, part).view(-1, SUBSETS * v, t)
        graph = cheap(self.per_channel, maps, part, value.dtype)
        return torch.bmm(graph.transpose(1, 2), value).view(b, -1, v, t)

    def value(self, x: Tensor, part: int) -> Tensor:
        """(B, C_in, V, T) -> (B, C/parts*S, V, T)."""
        weight, bias = self.weight.chunk(self.parts)[part], self.bias.chunk(self.parts)[part]
        return F.conv2d(x, weight.flatten(0, 1)[..., None, None], bias.flatten())

    def maps(self, x: Tensor) -> Tensor:
        """(B, C_in, V, T) to the attention (B, G, S*V, V).

        Under autocast it stays in the precision of the weights, as officially: a softmax of products of sums over joints rounds
        badly.
        """
        with without_autocast(x):
            mean = x.sum(3, dtype=self.weight.dtype) / x.shape[3]
            weight = self.weight.unflatten(0, (2 * GROUPS, -1)).mean(1).flatten(0, 1)
            bias = self.bias.unflatten(0, (2 * GROUPS, -1)).mean(1).view(-1, 1)
            pooled = torch.baddbmm(bias, weight.expand(x.shape[0], -1, -1), mean)
            return self.attention(pooled.view(x.shape[0], GROUPS, 2, SUBSETS, -1)).flatten(2, 3)

    def per_channel(self, maps: Tensor, part: int, dtype: torch.dtype) -> Tensor:
        """Attention (B, G, S*V, V) and the graph of all clips, as a graph per channel of the part, (B*C/parts, S*V, V)."""
        maps = maps.chunk(self.parts, 1)[part].to(dtype)
        shared = (self.graph + self.skeleton.unsqueeze(1)).to(dtype).transpose(0, 1).flatten(1, 2)
        shared = shared.repeat(len(self.weight) // (self.parts * PATTERNS), 1, 1)
        return (maps.unsqueeze(2) + shared.unflatten(0, (maps.shape[1], -1))).flatten(0, 2)

    def channel_gate(self, y: Tensor) -> Tensor:
        """(B, C, V, T) -> (B, C, 1, 1), between 1 and 2."""
        with without_autocast(y):
            mean = y.sum((2, 3), dtype=self.weight.dtype) / (y.shape[2] * y.shape[3])
            return (1.0 + torch.sigmoid(self.gate(mean.unsqueeze(1)))).to(y.dtype).view(*mean.shape, 1, 1)


class TimeAttention(nn.Module):
    """Frames to frames: ``out[m] = sum_t x[t] sigmoid(q[t] k[m])``."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.linear = nn.Linear(frames, frames)

    def forward(self, x: Tensor, asking: Tensor, asked: Tensor) -> Tensor:
        """(B, C, V, T) -> (B, C, V, T); `asking` (B, 1, T), a mean of features, makes q and `asked`, a maximum, makes k."""
        q, k = F.relu(self.linear(torch.cat([asking, asked], 1))).chunk(2, 1)
        attention = torch.sigmoid(q.transpose(1, 2) * k)
        return cheap(torch.bmm, x.flatten(1, 2), attention).view_as(x)


class TimeGate(nn.Module):
    """A weight in (0, 1) for every frame, from the mean and the maximum of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2).normal_(0.0, math.sqrt(2.0)))  # of the mean, of the maximum
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, mean: Tensor, largest: Tensor) -> Tensor:
        """(B, C, V, T), and mean and maximum (B, T) -> (B, C, V, T)."""
        gate = torch.sigmoid(F.linear(torch.stack([mean, largest], 2), self.weight.unsqueeze(0), self.bias))
        return cheap(torch.mul, x, gate.to(x.dtype).view(x.shape[0], 1, 1, -1))


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
        near, far, peak = conv_bn(self.enter, self.enter_bn, x, relu_of_parts(3))
        peak, _ = cheap(peaks, peak, 3, self.stride)
        features = cheap(self.embed, x)
        quarters = features.view(x.shape[0], 4, -1, features.shape[3])
        asking, _, mean = (quarters.sum(2) / quarters.shape[2]).split([1, 1, 2], 1)
        _, asked, largest = quarters.max(2).values.split([1, 1, 2], 1)
        attended, gated = features.chunk(2, 1)
        attended = normalised(self.attention_bn, self.attention(attended, asking, asked))
        gated = self.gate(gated, mean.mean(1), largest.amax(1))
        near, far = convolved(self.near, near, self.bn), convolved(self.far, far, self.bn)
        y = self.bn(cheap(side_by_side, near, far, peak, attended, gated))
        move_mean(self.bn, self.near, self.far, None, None, None)
        return y


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
            x = segment(block, x)
            if number == EARLY:
                seen.append(projected_mean(self.early, x, 4))
            elif number == MIDDLE:
                seen.append(projected_mean(self.middle, x, 2))
        x = x.mean((2, 3)) + seen[0] + seen[1]
        return self.fc(self.dropout(x.view(-1, self.people, x.shape[1]).mean(1)))

    def embed(self, x: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) to (B, 80, V, T): relative coordinates, linear layer, joint positions, BatchNorm."""
        x = rearrange(x, "n c t v m -> n m v c t")
        if self.relative:
            x = x - x.index_select(2, self.origin) * self.has_origin.unsqueeze(2).to(x.dtype)
        return normalised(self.data_bn, cheap(self.placed, x), self.time_innermost)

    def placed(self, x: Tensor) -> Tensor:
        """Relative coordinates (N, M, V, C, T) to (N, M*V*80, T): linear layer and joint positions."""
        return (self.embedding(x.flatten(0, 2)).unflatten(0, (-1, self.joints)) + self.position).view(x.shape[0], -1, self.frames)

    def time_innermost(self, x: Tensor) -> Tensor:
        """(N, M*V*80, T) -> (B, 80, V, T)."""
        return rearrange(x, "n (m v c) t -> (n m) c v t", m=self.people, v=self.joints).contiguous()
