"""The clips that an encoder is made for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from shared_data.batches.shape import require_clips


@dataclass(frozen=True)
class ClipSize:
    """(C, T, V, M): coordinates, frames (None: any number), joints, people."""

    channels: int
    frames: int | None
    joints: int
    people: int

    def check(self, clips: Tensor) -> None:
        """Raise `LabError` unless `clips` are (N, C, T, V, M)."""
        require_clips("Skeleton-Contrastive", clips, (self.channels, self.frames, self.joints, self.people))
