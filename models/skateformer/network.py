"""SkateFormer: skeletal-temporal transformer (Do and Kim, ECCV 2024), to be read beside the paper.

Letters in the shapes: N clips, T frames, V person-joints (joints of all people, person after person), C channels, H heads,
d = C / H channels of a head.

Activations are (N, T, V, C), channels innermost: every linear layer, LayerNorm, strided convolution and partition then works on
rows of channels, and nothing is transposed. The network is lean by exact identities:

1. Attention is fused and never stored: the relative bias is its mask, partitions of one size share a call.
2. Fused attention on a GPU wants rows of 16 bytes. Where the grid is cut, rows are filled up with zeros, which change no logit
   and no output.
3. One product makes what all branches read. One copy cuts it, one puts together what they found, and so do their gradients.
4. The graph convolutions of all groups are one batched product.
5. Biases of all blocks are made at once from small tables, by sliding views.
6. Of a block training keeps, where memory counts, its input, the sum in its middle, and what the temporal convolution and the
   attention found. The rest is made again (`layers.recompute`): norms, the products that follow them, GELU, all copies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from layers.device import on_gpu
from layers.drop_path import DropPath
from layers.recompute import cheap, normalised, segment
from models.skateformer.attention import NEAR_JOINTS, Cut, Join, PartitionedAttention, Pieces, relative_biases
from models.skateformer.sizes import (
    DEPTH,
    WIDTHS,
    Size,
    check_frames,
    check_heads,
    check_points,
    partition_sizes,
)
from shared_data.errors import LabError, require
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named

STEM = (6, 9, WIDTHS[0])
BASE = 10_000.0  # of the sine code's wavelengths


def evenly(frames: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(1, T) positions of frames spread over a whole clip: -1 for the first, 1 for the one after the last."""
    return (torch.arange(frames, device=device, dtype=dtype) * (2.0 / frames) - 1.0).unsqueeze(0)


def sine_code(positions: Tensor, channels: int) -> Tensor:
    """(N, T) positions in [-1, 1] -> (N, T, C): sine and cosine of position / 10000^(2i/C), channels 2i and 2i + 1."""
    exponent = torch.arange(0, channels, 2, device=positions.device, dtype=positions.dtype) / channels
    phase = positions.unsqueeze(-1) * BASE**-exponent
    return torch.stack([phase.sin(), phase.cos()], -1).flatten(-2)


