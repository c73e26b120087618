"""MS-G3D again, slowly: one module per line of the specification, official parameter names, windows unfolded, nothing joined.

The judge of the lean network: both get the same weights (through `official.py`) and must give the same numbers in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from shared_data.skeletons import Skeleton
from tests.models.against_slow import NaiveTemporalConv


def k_adjacency(adjacency: np.ndarray, k: int) -> np.ndarray:
    """Exactly k hops, and oneself, by powers of the matrix."""
    identity = np.eye(len(adjacency))
    if k == 0:
        return identity
    near = [np.minimum(np.linalg.matrix_power(adjacency + identity, n), 1) for n in (k, k - 1)]
    return near[0] - near[1] + identity


def tables(skeleton: Skeleton, scales: int, window: int = 1) -> torch.Tensor:
    """(K*W*V, W*V): the normalised k-adjacencies of the graph, or of the window in which all frames are tied."""
    adjacency = np.zeros((skeleton.joints, skeleton.joints))
    for child, parent in skeleton.edges:
        adjacency[child, parent] = adjacency[parent, child] = 1
    if window > 1:
        adjacency = np.kron(np.ones((window, window)), adjacency + np.eye(skeleton.joints))
    rows = []
    for k in range(scales):
        near = k_adjacency(adjacency, k).astype(np.float32)
        root = np.float32(1) / np.sqrt(near.sum(1))
        rows.append(np.diag(root) @ near @ np.diag(root))
    return torch.from_numpy(np.concatenate(rows).astype(np.float32))


class NaiveMLP(nn.Module):
    def __init__(self, c_in: int, c_out: int, activate: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(c_in, c_out, 1), nn.BatchNorm2d(c_out)])
        self.activate = activate

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return torch.relu(x) if self.activate else x


class NaiveGraph(nn.Module):
    """All scales stacked: aggregate into K*C channels, k slowest, then mix."""

    def __init__(self, c_in, c_out, table, scales, activate) -> None:
        super().__init__()
        self.scales = scales
        self.register_buffer("table", table, persistent=False)
        self.A_res = nn.Parameter(torch.zeros_like(table))
        self.mlp = NaiveMLP(scales * c_in, c_out, activate)

    def forward(self, x):
        b, c, t, v = x.shape
        graph = (self.table + self.A_res).view(self.scales, v, v)
        return self.mlp(torch.einsum("kvu,bctu->bkctv", graph, x).reshape(b, self.scales * c, t, v))


class Unfold(nn.Module):
    """Token (w, v) of output frame t is x at frame t * stride + w - (W - 1) / 2, zero outside."""

    def __init__(self, window: int, stride: int) -> None:
        super().__init__()
        self.window, self.stride = window, stride

    def forward(self, x):
        frames = x.shape[2]
        out = []
        for start in range(0, frames, self.stride):
            numbers = [start + w - (self.window - 1) // 2 for w in range(self.window)]
            out.append(torch.cat([x[:, :, n] if 0 <= n < frames else torch.zeros_like(x[:, :, 0]) for n in numbers], -1))
        return torch.stack(out, 2)


class NaiveWindow(nn.Module):
    def __init__(self, c_in, c_out, skeleton, scales, window, stride) -> None:
        super().__init__()
        self.window = window
        inner = c_out if c_in == 3 else c_in
        graph = NaiveGraph(c_in, inner, tables(skeleton, scales, window), scales, activate=False)
        self.gcn3d = nn.Sequential(Unfold(window, stride), graph)
        self.out_conv = nn.Conv3d(inner, c_out, (1, window, 1))
        self.out_bn = nn.BatchNorm2d(c_out)

    def forward(self, x):
        y = torch.relu(self.gcn3d(x))
        y = y.view(*y.shape[:3], self.window, -1)
        return self.out_bn(self.out_conv(y).squeeze(3))


class NaiveWindows(nn.Module):
    def __init__(self, *sizes, windows) -> None:
        super().__init__()
        c_in, c_out, skeleton, scales, stride = sizes
        self.gcn3d = nn.ModuleList(NaiveWindow(c_in, c_out, skeleton, scales, window, stride) for window in windows)

    def forward(self, x):
        return sum(path(x) for path in self.gcn3d)


class NaiveTemporal(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int = 1, activate: bool = True) -> None:
        super().__init__()
        c, self.activate = c_out // 6, activate
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c_in, c, 1), nn.BatchNorm2d(c), nn.ReLU(), NaiveTemporalConv(c, c, 3, stride, d))
            for d in (1, 2, 3, 4)
        )
        pool = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        self.branches.append(nn.Sequential(nn.Conv2d(c_in, c, 1), nn.BatchNorm2d(c), nn.ReLU(), pool, nn.BatchNorm2d(c)))
        self.branches.append(nn.Sequential(nn.Conv2d(c_in, c, 1, (stride, 1)), nn.BatchNorm2d(c)))
        self.residual = nn.Identity() if c_in == c_out and stride == 1 else NaiveTemporalConv(c_in, c_out, 1, stride)

    def forward(self, x):
        y = torch.cat([branch(x) for branch in self.branches], 1) + self.residual(x)
        return torch.relu(y) if self.activate else y


class NaiveMSG3D(nn.Module):
    def __init__(self, num_classes, skeleton, people, scales, windows=(3, 5), width=96, in_channels=3) -> None:
        super().__init__()
        self.width = width
        self.data_bn = nn.BatchNorm1d(people * in_channels * skeleton.joints)
        plan = ((in_channels, width, width, 1), (width, width, 2 * width, 2), (2 * width, 2 * width, 4 * width, 2))
        for i, (c_in, c_graph, c_out, stride) in enumerate(plan, 1):
            graph = NaiveGraph(c_in, c_graph, tables(skeleton, scales[0]), scales[0], activate=True)
            self.add_module(f"gcn3d{i}", NaiveWindows(c_in, c_out, skeleton, scales[1], stride, windows=windows))
            temporal = NaiveTemporal(c_graph, c_out, stride), NaiveTemporal(c_out, c_out, activate=False)
            self.add_module(f"sgcn{i}", nn.Sequential(graph, *temporal))
            self.add_module(f"tcn{i}", NaiveTemporal(c_out, c_out))
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x):
        n, c, t, v, m = x.shape
        x = self.data_bn(x.permute(0, 4, 3, 1, 2).reshape(n, m * v * c, t))
        x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        for i in (1, 2, 3):
            x = torch.relu(getattr(self, f"sgcn{i}")(x) + getattr(self, f"gcn3d{i}")(x))
            x = getattr(self, f"tcn{i}")(x)
        return self.fc(x.view(n, m, 4 * self.width, -1).mean(3).mean(1))
