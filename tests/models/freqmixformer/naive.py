"""FreqMixFormer again, slowly: one module per line of the specification, official parameter names, no fusing of anything.

The judge of the lean network: both get the same weights (through `official.py`) and must give the same numbers in float64. Its
trees are written down here once more, and its transforms are those of torch-dct on full tensors.
"""

from __future__ import annotations

import torch
import torch_dct
from torch import nn

from tests.models.against_slow import NaiveTemporalConv

# Pairs (parent, child), 1-based, as the official graph lists them; for 20 joints CTR-GCN's tree, turned the same way.
NTU_PAIRS = (
    (2, 1), (2, 21), (21, 3), (3, 4), (21, 5), (5, 6), (6, 7), (7, 8), (8, 23), (23, 22), (21, 9), (9, 10), (10, 11), (11, 12),
    (12, 25), (25, 24), (1, 13), (13, 14), (14, 15), (15, 16), (1, 17), (17, 18), (18, 19), (19, 20),
)  # fmt: skip
UCLA_PAIRS = (
    (2, 1), (3, 2), (3, 4), (3, 5), (5, 6), (6, 7), (7, 8), (3, 9), (9, 10), (10, 11), (11, 12), (1, 13), (13, 14), (14, 15),
    (15, 16), (1, 17), (17, 18), (18, 19), (19, 20),
)  # fmt: skip
PAIRS = {25: NTU_PAIRS, 20: UCLA_PAIRS}


def edges(pairs, joints: int) -> torch.Tensor:
    """E[b, a] = 1 for every pair (a, b), columns divided by their sums."""
    matrix = torch.zeros(joints, joints, dtype=torch.float64)
    for a, b in pairs:
        matrix[b - 1, a - 1] = 1.0
    return matrix / matrix.sum(0).clamp(min=1.0)


def adjacency(joints: int) -> torch.Tensor:
    inward = edges(PAIRS[joints], joints)
    outward = edges([(b, a) for a, b in PAIRS[joints]], joints)
    return torch.stack([torch.eye(joints, dtype=torch.float64), inward, outward]).float()


def joint_transform(joints: int, hop: int) -> torch.Tensor:
    """I - A_o^k with A_o[child, parent] = 1."""
    step = torch.zeros(joints, joints, dtype=torch.float64)
    for parent, child in PAIRS[joints]:
        step[child - 1, parent - 1] = 1.0
    return torch.eye(joints, dtype=torch.float64) - torch.linalg.matrix_power(step, hop)


