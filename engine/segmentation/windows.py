"""Whole sequences through encoders of clips: cut into windows, and what is found in them laid out over the frames again.

Letters in the shapes: B sequences, M people, C coordinates, V joints, T frames, W frames of a window, n windows of a sequence.

Every window is one that the encoder could have been pretrained on, and none knows of its neighbours, so that what is found does
not depend on the rest of the batch, nor on how much of a sequence is looked at together.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cut(features: Tensor, mask: Tensor, *, people: int, window: int, hop: int) -> Tensor:
    """(B, M C, V, T), person after person, with mask (B, 1, T) -> clips (B n, C, W, V, M), a sequence's after each other.

    Window i shows the frames from `i hop` on. Behind the end of a sequence its last frame stands still.
    """
    _, channels, joints, frames = features.shape
    n = -(-frames // hop)  # as many as begin in the longest sequence
    at = (torch.arange(n, device=features.device).unsqueeze(1) * hop + torch.arange(window, device=features.device)).flatten()
    last = mask.sum(-1).clamp(min=1) - 1  # (B, 1)
    at = torch.minimum(at, last)  # (B, n W)
    shown: Tensor = features.gather(3, at[:, None, None, :].expand(-1, channels, joints, -1))
    shown = shown.unflatten(3, (n, window)).unflatten(1, (people, channels // people))  # (B, M, C, V, n, W)
    clips: Tensor = shown.permute(0, 4, 2, 5, 3, 1).flatten(0, 1)
    return clips


def by_frame(found: Tensor, batch: int, frames: int, window: int) -> Tensor:
    """(B n, D, T') of windows end to end, T' positions in each -> (B, D, T), linear between positions inside a window."""
    positions = found.shape[-1]
    if positions != window:  # by a product, which is the same every time on a GPU, backwards too
        place = (torch.arange(window, device=found.device) + 0.5) * (positions / window) - 0.5
        distance = place.clamp(0, positions - 1) - torch.arange(positions, device=found.device).unsqueeze(1)
        found = found @ (1 - distance.abs()).clamp(min=0).to(found.dtype)
    whole: Tensor = found.unflatten(0, (batch, -1)).permute(0, 2, 1, 3).flatten(2)
    return whole[..., :frames]


def between(found: Tensor, mask: Tensor, *, window: int, hop: int) -> Tensor:
    """(B, D, n), one column of each window, with mask (B, 1, T) -> (B, D, T), linear between the middles of the windows.

    Before the first middle and behind that of the last window which begins in the sequence, its column stands still.
    """
    frames, count = mask.shape[-1], found.shape[-1]
    number = torch.arange(count, device=found.device)
    last = ((mask.sum(-1).clamp(min=1) - 1) // hop).unsqueeze(1)  # (B, 1, 1) the last window that begins in the sequence
    edge = (found * (number == last)).sum(-1, keepdim=True)
    found = torch.where(number <= last, found, edge)
    middle = window // 2  # the first frame that is not before the middle of the first window
    before = -(-middle // hop)
    columns = torch.cat([found[..., :1].expand(-1, -1, before), found, found[..., -1:]], -1)
    skipped = before * hop - middle
    one, other = (
        part.unsqueeze(-1).expand(-1, -1, -1, hop).flatten(2)[..., skipped : skipped + frames]
        for part in (columns[..., :-1], columns[..., 1:])
    )
    share = (torch.arange(frames, device=found.device) - (window - 1) / 2) / hop
    return one + (other - one) * (share - share.floor()).to(found.dtype)