def normal(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """``norm(x)`` in the dtype in which autocast has linear layers read it, so that they keep no copy of theirs."""
    return norm(x).to(autocast_dtype(x))


class Downsample(nn.Module):
    """Half the frames: convolution over time with stride 2, BatchNorm."""

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(c_in, c_out, (kernel, 1), (2, 1), (kernel // 2, 0))
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, V, C_in) -> (N, ceil(T / 2), V, C); the permutations only rename the axes ("channels last")."""
        return normalised(self.bn, self.reduce(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


class Block(nn.Module):
    """``x + mix(norm(x))``, then ``x + mlp(norm(x))``.

    mix projects to 2C channels: C/4 for a graph convolution, C/4 for a temporal one, 3C/2 for the attentions; and their C
    outputs back to C.
    """

    def __init__(
        self,
        channels: int,
        points: int,
        *,
        kernel: int,
        heads: int,
        sizes: Sequence[Size],
        mlp_ratio: float,
        relative: bool,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        groups, hidden = heads // 4, int(mlp_ratio * channels)
        self.width = channels // heads
        self.given, self.found = (Pieces(tuple(sizes), groups, heads // 8, self.width, rows) for rows in (3, 1))  # see `mix`
        self.norm_1 = nn.LayerNorm(channels)
        self.mapping = nn.Linear(channels, 2 * channels)
        self.graph = nn.Parameter(torch.empty(groups, points, points))  # [g, v, u]: joint v receives from u
        nn.init.trunc_normal_(self.graph, std=0.02)
        self.temporal = nn.Conv2d(channels // 4, channels // 4, (kernel, 1), 1, (kernel // 2, 0), groups=groups)
        self.attention = PartitionedAttention(heads // 8, sizes, relative=relative, dropout=attn_drop)
        self.proj = nn.Linear(channels, channels)
        self.drop_path = DropPath(drop_path)
        self.norm_2 = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, *biases: Tensor) -> Tensor:
        """(N, T, V, C), and the relative biases of each group of partitions, -> (N, T, V, C)."""
        x = self.drop_path(x, self.mix(cheap(normal, self.norm_1, x), biases))
        hidden = cheap(self.fc1, cheap(normal, self.norm_2, x))
        return self.drop_path(x, self.fc2(cheap(F.gelu, hidden)))

    def mix(self, x: Tensor, biases: Sequence[Tensor]) -> Tensor:
        """(N, T, V, C) -> (N, T, V, C): what joints and frames tell each other."""
        spare = -self.width % row_multiple(x)
        graph, temporal, *rows = cheap(self.cut, x, spare)
        graph = cheap(torch.bmm, self.graph, graph.flatten(2)).view(graph.shape)
        temporal = self.temporal(temporal.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.proj(cheap(self.join, spare, graph, temporal, *self.attention(rows, biases)))

    def cut(self, x: Tensor, spare: int) -> tuple[Tensor, ...]:
        """What the branches read, see `Pieces`."""
        return Cut.apply(self.given, spare, self.mapping(x))

    def join(self, spare: int, *pieces: Tensor) -> Tensor:
        """What the branches found, side by side."""
        return Join.apply(self.found, spare, *pieces)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Of what linear layers read: that of `x` unless autocast is on."""
    kind = x.device.type
    if kind == "meta":  # has none
        return x.dtype
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    if kind == "cpu":  # torch 2.3
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else x.dtype
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else x.dtype


def row_multiple(x: Tensor) -> int:
    """To what the rows of queries, keys and values are filled up on the device of `x`: 16 bytes, for the fused kernels."""
    return 16 // x.element_size() if on_gpu(x) else 1


class SkateFormer(nn.Module):
    """Skeleton clips, and where in its clip each frame lies, to class scores.

    num_classes         K
    skeleton            joint layout, by name or as an object: how many joints the clips have once they are ordered by body part
    people              M of the clips; all people are in one grid, absent ones as zeros
    points              joints per person where the layout does not tell (25 for NTU clips with `partition: false`)
    frames              window that the partitions are checked for; others that they fit work too
    in_channels         coordinates per joint (3)
    kernel_size         frames that the temporal convolutions reach over
    num_heads           H; 8 of them fit in a quarter of the attentions' channels: a kind has H/8
    type_1_size, ...    (frames, joints) of the four kinds of partitions; see `attention`
    mlp_ratio           hidden channels of the MLP per channel
    rel                 relative position bias
    index_t             frame positions as a sine code times a joint embedding; False: one learned embedding per frame and joint
    attn_drop, head_drop, drop_path   rates of dropout in the attention, before the classifier, and of whole branches (the last
                        block's; earlier ones have less)
    """

    takes_positions = True

    def __init__(
        self,
        num_classes: int,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        points: int | None = None,
        frames: int = 64,
        in_channels: int = 3,
        kernel_size: int = 7,
        num_heads: int = 32,
        type_1_size: Sequence[int] = (8, 8),
        type_2_size: Sequence[int] = (8, 12),
        type_3_size: Sequence[int] = (8, 8),
        type_4_size: Sequence[int] = (8, 12),
        mlp_ratio: float = 4.0,
        rel: bool = True,
        index_t: bool = True,
        attn_drop: float = 0.5,
        head_drop: float = 0.0,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        layout = skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton
        require(points is None or points >= 1, "points", points, "1 or more joints per person")
        self.joints = points or len(layout.orders.get("skateformer", range(layout.joints)))
        self.people, self.in_channels, self.frames = people, in_channels, frames
        self.sizes = partition_sizes((type_1_size, type_2_size, type_3_size, type_4_size))
        check_heads(num_heads)
        check_frames(frames, self.sizes)
        check_points(people * self.joints, self.sizes)
        require(kernel_size > 0 and kernel_size % 2 == 1, "kernel_size", kernel_size, "an odd number of frames")
        require(mlp_ratio * WIDTHS[0] >= 1, "mlp_ratio", mlp_ratio, f"at least 1/{WIDTHS[0]}")
        for name, rate in (("attn_drop", attn_drop), ("head_drop", head_drop), ("drop_path", drop_path)):
            require(0 <= rate < 1, name, rate, "a rate, 0 or more and below 1")

        widths = [width for width in WIDTHS for _ in range(DEPTH)]
        points = people * self.joints
        self.stem = nn.ModuleList(nn.Linear(a, b) for a, b in zip((in_channels, *STEM), STEM, strict=False))
        # (V, C), with `index_t=False` (T, V, C)
        self.embedding = nn.Parameter(torch.empty(*(() if index_t else (frames,)), points, WIDTHS[0]))
        nn.init.trunc_normal_(self.embedding, std=0.02)
        self.index_t, self.relative = index_t, rel
        self.blocks = nn.ModuleList()
        self.downsamples = nn.ModuleDict()  # by the number of the block that they stand before
        for i, width in enumerate(widths):
            if i and i % DEPTH == 0:
                self.downsamples[str(i)] = Downsample(widths[i - 1], width, kernel_size)
            self.blocks.append(
                Block(
                    width,
                    points,
                    kernel=kernel_size,
                    heads=num_heads,
                    sizes=self.sizes,
                    mlp_ratio=mlp_ratio,
                    relative=rel,
                    attn_drop=attn_drop,
                    drop_path=drop_path * i / (len(widths) - 1),
                )
            )
        self.dropout = nn.Dropout(head_drop)
        self.head = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Clips (N, C, T, V, M) and positions (N, T) of their frames, -1 to 1, to logits (N, K).

        Without positions the frames are spread evenly over the whole clip. Raises `LabError` for clips of another shape.
        """
        self._check(x)
        x = cheap(self.embedded, x, positions)
        biases = self.biases()
        for i, block in enumerate(self.blocks):
            if str(i) in self.downsamples:
                x = self.downsamples[str(i)](x)
            x = segment(block, x, *biases[i])
        return self.head(self.dropout(x.mean((1, 2))))

    def embedded(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Clips (N, C, T, V, M) and positions (N, T) or None -> (N, T, V, C)."""
        x = rearrange(x, "n c t v m -> n t (m v) c")
        for i, layer in enumerate(self.stem):
            x = layer(F.gelu(x) if i else x)
        if not self.index_t:
            return x + self.embedding
        exact = torch.promote_types(self.embedding.dtype, torch.float32)  # half precision cannot tell frames apart
        given = evenly(x.shape[1], x.device, exact) if positions is None else positions.to(exact)
        return x + sine_code(given, WIDTHS[0]).to(self.embedding.dtype).unsqueeze(2) * self.embedding

    def biases(self) -> list[list[Tensor]]:
        """Of each block the relative biases of each group of partitions."""
        result: list[list[Tensor]] = [[] for _ in self.blocks]
        for size, kinds in self.blocks[0].given.groups() if self.relative else ():
            tables = [block.attention.bias[kind].table for block in self.blocks for kind in kinds]
            made = relative_biases(tables, size, len(self.blocks), near_joints=NEAR_JOINTS[kinds[0]])
            for row, bias in zip(result, made, strict=True):
                row.append(bias)
        return result

    def _check(self, x: Tensor) -> None:
        """Refuse clips of another shape, and windows that the partitions do not fit."""
        shape = tuple(x.shape)
        if len(shape) != 5 or (shape[1], *shape[3:]) != (self.in_channels, self.joints, self.people):
            raise LabError(
                f"SkateFormer was given clips of shape {shape}",
                expected=f"(N, {self.in_channels}, T, {self.joints}, {self.people}): coordinates, frames, joints, people",
                next_step="order the joints by body part (pipeline option partition: true), "
                "and build the model for the skeleton and the people of the data",
            )
        if shape[2] != self.frames:
            if not self.index_t:
                raise LabError(
                    f"SkateFormer with index_t false was given {shape[2]} frames",
                    expected=f"{self.frames}, for which it has an embedding",
                    next_step="set model_args.frames to the window",
                )
            check_frames(shape[2], self.sizes)
