"""The head that segments: dilated layers over all frames, a branch for classes, one for boundaries, and stages that refine both.

After DeST and LaSA (Ji et al.), which call the refining stages ASB and BRB. What it stands on is any encoder's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.segmentation.scores import FrameScores
from layers.dilated import DilatedLayers, Stage


class Head(nn.Module):
    """What has entered, (B, width, T), with mask (B, 1, T), to `FrameScores`."""

    def __init__(
        self,
        c_in: int,
        classes: int,
        *,
        width: int = 64,
        layers: int = 10,
        class_stages: int = 1,
        boundary_stages: int = 2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.hidden = DilatedLayers(c_in, width=width, layers=layers, dropout=dropout)
        self.classes, self.boundary = nn.Conv1d(width, classes, 1), nn.Conv1d(width, 1, 1)

        def stages(count: int, channels: int) -> nn.ModuleList:
            return nn.ModuleList(
                Stage(channels, channels, width=width, layers=layers, dropout=dropout) for _ in range(count)
            )  # fmt: skip

        self.class_stages, self.boundary_stages = stages(class_stages, classes), stages(boundary_stages, 1)
        self.reach = (2**layers - 1) * (1 + max(class_stages, boundary_stages))
        """Frames to either side on which the scores of a frame depend."""

    def forward(self, entered: Tensor, mask: Tensor) -> FrameScores:
        """(B, width, T), mask (B, 1, T) bool -> scores of every frame."""
        keep = mask.to(entered.dtype)
        hidden = self.hidden.onward(entered, keep)
        classes, boundaries = [self.classes(hidden)], [self.boundary(hidden)]
        for stage in self.class_stages:
            classes.append(stage(classes[-1].softmax(1) * keep, keep))
        for stage in self.boundary_stages:
            boundaries.append(stage(torch.sigmoid(boundaries[-1]) * keep, keep))
        return FrameScores(tuple(classes), tuple(boundaries))
