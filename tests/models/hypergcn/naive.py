"""Hyper-GCN again, slowly: one module per line of the specification, official parameter names, no fusing of anything.

The judge of the lean network: both get the same weights (through `official.py`) and must give the same numbers in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared_data.skeletons import Skeleton
from tests.models.against_slow import NaiveTemporalConv

FINGERS = {21: 7, 22: 7, 23: 11, 24: 11}  # of NTU-25, on the hand


def adjacency(skeleton: Skeleton, h: int) -> Tensor:
    """(8, V + h, V + h) by the sentences of section 2."""
    v = skeleton.joints
    graph = torch.zeros(v + h, v + h)
    for child, parent in skeleton.edges:
        hand = FINGERS.get(child, parent) if v == 25 else parent
        graph[child, hand] = graph[hand, child] = 1
    for k in range(v, v + h):
        for joint in range(v):
            graph[k, joint] = graph[joint, k] = 1
    for node in range(v + h):
        graph[node, node] = 1
    return torch.stack([graph] * 8)


class NaiveGraph(nn.Module):
    def __init__(self, c_in: int, c_out: int, start: Tensor, h: int) -> None:
        super().__init__()
        hidden = 8 * (c_in // 8 // 4)
        self.hyper_joint = nn.Parameter(torch.randn(h, c_in))
        self.alpha = nn.Parameter(torch.ones(1))
        self.PA = nn.Parameter(start.clone(), requires_grad=False)
        self.edge_importance = nn.Parameter(torch.ones_like(start))
        self.to_V = nn.Conv1d(c_in, hidden, 1, groups=8)
        self.to_W = nn.Sequential(nn.Conv1d(c_in, hidden, 1, groups=8), nn.LeakyReLU(0.01), nn.Conv1d(hidden, 8, 1), nn.Tanh())
        self.conv_d = nn.Conv2d(c_in, c_out, 1, groups=8)
        self.down = nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.BatchNorm2d(c_out)) if c_in != c_out else nn.Identity()
        self.bn = nn.BatchNorm2d(c_out)

    def incidence(self, places: Tensor) -> Tensor:
        """(B, 8, P, d) -> H (B, 8, P, P)."""
        distance = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")
        values, chosen = distance.topk(9, largest=False)
        return torch.zeros_like(distance).scatter(-1, chosen, torch.softmax(-values, -1))

    def hyper_graph(self, h: Tensor, w: Tensor) -> Tensor:
        """H and W -> G with explicit diagonal matrices."""
        weighted = h @ torch.diag_embed(w)
        rows = torch.diag_embed(1 / (weighted.abs().sum(-1) + 1e-8))
        columns = torch.diag_embed(1 / (h.abs().sum(-2) + 1e-8))
        return rows @ weighted @ torch.diag_embed(w) @ columns @ h.transpose(-1, -2)

    def matrix(self, x: Tensor) -> Tensor:
        """(B, C_in, T, P) -> A (B, 8, P, P)."""
        fixed = self.edge_importance * self.PA
        fixed = fixed / (fixed.abs().sum(2, keepdim=True) + 1e-8)
        mean = x.mean(2)
        places = self.to_V(mean).view(len(x), 8, -1, x.shape[3]).transpose(2, 3)
        return fixed + torch.relu(self.alpha) * self.hyper_graph(self.incidence(places), self.to_W(mean))

    def forward(self, x):
        b, _, t, v = x.shape
        virtual = self.hyper_joint.t()[None, :, None].expand(b, -1, t, -1)
        nodes = torch.cat([x, virtual], 3)
        z = self.conv_d(nodes).view(b, 8, -1, t, nodes.shape[3])
        y = torch.einsum("nsuv,nsctv->nsctu", self.matrix(nodes), z).reshape(b, -1, t, nodes.shape[3])[..., :v]
        return torch.relu(self.bn(y) + self.down(x))


class NaiveTemporal(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        c, ends = channels // 4, "replicate"
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, c, 1), nn.BatchNorm2d(c), nn.ReLU(), NaiveTemporalConv(c, c, 5, stride, d, ends))
            for d in (1, 2)
        )
        pool = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        self.branches.append(nn.Sequential(nn.Conv2d(channels, c, 1), nn.BatchNorm2d(c), nn.ReLU(), pool, nn.BatchNorm2d(c)))
        self.branches.append(nn.Sequential(nn.Conv2d(channels, c, 1, (stride, 1)), nn.BatchNorm2d(c)))

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class NaiveBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, start: Tensor, h: int) -> None:
        super().__init__()
        self.gcn1 = NaiveGraph(c_in, c_out, start, h)
        self.tcn1 = NaiveTemporal(c_out, stride)
        if c_in != c_out or stride != 1:
            self.residual = NaiveTemporalConv(c_in, c_out, 1, stride)

    def forward(self, x):
        residual = self.residual(x) if hasattr(self, "residual") else x
        return torch.relu(self.tcn1(self.gcn1(x)) + residual)


class NaiveHyperGCN(nn.Module):
    def __init__(self, num_classes: int, skeleton: Skeleton, people: int, size: str = "base", h: int = 3) -> None:
        super().__init__()
        start, wide = adjacency(skeleton, h), {"base": 256, "large": 512}[size]
        self.pos_embedding = nn.Parameter(torch.randn(1, skeleton.joints, 128))
        self.data_bn = nn.BatchNorm1d(people * skeleton.joints * 128)
        self.to_joint_embedding = nn.Linear(3, 128)
        widths = [*[(128, 128, 1)] * 3, (128, 256, 2), *[(256, 256, 1)] * 2, (256, wide, 2), *[(wide, wide, 1)] * 2]
        for i, (c_in, c_out, stride) in enumerate(widths, 1):
            self.add_module(f"l{i}", NaiveBlock(c_in, c_out, stride, start, h))
        self.fc = nn.Linear(wide, num_classes)

    def forward(self, x):
        n, _, t, v, m = x.shape
        x = torch.tanh(self.to_joint_embedding(x.permute(0, 4, 2, 3, 1)) + self.pos_embedding)
        x = self.data_bn(x.permute(0, 1, 3, 4, 2).reshape(n, m * v * 128, t))
        x = x.view(n, m, v, 128, t).permute(0, 1, 3, 4, 2).reshape(n * m, 128, t, v)
        outs = []
        for i in range(1, 10):
            x = getattr(self, f"l{i}")(x + outs[-2] if i in (3, 6, 9) else x)
            outs.append(x)
        return self.fc(x.mean((2, 3)).view(n, m, -1).mean(1))

    def divergence(self) -> Tensor:
        """Section 6, pair by pair."""
        total = torch.zeros((), dtype=self.fc.weight.dtype)
        for i in range(1, 10):
            rows = getattr(self, f"l{i}").gcn1.hyper_joint
            pairs = [torch.relu(a @ b / (a.norm() * b.norm() + 1e-8)) for a in rows for b in rows]
            total = total + (sum(pairs) - len(rows)) / (len(rows) * (len(rows) - 1)) / 9
        return total