class NaiveSpaAtt(nn.Module):
    def __init__(self, channels: int, joints: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(joints, joints)


def halves(z):
    """Q and K of (B, q, T, V): means over half the channels and all frames."""
    first, second = z.chunk(2, 1)
    return first.mean((1, 2)), second.mean((1, 2))


def attend(a, b):
    return torch.softmax(a.relu().unsqueeze(2) * b.relu().unsqueeze(1), 2)


class NaiveSpatial(nn.Module):
    def __init__(self, c_in: int, c_out: int, joints: int, split: int) -> None:
        super().__init__()
        fixed = adjacency(joints)
        self.split = split
        self.register_buffer("A_SE", fixed, persistent=False)
        self.alpha = nn.Parameter(torch.ones(1))
        self.A_GEME = nn.Parameter(fixed.unsqueeze(1).repeat(1, 8, 1, 1))
        self.linear = nn.Linear(joints, joints)
        self.Spa_Att = NaiveSpaAtt(c_out // 4, joints)
        self.ChaRef_conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.conv = nn.Conv2d(c_in, 3 * c_out, 1)
        self.down = nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.BatchNorm2d(c_out)) if c_in != c_out else nn.Identity()
        self.fc = nn.Linear(2 * joints, joints)
        self.bn = nn.BatchNorm2d(c_out)

    def maps(self, groups):
        """Self maps and cross maps of four (B, q, T, V)."""
        pairs = [halves(z) for z in groups]
        own = [attend(self.Spa_Att.linear(q), self.Spa_Att.linear(k)) for q, k in pairs]
        cross = [attend(self.linear(pairs[g][1]), self.linear(pairs[g + 1][0])) for g in range(3)]
        return own, cross

    @staticmethod
    def mixed(own, cross, g):
        total = own[g] / 2
        if g > 0:
            total = total + cross[g - 1] / 4
        if g < 3:
            total = total + cross[g] / 4
        return total

    def forward(self, x):
        b, _, t, v = x.shape
        m = self.conv(x).view(b, 3, -1, t, v)
        c = m.shape[2]
        graphs = []
        for i in range(3):
            groups = m[:, i].chunk(4, 1)
            own, cross = self.maps(groups)
            own_f, cross_f = self.maps([torch_dct.dct(z) for z in groups])
            scale = torch.ones(v, dtype=x.dtype) * 0.5
            scale[self.split :] = 1.5
            cross_f = [a * scale for a in cross_f]
            both = [(self.mixed(own, cross, g) + torch_dct.idct(self.mixed(own_f, cross_f, g))) / 2 for g in range(4)]
            fixed = [self.A_SE[i] + self.A_GEME[i, pattern] for pattern in range(8)]
            graphs += [both[channel // (c // 4)] + fixed[channel % 8] for channel in range(c)]
        final = torch.stack(graphs, 1).view(b, 3, c, v, v)
        y = torch.einsum("nkctv,nkcvw->nctw", m, final)
        gate = self.ChaRef_conv(y.mean((2, 3)).unsqueeze(1)).sigmoid().view(b, c, 1, 1)
        return torch.relu(self.bn(y + y * gate) + self.down(x))


class NaiveTemTrans(nn.Module):
    def __init__(self, channels: int, c: int, stride: int, frames: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, c, 1, (stride, 1))
        self.bn = nn.BatchNorm2d(c)
        self.linear = nn.Linear(frames, frames)

    def forward(self, x):
        h = self.conv(x)
        first, second = h.chunk(2, 1)
        q = self.linear(first.mean(3).mean(1)).relu()
        k = self.linear(second.max(3).values.max(1).values).relu()
        attention = torch.sigmoid(torch.einsum("bt,bm->btm", q, k))
        return self.bn(torch.einsum("bctv,btm->bcmv", h, attention))


class NaiveTemSeq(nn.Module):
    def __init__(self, channels: int, c: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, c, 1, (stride, 1))
        self.bn = nn.BatchNorm2d(c)
        self.combine_conv = nn.Conv2d(2, 1, 1)

    def forward(self, x):
        h = self.conv(x)
        b, c, t, v = h.shape
        flat = h.permute(0, 2, 1, 3).reshape(b, t, c * v)
        both = torch.stack([flat.mean(2), flat.max(2).values], 1).unsqueeze(3)
        return h * self.combine_conv(both).sigmoid()


class NaiveTemporal(nn.Module):
    def __init__(self, channels: int, stride: int, frames: int) -> None:
        super().__init__()
        c = channels // 5
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, c, 1), nn.BatchNorm2d(c), nn.ReLU(), NaiveTemporalConv(c, c, 5, stride, d))
            for d in (1, 2)
        )
        pool = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        self.branches.append(nn.Sequential(nn.Conv2d(channels, c, 1), nn.BatchNorm2d(c), nn.ReLU(), pool, nn.BatchNorm2d(c)))
        self.branches.append(nn.Sequential(NaiveTemTrans(channels, c, stride, frames), nn.BatchNorm2d(c)))
        self.branches.append(nn.Sequential(NaiveTemSeq(channels, c, stride), nn.BatchNorm2d(c)))

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class NaiveBlock(nn.Module):
    def __init__(self, c_in, c_out, stride, joints, split, frames, first) -> None:
        super().__init__()
        self.first, self.same = first, c_in == c_out and stride == 1
        self.spa_mixf = NaiveSpatial(c_in, c_out, joints, split)
        self.tem_mixf = NaiveTemporal(c_out, stride, frames)
        if not first and not self.same:
            self.residual = NaiveTemporalConv(c_in, c_out, 1, stride)

    def forward(self, x):
        y = self.tem_mixf(self.spa_mixf(x))
        if not self.first:
            y = y + (x if self.same else self.residual(x))
        return torch.relu(y)


class NaiveFreqMixFormer(nn.Module):
    def __init__(self, num_classes: int, joints: int, people: int, frames: int, *, hop: int = 8, split: int = 13) -> None:
        super().__init__()
        self.transform = joint_transform(joints, hop)
        self.pos_embedding = nn.Parameter(torch.randn(1, joints, 80))
        self.data_bn = nn.BatchNorm1d(people * 80 * joints)
        self.to_joint_embedding = nn.Linear(3, 80)
        widths = [*[(80, 80, 1)] * 4, (80, 160, 2), *[(160, 160, 1)] * 2, (160, 320, 2), *[(320, 320, 1)] * 2]
        for i, (c_in, c_out, stride) in enumerate(widths, 1):
            frames //= stride
            self.add_module(f"l{i}", NaiveBlock(c_in, c_out, stride, joints, split, frames, i == 1))
        self.fc = nn.Linear(320, num_classes)
        self.first_tram = nn.Sequential(nn.AvgPool2d((4, 1)), nn.Conv2d(80, 320, 1), nn.BatchNorm2d(320), nn.ReLU())
        self.second_tram = nn.Sequential(nn.AvgPool2d((2, 1)), nn.Conv2d(160, 320, 1), nn.BatchNorm2d(320), nn.ReLU())

    def forward(self, x):
        n, c, t, v, m = x.shape
        x = x.permute(0, 4, 2, 3, 1).reshape(n * m * t, v, c)
        x = self.to_joint_embedding(self.transform.to(x.dtype) @ x) + self.pos_embedding
        x = x.view(n, m, t, v, 80).permute(0, 1, 3, 4, 2).reshape(n, m * v * 80, t)
        x = self.data_bn(x).view(n, m, v, 80, t).permute(0, 1, 3, 4, 2).reshape(n * m, 80, t, v)
        kept = {}
        for i in range(1, 11):
            x = kept[i] = getattr(self, f"l{i}")(x)
        x = x + self.first_tram(kept[4]) + self.second_tram(kept[7])
        return self.fc(x.view(n, m, 320, -1).mean(3).mean(1))
