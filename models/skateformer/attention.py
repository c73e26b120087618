"""Skate-MSA: self-attention inside four kinds of partitions of the (frames x person-joints) grid (paper, section 3.3).

A window holds a x b tokens: a consecutive frames, or a frames strided over the whole clip; b neighbours in the joint order (one
body part or a few), or b joints strided over all of it (the same place in every part, of every person).

kind 1 near frames, near joints   t = tw a + i          v = vw b + k
kind 2 near frames, far joints    t = tw a + i          v = k V/b + vw
kind 3 far frames, near joints    t = i T/a + tw        v = vw b + k
kind 4 far frames, far joints     t = i T/a + tw        v = k V/b + vw

Tokens are ordered (i, k) in a window, windows (clip, tw, vw). Kinds of the same size have equally many windows and share one
fused attention; to cut the grid and to put it together again takes one copy each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.skateformer.sizes import Size

GRID = ("(tw a) (vw b)", "(tw a) (b vw)", "(a tw) (vw b)", "(a tw) (b vw)")  # axes T and V of the four kinds
NEAR_JOINTS = (True, False, True, False)


def windows(x: Tensor, kind: int, size: Size) -> Tensor:
    """(N, T, V, ...) -> (N, T/a, V/b, a, b, ...) as a view; `kind` counts from 0."""
    return rearrange(x, f"n {GRID[kind]} ... -> n tw vw a b ...", a=size[0], b=size[1])


def grid(x: Tensor, kind: int) -> Tensor:
    """The way back from `windows`."""
    return rearrange(x, f"n tw vw a b ... -> n {GRID[kind]} ...")


class RelativeBias(nn.Module):
    """What is added to the attention logits of one kind, learned by the distance of two tokens in frames.

    Near joints: one number per distance and head. The official code counts the tokens of a window modulo a where it means
    their frames: for a = b = 8 the "distance" is one of joint slots. Published weights were trained so, and so it is here.
    Far joints: one number per distance, pair of slots and head.
    """

    def __init__(self, size: Size, heads: int, *, near_joints: bool) -> None:
        super().__init__()
        a, b = size
        self.size, self.near_joints = size, near_joints
        self.table = nn.Parameter(torch.empty(2 * a - 1, *(() if near_joints else (b, b)), heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        steps = torch.arange(a)
        # Official checkpoints carry it. It is kept for the way back and not read: the sliding view below needs no index.
        self.register_buffer("index", steps[:, None] - steps[None, :] + a - 1)

    def forward(self) -> Tensor:
        """(heads, a b, a b): receiving token before sending token."""
        a, b = self.size
        distance = self.table.unfold(0, a, 1).flip(-1)  # [i, ..., j] = table[i - j + a - 1]
        if self.near_joints:  # token p stands for "frame" p mod a
            return distance.permute(1, 0, 2)[:, None, :, None, :].expand(-1, b, -1, b, -1).reshape(-1, a * b, a * b)
        return distance.permute(3, 0, 1, 4, 2).reshape(-1, a * b, a * b)


class PartitionedAttention(nn.Module):
    """Four attentions side by side, each with `heads` heads in partitions of its own kind.

    Logits are scaled by heads^-0.5, not by the square root of the head's width (an official quirk).
    """

    def __init__(self, heads: int, sizes: Sequence[Size], *, relative: bool, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.groups = [(size, [k for k, other in enumerate(sizes) if other == size]) for size in dict.fromkeys(sizes)]
        self.bias = nn.ModuleList(
            RelativeBias(size, heads, near_joints=near) for size, near in zip(sizes, NEAR_JOINTS, strict=True) if relative
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, qkv: Tensor) -> list[Tensor]:
        """(N, T, V, 4 kinds, 3, heads, width) queries, keys and values -> of each kind (N, T, V, heads, width)."""
        *_, kinds, _, h, width = qkv.shape
        result: dict[int, Tensor] = {}
        for size, group in self.groups:
            cut = [windows(qkv[:, :, :, kind], kind, size).movedim(5, 0) for kind in group]
            together = torch.cat(cut, 6)  # the heads of all kinds of the group: (3, N, T/a, V/b, a, b, heads, width)
            q, k, v = together.view(3, -1, size[0] * size[1], len(group) * h, width).transpose(2, 3).unbind()
            bias = torch.cat([self.bias[kind]() for kind in group]).unsqueeze(0).to(q.dtype) if self.bias else None
            rate = self.dropout.p if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, bias, rate, scale=self.heads**-0.5)
            y = y.transpose(1, 2).reshape(*together.shape[1:6], len(group), h, width)
            for place, kind in enumerate(group):
                result[kind] = grid(y[..., place, :, :], kind)
        return [result[kind] for kind in range(kinds)]
