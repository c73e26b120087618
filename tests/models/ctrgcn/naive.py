"""CTR-GCN again, slowly: one module per line of the specification, official parameter names, no fusing of anything.

The judge of the lean network: both get the same weights (through `official.py`) and must give the same numbers in float64.
"""

from __future__ import annotations

import torch
from torch import nn

from shared_data.skeletons import Skeleton
from shared_data.skeletons.spatial import spatial_adjacency
from tests.models.against_slow import NaiveTemporalConv


class NaiveRefinement(nn.Module):
    """One subset: mean over time *after* the convolutions, the map refined channel by channel."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        r = 8 if c_in in (3, 9) else c_in // 8
        self.conv1 = nn.Conv2d(c_in, r, 1)
        self.conv2 = nn.Conv2d(c_in, r, 1)
        self.conv3 = nn.Conv2d(c_in, c_out, 1)
        self.conv4 = nn.Conv2d(r, c_out, 1)

    def forward(self, x, adjacency, alpha):
        p, q = self.conv1(x).mean(2), self.conv2(x).mean(2)
        difference = torch.tanh(p.unsqueeze(-1) - q.unsqueeze(-2))
        graph = self.conv4(difference) * alpha + adjacency
        return torch.einsum("ncuv,nctv->nctu", graph, self.conv3(x))


class NaiveGraph(nn.Module):
    def __init__(self, c_in: int, c_out: int, adjacency: torch.Tensor, adaptive: bool) -> None:
        super().__init__()
        if adaptive:
            self.PA = nn.Parameter(adjacency.clone())
        else:
            self.register_buffer("PA", adjacency.clone(), persistent=False)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.convs = nn.ModuleList(NaiveRefinement(c_in, c_out) for _ in range(3))
        self.down = nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.BatchNorm2d(c_out)) if c_in != c_out else nn.Identity()
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x):
        y = sum(self.convs[i](x, self.PA[i], self.alpha) for i in range(3))
        return torch.relu(self.bn(y) + self.down(x))


class NaiveTemporal(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        c = channels // 4
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, c, 1), nn.BatchNorm2d(c), nn.ReLU(), NaiveTemporalConv(c, c, 5, stride, d))
            for d in (1, 2)
        )
        pool = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        self.branches.append(nn.Sequential(nn.Conv2d(channels, c, 1), nn.BatchNorm2d(c), nn.ReLU(), pool, nn.BatchNorm2d(c)))
        self.branches.append(nn.Sequential(nn.Conv2d(channels, c, 1, (stride, 1)), nn.BatchNorm2d(c)))

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class NaiveBlock(nn.Module):
    def __init__(self, c_in, c_out, stride, adjacency, adaptive, first) -> None:
        super().__init__()
        self.first, self.same = first, c_in == c_out and stride == 1
        self.gcn1 = NaiveGraph(c_in, c_out, adjacency, adaptive)
        self.tcn1 = NaiveTemporal(c_out, stride)
        if not first and not self.same:
            self.residual = NaiveTemporalConv(c_in, c_out, 1, stride)

    def forward(self, x):
        y = self.tcn1(self.gcn1(x))
        if not self.first:
            y = y + (x if self.same else self.residual(x))
        return torch.relu(y)


class NaiveCTRGCN(nn.Module):
    def __init__(self, num_classes: int, skeleton: Skeleton, people: int, adaptive: bool = True) -> None:
        super().__init__()
        adjacency = torch.from_numpy(spatial_adjacency(skeleton))
        self.data_bn = nn.BatchNorm1d(people * 3 * skeleton.joints)
        widths = [(3, 64, 1), *[(64, 64, 1)] * 3, (64, 128, 2), *[(128, 128, 1)] * 2, (128, 256, 2), *[(256, 256, 1)] * 2]
        for i, (c_in, c_out, stride) in enumerate(widths, 1):
            self.add_module(f"l{i}", NaiveBlock(c_in, c_out, stride, adjacency, adaptive, i == 1))
        self.fc = nn.Linear(256, num_classes)

    def forward(self, x):
        n, c, t, v, m = x.shape
        x = self.data_bn(x.permute(0, 4, 3, 1, 2).reshape(n, m * v * c, t))
        x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        for i in range(1, 11):
            x = getattr(self, f"l{i}")(x)
        return self.fc(x.view(n, m, 256, -1).mean(3).mean(1))
