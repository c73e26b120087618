"""The scores of a sequence of any length in constant memory of the device: window by window, and the head piece by piece.

What has entered the head is kept for as many frames as its scores depend on (`Head.reach`); the rest is let go. The scores are
those of the sequence in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from engine.segmentation import windows
from engine.segmentation.network import Segmenter, WindowSegmenter
from engine.step import Precision, autocast
from shared_data.windows import stitch, test_windows

CLIPS = 64  # windows that go through the encoder together
PIECE = 8192  # frames whose scores are made together


@torch.no_grad()
def sequence_scores(
    network: nn.Module,
    features: Tensor,
    *,
    device: torch.device,
    precision: Precision = "fp32",
    clips: int = CLIPS,
    piece: int = PIECE,
    stride: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Classes (K, T) and, where the network has them, boundaries (1, T), logits of the last stages, float32 on the CPU.

    network   in evaluation mode, on `device`: a `Segmenter` or `WindowSegmenter`; any other is shown the whole sequence
    features  (M C, V, T), anywhere
    clips     windows that go through the encoder together
    piece     frames whose scores are made together
    stride    frames from one window to the next, of a `WindowSegmenter`; default: no overlap but at the end
    """
    if isinstance(network, Segmenter):
        return _streamed(network, features, device, precision, clips=clips, piece=piece)
    if isinstance(network, WindowSegmenter):
        return _by_windows(network, features, device, precision, clips=clips, stride=stride), None
    with autocast(precision, device):
        mask = torch.ones(1, 1, features.shape[-1], dtype=torch.bool, device=device)
        scores = network(features.unsqueeze(0).to(device), mask)
    return _last(scores.classes), _last(scores.boundaries) if scores.boundaries else None


def _streamed(
    network: Segmenter, features: Tensor, device: torch.device, precision: Precision, *, clips: int, piece: int
) -> tuple[Tensor, Tensor]:
    frames, reach = features.shape[-1], network.head.reach
    found_classes, found_boundaries = [], []
    kept = torch.zeros(0)  # (width, t) of what has entered, from frame `first` on
    first = done = 0
    with autocast(precision, device):
        for start, entered in _entered(network, features, device, clips):
            kept = entered if start == 0 else torch.cat([kept, entered], 1)
            known = first + kept.shape[1]
            while done < frames and (known == frames or known >= done + piece + reach):
                end = frames if known == frames and frames - done <= 2 * piece else done + piece
                upto = min(end + reach, known)
                here = kept[:, : upto - first].unsqueeze(0)
                scores = network.head(here, torch.ones(1, 1, here.shape[-1], dtype=torch.bool, device=device))
                own = slice(done - first, end - first)
                found_classes.append(scores.classes[-1][0, :, own].float().cpu())
                found_boundaries.append(scores.boundaries[-1][0, :, own].float().cpu())
                done = end
                drop = max(done - reach - first, 0)
                kept, first = kept[:, drop:], first + drop
    return torch.cat(found_classes, 1), torch.cat(found_boundaries, 1)


def _entered(network: Segmenter, features: Tensor, device: torch.device, clips: int) -> Iterator[tuple[int, Tensor]]:
    """(first frame, what has entered the head from there on (width, t)), piece by piece, all frames once.

    A frame lies between the middles of two windows, so a piece needs one window more than it has and begins one earlier.
    """
    frames, window, hop = features.shape[-1], network.window, network.hop
    total = -(-frames // hop)
    beside = -(-window // hop)  # windows to either side whose middles a frame of this one may lie between
    for start in range(0, total, clips):
        low, high = max(start - beside, 0), min(start + clips + beside, total)
        end = frames if high == total else (high - 1) * hop + window
        some = features[..., low * hop : min(end, frames)].unsqueeze(0).to(device)
        mask = torch.ones(1, 1, some.shape[-1], dtype=torch.bool, device=device)
        shown = windows.cut(some, mask, people=network.people, window=window, hop=hop)[: high - low]
        frame, clip = network.entering(shown)
        here = mask[..., : min((high - low) * hop, frames - low * hop)]
        entered = network.laid_out(frame, clip, here)[0]
        own = slice((start - low) * hop, min((start - low + clips) * hop, here.shape[-1]))
        yield start * hop, entered[:, own]


def _by_windows(
    network: WindowSegmenter, features: Tensor, device: torch.device, precision: Precision, *, clips: int, stride: int | None
) -> Tensor:
    frames, window = features.shape[-1], network.window
    starts = test_windows(frames, window, stride)
    found = []
    with autocast(precision, device):
        for first in range(0, len(starts), clips):
            some = starts[first : first + clips]
            parts = torch.stack([_padded(features[..., s : s + window], window) for s in some.tolist()]).to(device)
            mask = torch.arange(window, device=device) < min(frames, window)
            found.append(_last_all(network(parts, mask.expand(len(some), 1, -1)).classes))
    return stitch(torch.cat(found), starts, frames)


def _padded(part: Tensor, window: int) -> Tensor:
    return torch.nn.functional.pad(part, (0, window - part.shape[-1]))


def _last(stages: tuple[Tensor, ...]) -> Tensor:
    return stages[-1][0].float().cpu()


def _last_all(stages: tuple[Tensor, ...]) -> Tensor:
    return stages[-1].float().cpu()
