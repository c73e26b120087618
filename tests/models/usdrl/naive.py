"""USDRL's encoders and loss written out slowly, with the official names: the specification (sections 2 and 3), line by line."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PARENTS = [  # of the 25 joints, 1-based, joint by joint
    2, 21, 21, 3, 21, 5, 6, 7, 21, 9, 10, 11, 1, 13, 14, 15, 1, 17, 18, 19, 21, 23, 8, 25, 12,
]  # fmt: skip


def stream(clips: Tensor, modality: str) -> Tensor:
    """(N, 3, T, 25, M) -> the same shape, number by number of frames and joints."""
    made = torch.zeros_like(clips)
    _, _, t, v, _ = clips.shape
    if modality == "motion":
        for i in range(t - 1):
            made[:, :, i] = clips[:, :, i + 1] - clips[:, :, i]
        return made
    if modality == "bone":
        for j in range(v):
            made[:, :, :, j] = clips[:, :, :, j] - clips[:, :, :, PARENTS[j] - 1]
        return made
    return clips


def readings(clips: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C, T, V, M) -> (N, T, M V C) and (N, M V, T C)."""
    n, c, t, v, m = clips.shape
    frames, joints = clips.new_zeros(n, t, m * v * c), clips.new_zeros(n, m * v, t * c)
    for i, j, k, a in itertools.product(range(t), range(v), range(m), range(c)):
        frames[:, i, (k * v + j) * c + a] = clips[:, a, i, j, k]
        joints[:, k * v + j, i * c + a] = clips[:, a, i, j, k]
    return frames, joints


class Sine(nn.Module):
    """The table `tpe.pe` (1, 200, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        table = torch.zeros(1, 200, width)
        for p, i in itertools.product(range(200), range(width // 2)):
            phase = p * 10000 ** (-2 * i / width)
            table[0, p, 2 * i], table[0, p, 2 * i + 1] = math.sin(phase), math.cos(phase)
        self.register_buffer("pe", table)


class MlpTwice(nn.Module):
    """Two linear layers, exact GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class CA(nn.Module):
    """Convolutional attention; `attn` is set from outside."""

    def __init__(self, attn: nn.MultiheadAttention, width: int) -> None:
        super().__init__()
        self.attn = attn
        self.conv1 = nn.Conv1d(width, width, 1)
        self.norm1, self.norm2, self.mlp = nn.LayerNorm(width), nn.LayerNorm(width), MlpTwice(width)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm1(x + F.relu(self.conv1(x.transpose(1, 2))).transpose(1, 2))
        a = x + self.attn(z, z, z)[0]
        return self.mlp(self.norm2(a))


class DSA(nn.Module):
    """Dense-shift attention."""

    def __init__(self, attn: nn.MultiheadAttention, width: int, tokens: int, gap: int) -> None:
        super().__init__()
        self.wt1, self.wt2 = nn.Linear(tokens, tokens), nn.Linear(tokens, tokens)
        self.attn = attn
        self.norm1, self.norm2, self.mlp = nn.LayerNorm(width), nn.LayerNorm(width), MlpTwice(width)
        self.gap = gap

    def forward(self, x: Tensor) -> Tensor:
        h = x.transpose(1, 2)
        s = (self.wt2(F.relu(self.wt1(h))) + h).transpose(1, 2).clone()
        for token in range(0, x.shape[1], self.gap):
            s[:, token] = x[:, token]
        return (self.layer(s) + self.layer(x)) / 2

    def layer(self, v: Tensor) -> Tensor:
        z = self.norm1(v)
        v = v + self.attn(z, z, z)[0]
        return v + self.mlp(self.norm2(v))


class DST(nn.Module):
    """alpha CA + (1 - alpha) DSA, with one attention."""

    def __init__(self, width: int, heads: int, tokens: int, alpha: float, gap: int) -> None:
        super().__init__()
        attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.CA, self.DSA, self.alpha = CA(attn, width), DSA(attn, width, tokens, gap), alpha

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * self.CA(x) + (1 - self.alpha) * self.DSA(x)


class Embedding(nn.Module):
    """`ske_emb`."""

    def __init__(self, frame: int, path: int, width: int) -> None:
        super().__init__()
        self.t_embedding, self.s_embedding = (
            nn.Sequential(nn.Linear(c_in, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width))
            for c_in in (frame, path)
        )


class NaiveBackbone(nn.Module):
    """Either backbone, of ntu25 clips."""

    def __init__(
        self, backbone: str, *, frames: int, people: int, width: int, heads: int = 1, layers: int = 2, alpha: float = 0.5,
        gap: int = 4, modality: str = "joint",
    ) -> None:  # fmt: skip
        super().__init__()
        points = 25 * people
        self.spe = nn.Parameter(torch.randn(1, points, width))
        self.ske_emb = Embedding(3 * points, 3 * frames, width)
        self.tpe = Sine(width)
        self.modality, self.plain = modality, backbone == "sttr"
        if self.plain:
            layer = nn.TransformerEncoderLayer(width, heads, width, dropout=0.0, batch_first=True)
            self.t_tr, self.s_tr = (nn.TransformerEncoder(layer, layers, enable_nested_tensor=False) for _ in range(2))
        else:
            self.t_tr, self.s_tr = DST(width, heads, frames, alpha, gap), DST(width, heads, points, alpha, gap)
            self.t_tr1, self.s_tr1 = DST(width, heads, frames, alpha, gap), DST(width, heads, points, alpha, gap)

    def forward(self, clips: Tensor) -> Tensor:
        frames, joints = readings(stream(clips, self.modality))
        t, s = self.ske_emb.t_embedding(frames), self.ske_emb.s_embedding(joints)
        pe = self.tpe.pe[:, : t.shape[1]]
        if self.plain:
            t, s = self.t_tr(t + pe), self.s_tr(s + self.spe)
        else:
            t, s = self.t_tr1(self.t_tr(t + pe) + pe), self.s_tr1(self.s_tr(s + self.spe) + self.spe)
        return torch.cat([t.max(1).values, s.max(1).values], 1)


class NaiveUSDRL(nn.Module):
    """The classifier."""

    def __init__(self, backbone: str, classes: int, **sizes: object) -> None:
        super().__init__()
        self.backbone = NaiveBackbone(backbone, **sizes)  # type: ignore[arg-type]
        self.fc = nn.Linear(2 * self.backbone.spe.shape[-1], classes)

    def forward(self, clips: Tensor) -> Tensor:
        return self.fc(self.backbone(clips))


def naive_terms(z: Tensor) -> dict[str, Tensor]:
    """The three terms of projections (4, N, D) with every matrix made and every entry walked to."""
    _, n, d = z.shape
    off = ~torch.eye(d, dtype=torch.bool)
    centre = (z[0] + z[1] + z[2]) / 3
    sim = sum(F.mse_loss(z[i], z[3]) + F.mse_loss(z[i], centre) for i in range(3))
    vac = z.new_zeros(())
    for view in z:
        deviation = (view.var(0) + 1e-4).sqrt()
        vac = vac + 5 * F.relu(1 - deviation).mean() + torch.cov(view.T)[off].square().sum() / d
    scores = [(view - view.mean(0)) / view.std(0) for view in z]
    xcorr = z.new_zeros(())
    for a, b in itertools.combinations(scores, 2):
        correlation = a.T @ b / n
        xcorr = xcorr + (correlation.diagonal() - 1).square().sum() + 0.005 * correlation[off].square().sum()
    return {"sim": sim, "vac": vac, "xcorr": xcorr}
