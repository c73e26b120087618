"""The clips that an encoder is made for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from shared_data.errors import LabError


@dataclass(frozen=True)
class ClipSize:
    """(C, T, V, M): coordinates, frames (None: any number), joints, people."""

    channels: int
    frames: int | None
    joints: int
    people: int

    def check(self, clips: Tensor) -> None:
        """Raise `LabError` unless `clips` are (N, C, T, V, M)."""
        c, t, v, m = self.channels, self.frames, self.joints, self.people
        if clips.dim() != 5 or (clips.shape[1], *clips.shape[3:]) != (c, v, m) or t not in (None, clips.shape[2]):
            raise LabError(
                f"Skeleton-Contrastive was given clips of shape {tuple(clips.shape)}",
                expected=f"(N, {c}, {t or 'T'}, {v}, {m}): coordinates, frames, joints, people",
                next_step="build the model for the skeleton, the people and the window of the data",
            )
