"""Skate-MSA: self-attention inside four kinds of partitions of the (frames x person-joints) grid (paper, section 3.3).

A window holds a x b tokens: a consecutive frames, or a frames strided over the whole clip; b neighbours in the joint order (one
body part or a few), or b joints strided over all of it (the same place in every part, of every person).

kind 1 near frames, near joints   t = tw a + i          v = vw b + k
kind 2 near frames, far joints    t = tw a + i          v = k V/b + vw
kind 3 far frames, near joints    t = i T/a + tw        v = vw b + k
kind 4 far frames, far joints     t = i T/a + tw        v = k V/b + vw

Tokens are ordered (i, k) in a window, windows (clip, tw, vw). The two kinds of near joints share one fused attention if their
sizes are the same, and so do those of far joints. To cut a grid into what the branches of a block read, and to put together what
they found, takes one copy each: `Cut` and `Join`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layers.device import on_gpu
from models.skateformer.sizes import KINDS, Size

GRID = ("(tw a) (vw b)", "(tw a) (b vw)", "(a tw) (vw b)", "(a tw) (b vw)")  # axes T and V of the four kinds
NEAR_JOINTS = (True, False, True, False)


def windows(x: Tensor, kind: int, size: Size) -> Tensor:
    """(N, T, V, ...) -> (N, T/a, V/b, a, b, ...) as a view; `kind` counts from 0."""
    return rearrange(x, f"n {GRID[kind]} ... -> n tw vw a b ...", a=size[0], b=size[1])


@dataclass(frozen=True)
class Pieces:
    """How the channels of a grid (N, T, V, C) are shared out among the branches of a block.

    First equal parts for the graph and the temporal convolution, then of each kind of partition `rows` x heads x width: queries,
    keys and values, or what came out of the attention.

    Cut into pieces these are graph (graphs, V, N, T, C/graphs), temporal (N, T, V, C), and for each group of kinds that share an
    attention `rows` tensors (N windows, heads of all its kinds, a b, width), in memory (N windows, a b, heads, width).
    """

    sizes: tuple[Size, ...]
    graphs: int
    heads: int
    width: int
    rows: int

    @property
    def attended(self) -> int:
        """Channels of the attentions."""
        return KINDS * self.rows * self.heads * self.width

    def groups(self) -> list[tuple[Size, list[int]]]:
        """The kinds that share an attention, with their size; joints near or far, they have biases of one shape."""
        keys = list(zip(self.sizes, NEAR_JOINTS, strict=True))
        return [(key[0], [kind for kind in range(KINDS) if keys[kind] == key]) for key in dict.fromkeys(keys)]

    def of_grid(self, x: Tensor) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """Views that share out (N, T, V, C): graph, temporal, kinds by group, each (N, T/a, V/b, a, b, rows, heads, width)."""
        half = (x.shape[-1] - self.attended) // 2
        graph, temporal, rest = x.split([half, half, self.attended], -1)
        rest = rest.unflatten(-1, (KINDS, self.rows, self.heads, self.width))
        grouped = [[windows(rest[:, :, :, kind], kind, size) for kind in kinds] for size, kinds in self.groups()]
        return graph.unflatten(-1, (self.graphs, -1)).permute(3, 2, 0, 1, 4), temporal, grouped

    def of_rows(self, x: Tensor, size: Size, frames: int, points: int) -> tuple[Tensor, ...]:
        """(..., N windows, heads of all its kinds, a b, width) -> of each kind a view (..., N, T/a, V/b, a, b, heads, width)."""
        x = x.transpose(-3, -2)[..., : self.width].unflatten(-2, (-1, self.heads)).unflatten(-4, size)
        return x.unflatten(-6, (-1, frames // size[0], points // size[1])).unbind(-3)

    def cut(self, x: Tensor, spare: int) -> tuple[Tensor, ...]:
        """(N, T, V, C) -> pieces; rows of the attentions are filled up by `spare` zeros."""
        n, t, v, _ = x.shape
        graph, temporal, grouped = self.of_grid(x)
        pieces = [part.clone(memory_format=torch.contiguous_format) for part in (graph, temporal)]
        for (size, kinds), here in zip(self.groups(), grouped, strict=True):
            tokens = size[0] * size[1]
            made = x.new_empty(self.rows, n * t * v // tokens, tokens, len(kinds) * self.heads, self.width + spare)
            made = made.transpose(2, 3)
            if spare:
                made[..., self.width :].zero_()
            for there, part in zip(self.of_rows(made, size, t, v), here, strict=True):
                there.copy_(part.movedim(5, 0))
            pieces += made.unbind()
        return tuple(pieces)

    def join(self, pieces: Sequence[Tensor]) -> Tensor:
        """The way back."""
        n, t, v, half = pieces[1].shape
        result = pieces[1].new_empty(n, t, v, 2 * half + self.attended)
        graph, temporal, grouped = self.of_grid(result)
        graph.copy_(pieces[0])
        temporal.copy_(pieces[1])
        rest = iter(pieces[2:])
        for (size, _), there in zip(self.groups(), grouped, strict=True):
            for row in range(self.rows):
                for part, here in zip(there, self.of_rows(next(rest), size, t, v), strict=True):
                    part.select(5, row).copy_(here)
        return result


class Cut(torch.autograd.Function):
    """`Pieces.cut`, whose gradient is `Pieces.join`: one copy, where autograd's own fills and adds a grid for every view.

    With `Join` it saves 15 % of the bytes that a training step reads and writes (counted on tensors without values).
    """

    @staticmethod
    def forward(ctx: Any, pieces: Pieces, spare: int, x: Tensor) -> tuple[Tensor, ...]:
        ctx.pieces = pieces
        return pieces.cut(x, spare)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.pieces.join(gradients)


class Join(torch.autograd.Function):
    """`Pieces.join`, whose gradient is `Pieces.cut`."""

    @staticmethod
    def forward(ctx: Any, pieces: Pieces, spare: int, *values: Tensor) -> Tensor:
        ctx.pieces, ctx.spare = pieces, spare
        return pieces.join(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return None, None, *ctx.pieces.cut(gradient, ctx.spare)


class RelativeBias(nn.Module):
    """What is added to the attention logits of one kind, learned by the distance of two tokens in frames.

    Near joints: one number per distance and head. The official code counts the tokens of a window modulo a where it means
    their frames: for a = b = 8 the "distance" is one of joint slots. Published weights were trained so, and so it is here.
    Far joints: one number per distance, pair of slots and head. `relative_biases` makes the biases.
    """

    def __init__(self, size: Size, heads: int, *, near_joints: bool) -> None:
        super().__init__()
        a, b = size
        self.table = nn.Parameter(torch.empty(2 * a - 1, *(() if near_joints else (b, b)), heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        steps = torch.arange(a)
        # Official checkpoints carry it. It is kept for the way back and not read: a sliding view needs no index.
        self.register_buffer("index", steps[:, None] - steps[None, :] + a - 1)


def relative_biases(tables: Sequence[Tensor], size: Size, parts: int, *, near_joints: bool) -> tuple[Tensor, ...]:
    """What tables (2a - 1, [b, b,] heads) stand for: (heads of all tables, a b, a b), receiving token before sending token, in so
    many parts."""
    a, b = size
    distance = torch.stack(list(tables)).unfold(1, a, 1).flip(-1)  # [table, i, ..., j] = table[i - j + a - 1]
    if near_joints:  # token p stands for "frame" p mod a
        made = distance.transpose(1, 2)[:, :, None, :, None, :].expand(-1, -1, b, -1, b, -1)
    else:
        made = distance.permute(0, 4, 1, 2, 5, 3)
    return made.reshape(-1, a * b, a * b).chunk(parts)


class PartitionedAttention(nn.Module):
    """Four attentions side by side, each with `heads` heads in partitions of its own kind.

    Logits are scaled by heads^-0.5, not by the square root of the head's width (an official quirk).
    """

    def __init__(self, heads: int, sizes: Sequence[Size], *, relative: bool, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.bias = nn.ModuleList(
            RelativeBias(size, heads, near_joints=near) for size, near in zip(sizes, NEAR_JOINTS, strict=True) if relative
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
        """Of each group of kinds (see `Pieces`) queries, keys and values, and its biases (heads, a b, a b) or none -> values."""
        rate = self.dropout.p if self.training else 0.0
        masks = [bias.unsqueeze(0).to(rows[0].dtype) for bias in biases] or [None] * (len(rows) // 3)
        attend = apart if self.training and not on_gpu(rows[0]) else F.scaled_dot_product_attention
        return [attend(*rows[3 * i : 3 * i + 3], mask, rate, scale=self.heads**-0.5) for i, mask in enumerate(masks)]


def apart(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, *, scale: float) -> Tensor:
    """Attention with a position bias, not fused: for training on a CPU.

    It has no fused kernel for that. PyTorch takes attention apart as well, and looks for rows of minus infinity on the way,
    which are not here: 8 % of a training step.
    """
    logits = torch.matmul(q * scale, k.transpose(-2, -1))
    if bias is not None:
        logits = logits.add_(bias)
    return torch.matmul(F.dropout(torch.softmax(logits, -1), dropout), v)
