"""The plain temporal convolution network over frames of MS-TCN (Farha and Gall, CVPR 2019): one stage of dilated residual layers.

Frames are the last axis, and a sequence may have any number of them. `mask` says which frames are there: (B, 1, T), bool or of
the type of the values. Padded frames are 0 behind every layer, as are those before the first and after the last, so that a
sequence gets the same values in a padded batch as alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layers.recompute import segment


class DilatedLayer(nn.Module):
    """Kernel 3 whose taps are `dilation` frames apart, ReLU, 1x1, dropout, and the input added: (B, C, T) -> (B, C, T)."""

    def __init__(self, width: int, dilation: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, C, T), mask (B, 1, T) -> (B, C, T), 0 at padded frames."""
        out: Tensor = (x + self.dropout(self.mix(torch.relu(self.dilated(x))))) * mask
        return out


class DilatedLayers(nn.Module):
    """1x1 to `width` channels, then `layers` dilated layers with dilations 1, 2, 4, ...: the last hidden state.

    entry_masked    whether padded frames are 0 in front of the first layer too. Some official code leaves them what the 1x1
                    made of them, its bias at least; there the first layer carries them into the last frame of a sequence.
    """

    def __init__(self, c_in: int, *, width: int = 64, layers: int = 10, dropout: float = 0.5, entry_masked: bool = True) -> None:
        super().__init__()
        self.entry_masked = entry_masked
        self.enter = nn.Conv1d(c_in, width, 1)
        self.layers = nn.ModuleList(DilatedLayer(width, 2**i, dropout=dropout) for i in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, C_in, T), mask (B, 1, T) -> (B, width, T)."""
        return self.onward(self.enter(x), mask)

    def onward(self, x: Tensor, mask: Tensor) -> Tensor:
        """What has entered, (B, width, T), through the layers."""
        if self.entry_masked:
            x = x * mask
        for layer in self.layers:
            x = segment(layer, x, mask)
        return x


class Stage(nn.Module):
    """`DilatedLayers`, then 1x1 to `c_out` channels, which are not masked: what padded frames hold is nobody's business."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        width: int = 64,
        layers: int = 10,
        dropout: float = 0.5,
        entry_masked: bool = True,
    ) -> None:
        super().__init__()
        self.hidden = DilatedLayers(c_in, width=width, layers=layers, dropout=dropout, entry_masked=entry_masked)
        self.leave = nn.Conv1d(width, c_out, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, C_in, T), mask (B, 1, T) -> (B, C_out, T)."""
        out: Tensor = self.leave(self.hidden(x, mask))
        return out
