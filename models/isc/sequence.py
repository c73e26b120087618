"""The sequence-based encoder: three layers of GRUs over the frames (``specs/isc.md`` 4.1).

The paper's GRU is bidirectional. The official one is called frame by frame and carries its states along, so that its "reverse"
direction runs forward, too: what it computes, and what its weights are for, is two forward GRUs a layer, side by side. That is
what this is, with each of them one call over all frames.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from layers.recompute import cheap, segment
from models.isc.clips import ClipSize
from shared_data.batches.representations import sequence


class GRUPair(nn.Module):
    """Two GRUs that read the same frames, in the same direction; the official names of the second end in ``_reverse``."""

    def __init__(self, c_in: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(c_in, hidden), nn.GRU(c_in, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(T, N, C_in) -> (T, N, 2 * hidden)."""
        return cheap(_side_by_side, self.first(x)[0], self.second(x)[0])


def _side_by_side(one: Tensor, other: Tensor) -> Tensor:
    return torch.cat([one, other], -1)


class SequenceEncoder(nn.Module):
    """What the last layer says after the last frame.

    size     of the clips; any number of frames
    width    hidden units of each GRU
    layers   of two GRUs each
    """

    def __init__(self, size: ClipSize, *, width: int = 1024, layers: int = 3) -> None:
        super().__init__()
        self.size, self.features = size, 2 * width
        widths = [size.joints * size.channels * size.people, *[2 * width] * layers]
        self.layers = nn.ModuleList(GRUPair(c_in, width) for c_in, _ in pairwise(widths))
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter)

    def forward(self, clips: Tensor) -> Tensor:
        """(N, C, T, V, M) -> (N, 2 * width)."""
        self.size.check(clips)
        x = sequence(clips).transpose(0, 1).contiguous()
        for layer in self.layers:
            x = segment(layer, x)
        return x[-1]
