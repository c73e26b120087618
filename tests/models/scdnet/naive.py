"""SCD-Net again, slowly: a module per line of the specification, official names, torch's own transformer, loops in the objective.

The judge of the lean network and its objective: both get the same weights (through `official.py`) and must give the same numbers.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from shared_data.skeletons import Skeleton
from shared_data.skeletons.spatial import spatial_adjacency
from tests.models.ctrgcn.naive import NaiveBlock


class NaiveStem(nn.Module):
    def __init__(self, skeleton: Skeleton, people: int) -> None:
        super().__init__()
        adjacency = torch.from_numpy(spatial_adjacency(skeleton))
        self.data_bn = nn.BatchNorm1d(people * 3 * skeleton.joints)
        self.l1 = NaiveBlock(3, 64, 1, adjacency, True, True)
        self.l2 = NaiveBlock(64, 256, 1, adjacency, True, False)
        self.l3 = NaiveBlock(256, 64, 1, adjacency, True, False)

    def forward(self, x):
        n, c, t, v, m = x.shape
        x = self.data_bn(x.permute(0, 4, 3, 1, 2).reshape(n, m * v * c, t))
        x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        return self.l3(self.l2(self.l1(x))).view(n, m, 64, t, v)


class NaiveEncoder(nn.Module):
    def __init__(self, skeleton: Skeleton, people: int, frames: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.gcn_t, self.gcn_s = NaiveStem(skeleton, people), NaiveStem(skeleton, people)
        for name, token in (("t", people * skeleton.joints * 64), ("s", frames * 64)):
            mlp = nn.Sequential(nn.Linear(token, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width))
            self.add_module(f"channel_{name}", mlp)
        for name in "ts":
            layer = nn.TransformerEncoderLayer(width, heads, width, dropout=0.0, batch_first=True)
            self.add_module(f"{name}_encoder", nn.TransformerEncoder(layer, layers, enable_nested_tensor=False))

    def forward(self, x):
        n, _, t, v, m = x.shape
        frames = self.gcn_t(x).permute(0, 3, 1, 4, 2).reshape(n, t, m * v * 64)
        joints = self.gcn_s(x).permute(0, 1, 4, 3, 2).reshape(n, m * v, t * 64)
        vt = self.t_encoder(self.channel_t(frames)).max(1).values
        return vt, self.s_encoder(self.channel_s(joints)).max(1).values


class NaiveClassifier(nn.Module):
    def __init__(self, num_classes: int, *size) -> None:
        super().__init__()
        self.encoder = NaiveEncoder(*size)
        self.fc = nn.Linear(2 * size[3], num_classes)

    def forward(self, x):
        return self.fc(torch.cat(self.encoder(x), 1))


class NaiveBranch(nn.Module):
    def __init__(self, dim: int, *size) -> None:
        super().__init__()
        width = size[3]
        self.encoder = NaiveEncoder(*size)
        for name, given in (("t", width), ("s", width), ("i", 2 * width)):
            self.add_module(f"{name}_proj", nn.Sequential(nn.Linear(given, width), nn.ReLU(), nn.Linear(width, dim)))

    def forward(self, x):
        vt, vs = self.encoder(x)
        return self.t_proj(vt), self.s_proj(vs), self.i_proj(torch.cat([vt, vs], 1))


class NaiveObjective(nn.Module):
    """Two branches and three queues, called as one official step does it: the momentum, the loss, the new keys."""

    def __init__(self, dim: int, queue_size: int, momentum: float, temperature: float, *size) -> None:
        super().__init__()
        self.momentum, self.temperature = momentum, temperature
        self.encoder_q = NaiveBranch(dim, *size)
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        for name in "tsi":
            self.register_buffer(f"{name}_queue", nn.functional.normalize(torch.randn(dim, queue_size), dim=0))
            self.register_buffer(f"{name}_queue_ptr", torch.zeros(1, dtype=torch.int64))

    def forward(self, one, other):
        """(total, the four terms); the keys have entered the queues."""
        with torch.no_grad():
            for k, q in zip(self.encoder_k.parameters(), self.encoder_q.parameters(), strict=True):
                k.copy_(k * self.momentum + q * (1 - self.momentum))
            kt, ks, ki = map(self.unit, self.encoder_k(other))
        qt, qs, qi = map(self.unit, self.encoder_q(one))
        terms = [
            self.contrast(qt, ki, self.i_queue.clone()), self.contrast(qs, ki, self.i_queue.clone()),
            self.contrast(qi, kt, self.t_queue.clone()), self.contrast(qi, ks, self.s_queue.clone()),
        ]  # fmt: skip
        for name, keys in (("t", kt), ("s", ks), ("i", ki)):
            queue, pointer = getattr(self, f"{name}_queue"), getattr(self, f"{name}_queue_ptr")
            for key in keys:
                queue[:, int(pointer)] = key
                pointer.copy_((pointer + 1) % queue.shape[1])
        return sum(terms), terms

    @staticmethod
    def unit(x):
        return torch.stack([row / row.square().sum().sqrt() for row in x])

    def contrast(self, queries, keys, queue):
        losses = []
        for query, key in zip(queries, keys, strict=True):
            positive = torch.dot(query, key) / self.temperature
            negatives = [torch.dot(query, queue[:, i]) / self.temperature for i in range(queue.shape[1])]
            losses.append(-torch.log(positive.exp() / (positive.exp() + sum(n.exp() for n in negatives))))
        return sum(losses) / len(losses)


def official_sizes(width: int, heads: int, layers: int, last: int) -> dict[str, int]:
    """The words of the official constructors."""
    return {"hidden_size": width, "num_head": heads, "num_layer": layers, "num_class": last}


def uniform_bound(weight: torch.Tensor) -> float:
    """The largest value that Xavier's uniform distribution gives a matrix."""
    return math.sqrt(6.0 / sum(weight.shape))
