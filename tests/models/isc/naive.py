"""Skeleton-Contrastive's encoders again, slowly: one line per line of the specification, official names, no fusing of anything.

The judges of the lean networks: both get the same weights (through `official.py`) and must give the same numbers in float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from shared_data.skeletons import Skeleton
from tests.models.against_slow import NaiveTemporalConv


class NaiveRecurrence(nn.Module):
    def __init__(self, numbers: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.gru = nn.GRU(numbers, hidden, layers, batch_first=True, bidirectional=True)

    def forward(self, x):
        state = None
        for frame in x.unbind(1):  # one call a frame: the "reverse" direction never sees a later one
            out, state = self.gru(frame.unsqueeze(1), state)
        return out[:, 0]


class NaiveBiGRU(nn.Module):
    def __init__(self, num_class: int, skeleton: Skeleton, people: int, hidden: int = 1024, layers: int = 3) -> None:
        super().__init__()
        self.encoder = NaiveRecurrence(skeleton.joints * 3 * people, hidden, layers)
        self.fc = nn.Linear(2 * hidden, num_class)

    def forward(self, x):
        n, c, t, v, m = x.shape
        rows = torch.empty(n, t, v * c * m, dtype=x.dtype)
        for joint in range(v):
            for coordinate in range(c):
                for person in range(m):
                    rows[:, :, joint * c * m + coordinate * m + person] = x[:, coordinate, :, joint, person]
        return self.fc(self.encoder(rows))


def _conv(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2))


class NaiveHCN(nn.Module):
    def __init__(self, num_class: int, skeleton: Skeleton, people: int, width: int = 64, frames: int = 64) -> None:
        super().__init__()
        for m in ("", "m"):
            self.add_module(f"conv1{m}", _conv(3, width, 1))
            self.add_module(f"conv2{m}", nn.Conv2d(width, frames, (3, 1), padding=(1, 0)))
            self.add_module(f"conv3{m}", _conv(skeleton.joints, width // 2, 3))
            self.add_module(f"conv4{m}", _conv(width // 2, width, 3))
        self.conv5, self.conv6 = _conv(2 * width, 2 * width, 3), _conv(2 * width, 4 * width, 3)
        self.fc = nn.Linear(4 * width * (frames // 16) ** 2, num_class)

    def branch(self, x, m):
        x = getattr(self, f"conv2{m}")(torch.relu(getattr(self, f"conv1{m}")(x))).permute(0, 3, 2, 1)
        x = F.max_pool2d(getattr(self, f"conv3{m}")(x), 2)
        return F.max_pool2d(getattr(self, f"conv4{m}")(x), 2)

    def forward(self, x):
        n, c, t, v, m = x.shape
        packed = (x[:, :, 1:] - x[:, :, :-1]).permute(0, 1, 4, 2, 3).reshape(n, c * m, t - 1, v)
        moved = F.interpolate(packed, (t, v), mode="bilinear", align_corners=False)
        moved = moved.view(n, c, m, t, v).permute(0, 1, 3, 4, 2)
        people = []
        for person in range(m):
            y = torch.cat([self.branch(x[..., person], ""), self.branch(moved[..., person], "m")], 1)
            y = F.max_pool2d(torch.relu(self.conv5(y)), 2)
            people.append(F.max_pool2d(torch.relu(self.conv6(y)), 2).flatten(1))
        return self.fc(torch.stack(people).max(0).values)


def naive_adjacency(skeleton: Skeleton) -> torch.Tensor:
    v = skeleton.joints
    maps = torch.zeros(3, v, v)
    for joint in range(v):
        maps[0, joint, joint] = 1.0
    for child, parent in skeleton.edges:
        maps[1, parent, child] = 1.0 / sum(other == child for other, _ in skeleton.edges)
        maps[2, child, parent] = 1.0 / sum(other == parent for _, other in skeleton.edges)
    return maps


class NaiveGraph(nn.Module):
    def __init__(self, c_in: int, c_out: int, maps: torch.Tensor) -> None:
        super().__init__()
        self.maps = maps
        self.PA = nn.Parameter(torch.full_like(maps, 1e-6))
        e = c_out // 4
        self.conv_a = nn.ModuleList(nn.Conv2d(c_in, e, 1) for _ in range(3))
        self.conv_b = nn.ModuleList(nn.Conv2d(c_in, e, 1) for _ in range(3))
        self.conv_d = nn.ModuleList(nn.Conv2d(c_in, c_out, 1) for _ in range(3))
        if c_in != c_out:
            self.down = nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.BatchNorm2d(c_out))
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x):
        y = 0
        for i in range(3):
            theta, phi = self.conv_a[i](x), self.conv_b[i](x)
            alike = torch.einsum("nctu,nctv->nuv", theta, phi) / (theta.shape[1] * theta.shape[2])
            graph = self.maps[i].to(x) + self.PA[i] + alike.softmax(-2)
            y = y + self.conv_d[i](torch.einsum("nctu,nuv->nctv", x, graph))
        return torch.relu(self.bn(y) + (self.down(x) if hasattr(self, "down") else x))


class NaiveBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, maps: torch.Tensor, first: bool) -> None:
        super().__init__()
        self.gcn1 = NaiveGraph(c_in, c_out, maps)
        self.tcn1 = NaiveTemporalConv(c_out, c_out, 9, stride)
        self.first = first
        if not first and c_in != c_out:
            self.residual = NaiveTemporalConv(c_in, c_out, 1, stride)

    def forward(self, x):
        y = self.tcn1(self.gcn1(x))
        if not self.first:
            y = y + (self.residual(x) if hasattr(self, "residual") else x)
        return torch.relu(y)


class NaiveAGCN(nn.Module):
    def __init__(self, num_class: int, skeleton: Skeleton, people: int, width: int = 64) -> None:
        super().__init__()
        maps, w = naive_adjacency(skeleton), width
        self.data_bn = nn.BatchNorm1d(people * 3 * skeleton.joints)
        widths = [(3, w, 1), *[(w, w, 1)] * 3]
        widths += [(w, 2 * w, 2), *[(2 * w, 2 * w, 1)] * 2, (2 * w, 4 * w, 2), *[(4 * w, 4 * w, 1)] * 2]
        for i, (c_in, c_out, stride) in enumerate(widths, 1):
            self.add_module(f"l{i}", NaiveBlock(c_in, c_out, stride, maps, i == 1))
        self.fc = nn.Linear(4 * w, num_class)

    def forward(self, x):
        n, c, t, v, m = x.shape
        x = self.data_bn(x.permute(0, 4, 3, 1, 2).reshape(n, m * v * c, t))
        x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        for i in range(1, 11):
            x = getattr(self, f"l{i}")(x)
        return self.fc(x.view(n, m, x.shape[1], -1).mean(3).mean(1))
