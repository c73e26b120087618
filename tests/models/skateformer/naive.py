"""SkateFormer again, slowly: one module per line of the specification, official parameter names, loops over tokens and groups.

The judge of the lean network: both get the same weights (through `official.py`) and must give the same numbers in float64.
Dropout and drop path are left out.
"""

from __future__ import annotations

import math

import torch
from torch import nn

WIDTHS = (96, 192, 192, 192)
Size = tuple[int, int]


def token_grid(kind: int, size: Size, frames: int, points: int) -> torch.Tensor:
    """(windows, tokens) int64: t * V + v of every token of every window, from the index formulas of specification 2."""
    a, b = size
    rows = []
    for tw in range(frames // a):
        for vw in range(points // b):
            window = []
            for i in range(a):
                for k in range(b):
                    t = tw * a + i if kind in (0, 1) else i * (frames // a) + tw
                    v = vw * b + k if kind in (0, 2) else k * (points // b) + vw
                    window.append(t * points + v)
            rows.append(window)
    return torch.tensor(rows)


class NaiveAttention(nn.Module):
    """One kind: explicit logits, bias entry by entry."""

    def __init__(self, kind: int, size: Size, heads: int, relative: bool) -> None:
        super().__init__()
        self.kind, self.size, self.heads, self.relative = kind, size, heads, relative
        a, b = size
        if relative:
            shape = (2 * a - 1, heads) if kind in (0, 2) else (2 * a - 1, b, b, heads)
            self.relative_position_bias_table = nn.Parameter(torch.empty(shape))
            self.register_buffer("relative_position_index", torch.arange(a)[:, None] - torch.arange(a)[None] + a - 1)

    def bias(self) -> torch.Tensor:
        """(heads, P, P)."""
        a, b = self.size
        table, rows = self.relative_position_bias_table, []
        for p in range(a * b):
            for q in range(a * b):
                if self.kind in (0, 2):
                    rows.append(table[p % a - q % a + a - 1])
                else:
                    rows.append(table[p // b - q // b + a - 1, p % b, q % b])
        return torch.stack(rows).view(a * b, a * b, self.heads).permute(2, 0, 1)

    def forward(self, x):
        n, t, v, width = x.shape
        where = token_grid(self.kind, self.size, t, v)
        tokens = x.reshape(n, t * v, width)[:, where]  # (N, windows, P, 3 heads d)
        q, k, value = tokens.view(*tokens.shape[:3], 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        logits = q @ k.transpose(-1, -2) * self.heads**-0.5
        if self.relative:
            logits = logits + self.bias()
        y = (logits.softmax(-1) @ value).transpose(2, 3).flatten(3)  # (N, windows, P, heads d)
        result = torch.zeros(n, t * v, y.shape[-1], dtype=y.dtype)
        result[:, where.flatten()] = y.flatten(1, 2)
        return result.view(n, t, v, -1)


class NaiveTransformer(nn.Module):
    def __init__(self, c, points, kernel, heads, sizes, mlp_ratio, relative) -> None:
        super().__init__()
        self.c, self.groups = c, heads // 4
        self.gconv = nn.Parameter(torch.empty(self.groups, points, points))
        self.norm_1 = nn.LayerNorm(c)
        self.mapping = nn.Linear(c, 2 * c)
        self.tconv = nn.Conv2d(c // 4, c // 4, (kernel, 1), padding=(kernel // 2, 0), groups=self.groups)
        self.attention = nn.ModuleList(NaiveAttention(i, size, heads // 8, relative) for i, size in enumerate(sizes))
        self.proj = nn.Linear(c, c)
        self.norm_2 = nn.LayerNorm(c)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(c, int(mlp_ratio * c)), "fc2": nn.Linear(int(mlp_ratio * c), c)})

    def forward(self, x):
        c = self.c
        f = self.mapping(self.norm_1(x))
        per_group = c // 4 // self.groups
        graph = [torch.einsum("vu,ntu->ntv", self.gconv[i // per_group], f[..., i]) for i in range(c // 4)]
        temporal = self.tconv(f[..., c // 4 : c // 2].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        chunks = f[..., c // 2 :].chunk(4, -1)
        attended = [attention(chunk) for attention, chunk in zip(self.attention, chunks, strict=True)]
        x = x + self.proj(torch.cat([torch.stack(graph, -1), temporal, *attended], -1))
        return x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm_2(x))))


class NaiveDownsample(nn.Module):
    def __init__(self, c_in, c_out, kernel) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(c_in, c_out, (kernel, 1), (2, 1), (kernel // 2, 0))
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x):
        return self.bn(self.reduction(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


class NaiveBlock(nn.Module):
    def __init__(self, c_in, c_out, first, *rest) -> None:
        super().__init__()
        if first:
            self.downsample = NaiveDownsample(c_in, c_out, rest[1])
        self.transformer = NaiveTransformer(c_out, *rest)

    def forward(self, x):
        return self.transformer(self.downsample(x) if hasattr(self, "downsample") else x)


class NaiveStage(nn.Module):
    def __init__(self, stage, *rest) -> None:
        super().__init__()
        c_in, c_out = WIDTHS[max(stage - 1, 0)], WIDTHS[stage]
        self.blocks = nn.ModuleList(NaiveBlock(c_in, c_out, bool(stage) and i == 0, *rest) for i in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class NaiveSkateFormer(nn.Module):
    """The keywords are the official ones; `num_frames` counts for ``index_t=False`` only."""

    def __init__(
        self, num_classes=60, num_people=2, num_points=24, num_frames=64, kernel_size=7, num_heads=32,
        type_1_size=(8, 8), type_2_size=(8, 12), type_3_size=(8, 8), type_4_size=(8, 12), mlp_ratio=4.0, rel=True, index_t=True,
    ) -> None:  # fmt: skip
        super().__init__()
        points = num_people * num_points
        self.index_t = index_t
        if index_t:
            self.joint_person_embedding = nn.Parameter(torch.empty(96, points))
        else:
            self.joint_person_temporal_embedding = nn.Parameter(torch.empty(1, 96, num_frames, points))
        self.stem = nn.ModuleList(
            [nn.Conv2d(3, 6, 1), nn.GELU(), nn.Conv2d(6, 9, 1), nn.GELU(), nn.Conv2d(9, 96, 1)]
        )  # fmt: skip
        sizes = [tuple(size) for size in (type_1_size, type_2_size, type_3_size, type_4_size)]
        self.stages = nn.ModuleList(NaiveStage(i, points, kernel_size, num_heads, sizes, mlp_ratio, rel) for i in range(4))
        self.head = nn.Linear(192, num_classes)

    def forward(self, x, index_t):
        n, c, t, v, m = x.shape
        x = x.permute(0, 1, 2, 4, 3).reshape(n, c, t, m * v)
        for layer in self.stem:
            x = layer(x)
        if self.index_t:
            te = torch.zeros(n, t, 96, dtype=x.dtype)
            for i in range(48):
                omega = 1 / math.pow(10000, 2 * i / 96)
                te[..., 2 * i] = torch.sin(index_t * omega)
                te[..., 2 * i + 1] = torch.cos(index_t * omega)
            x = x + torch.einsum("ntc,cv->nctv", te, self.joint_person_embedding)
        else:
            x = x + self.joint_person_temporal_embedding
        x = x.permute(0, 2, 3, 1)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((1, 2)))
