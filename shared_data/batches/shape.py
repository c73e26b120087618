"""The clips that a network is made for."""

from __future__ import annotations

from torch import Tensor

from shared_data.errors import LabError


def require_clips(
    network: str,
    clips: Tensor,
    size: tuple[int | None, int | None, int | None, int | None],
    *,
    next_step: str = "build the model for the skeleton, the people and the window of the data",
) -> None:
    """Raise `LabError` unless `clips` are (N, C, T, V, M) with the `size` (C, T, V, M) that the `network` is made for.

    None in `size` stands for any number.
    """
    given = tuple(clips.shape)
    if len(given) == 5 and all(one in (None, other) for one, other in zip(size, given[1:], strict=True)):
        return
    expected = ", ".join(letter if one is None else str(one) for letter, one in zip("CTVM", size, strict=True))
    raise LabError(
        f"{network} was given clips of shape {given}",
        expected=f"(N, {expected}): coordinates, frames, joints, people",
        next_step=next_step,
    )
