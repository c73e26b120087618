"""The image-based encoder, HCN (Li et al. 2018; ``specs/isc.md`` 4.2): co-occurrences of joints, learned by convolutions.

Letters in the shapes: N clips, M people, B = N*M, C channels, T frames, V joints, K maps of a person, one for each frame of
the window.

By exact identities:

1. Joints become channels by a convolution's memory format: (B, V, T, K) is how (B, K, V, T) lies in memory with the channels
   last, so that nothing is transposed between the convolutions over time and those over joints.
2. Largest values are taken before ReLU and Dropout2d, which are then of a quarter of the values: both keep an order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.recompute import cheap, segment
from models.isc.clips import ClipSize
from shared_data.errors import require

HALVINGS = 4
"""How often frames and maps are halved."""


class Halving(nn.Module):
    """3x3 convolution, largest of 2x2, perhaps ReLU, perhaps Dropout2d."""

    def __init__(self, c_in: int, c_out: int, *, relu: bool, dropout: float) -> None:
        super().__init__()
        self.conv, self.relu, self.dropout = nn.Conv2d(c_in, c_out, 3, padding=1), relu, nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H // 2, W // 2)."""
        largest, _ = cheap(self.largest, self.conv(x))
        out: Tensor = self.dropout(largest)
        return out

    def largest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """With where they are: 8 bytes each, better found twice than kept."""
        values, places = F.max_pool2d(x, 2, return_indices=True)
        return F.relu_(values) if self.relu else values, places


class Branch(nn.Module):
    """From joints, or their motion, to maps in which all joints have met."""

    def __init__(self, size: ClipSize, width: int, dropout: float) -> None:
        super().__init__()
        assert size.frames is not None
        self.conv1 = nn.Linear(size.channels, width)
        self.conv2 = nn.Conv2d(width, size.frames, (1, 3), padding=(0, 1))
        self.conv3 = Halving(size.joints, width // 2, relu=False, dropout=0.0)
        self.conv4 = Halving(width // 2, width, relu=False, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, V, T, C) -> (B, width, T // 4, K // 4)."""
        x = self.conv2(cheap(self.points, x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y: Tensor = self.conv4(self.conv3(x))
        return y

    def points(self, x: Tensor) -> Tensor:
        """Each joint in each frame by itself."""
        return F.relu_(self.conv1(x))


def motion(clips: Tensor) -> Tensor:
    """Differences of neighbouring frames, T - 1 of them, stretched to T again: (N, C, T, V, M) like the clips."""
    flat = clips.flatten(3)
    moved = F.interpolate(flat[:, :, 1:] - flat[:, :, :-1], flat.shape[2:], mode="bilinear", align_corners=False)
    return moved.view_as(clips)


class ImageEncoder(nn.Module):
    """Largest of what the people's maps say, with positions and motion joined.

    size      of the clips; its number of frames is built in
    width     channels of the first convolutions, even
    dropout   rate of the Dropout2d behind the last three convolutions
    """

    def __init__(self, size: ClipSize, *, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        frames = size.frames or 0
        require(frames >= 2**HALVINGS, "frames", frames, f"{2**HALVINGS} or more: they are halved {HALVINGS} times")
        require(width % 2 == 0, "width", width, "an even number")
        self.size, self.features = size, 4 * width * (frames >> HALVINGS) ** 2
        self.position, self.motion = (Branch(size, width, dropout) for _ in range(2))
        self.conv5 = Halving(2 * width, 2 * width, relu=True, dropout=dropout)
        self.conv6 = Halving(2 * width, 4 * width, relu=True, dropout=dropout)
        for parameter in self.parameters():
            if parameter.dim() >= 2:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, clips: Tensor) -> Tensor:
        """(N, C, T, V, M) -> (N, 4 * width * (T // 16)^2)."""
        self.size.check(clips)
        parts = ((self.position, clips), (self.motion, motion(clips)))
        x = torch.cat([segment(branch, x.permute(0, 4, 3, 2, 1).flatten(0, 1).contiguous()) for branch, x in parts], 1)
        x = segment(self.conv6, segment(self.conv5, x))
        return x.reshape(clips.shape[0], self.size.people, -1).amax(1)
