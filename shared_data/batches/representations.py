"""The vectors that encoders make of clips (..., 3, W, V, M): nothing but the order of the numbers changes.

Leading axes, such as the batch and the view, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def graph(clips: torch.Tensor) -> torch.Tensor:
    """The clips themselves, (..., 3, W, V, M)."""
    return clips


def sequence(clips: torch.Tensor) -> torch.Tensor:
    """A vector per frame, (..., W, V 3 M): joint, then coordinate, then person (``specs/isc.md`` 3)."""
    return _ordered(clips, "WVCM").flatten(-3)


def time(clips: torch.Tensor) -> torch.Tensor:
    """A vector per frame, (..., W, M V 3): person, then joint, then coordinate (``specs/usdrl_segmentation.md`` 2)."""
    return _ordered(clips, "WMVC").flatten(-3)


def space(clips: torch.Tensor) -> torch.Tensor:
    """A vector per joint of each person, (..., M V, W 3): frame, then coordinate (``specs/usdrl_segmentation.md`` 2)."""
    return _ordered(clips, "MVWC").flatten(-2).flatten(-3, -2)


REPRESENTATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "graph": graph,
    "sequence": sequence,
    "time": time,
    "space": space,
}


def _ordered(clips: torch.Tensor, axes: str) -> torch.Tensor:
    """The last four axes, "CWVM", in the order of `axes`."""
    leading = clips.ndim - 4
    return clips.permute(*range(leading), *(leading + "CWVM".index(axis) for axis in axes))
