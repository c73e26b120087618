"""A multi-layer perceptron on statistics of each coordinate: knows where joints are and how they move, but nothing of a body."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

SEGMENTS = 8
HIDDEN = 256


class MLP(nn.Module):
    """Clips to class scores by ten numbers per coordinate.

    Every coordinate of every joint and person is standardised by running statistics of the training clips, then described by its
    mean in each of `SEGMENTS` equal parts of the clip, its mean absolute deviation and its mean absolute change from frame to
    frame. Two hidden layers with LayerNorm follow; they do not look at other clips, so batches of any size train.
    """

    def __init__(self, num_classes: int, *, coordinates: int, dropout: float) -> None:
        """`coordinates` = M * V * C; `dropout` is the rate behind each hidden layer."""
        super().__init__()
        self.standardise = nn.BatchNorm1d(coordinates, affine=False)
        widths = [coordinates * (SEGMENTS + 2), HIDDEN, HIDDEN]
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(widths):
            layers += [nn.Linear(wide, narrow), nn.LayerNorm(narrow), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(HIDDEN, num_classes))

    @property
    def fc(self) -> nn.Module:
        """The layer that makes the scores, by the name that it has in the ST-GCN."""
        return self.layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, V, M) -> (N, K)."""
        x = self.standardise(rearrange(x, "n c t v m -> n (m v c) t"))
        places = F.adaptive_avg_pool1d(x, SEGMENTS).flatten(1)
        spread = (x - x.mean(2, keepdim=True)).abs().mean(2)
        change = x.diff(dim=2).abs().sum(2) / max(x.shape[2] - 1, 1)  # 0 for a single frame
        return self.layers(torch.cat([places, spread, change], 1))
