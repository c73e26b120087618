"""What a named input pipeline is, and how its options and random draws are checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch

from shared_data.batches.augment import STREAMS
from shared_data.clips import Clips
from shared_data.errors import UsageError, nearest
from shared_data.skeletons import Skeleton


class Pipeline(Protocol):
    """Clips to a batch, the way one official reader does it. `draw` decides, `train` obeys: draws can be replayed.

    Every array of a draws object has one row per clip of the batch; `rows_of` cuts it.
    `index` (B,) are positions in `clips`. A batch is (B, *item) float32, C-contiguous, where `clips` are, in `out` if given.
    """

    name: str

    def item(self, clips: Clips) -> tuple[int, ...]:
        """The shape of one clip in a batch: (3, W, V, M); readers that show a clip in K views make (K, 3, W, V, M)."""
        ...

    def accept(self, clips: Clips) -> None:
        """Raises `UsageError` if the pipeline cannot read these clips."""
        ...

    def draw(self, clips: Clips, index: np.ndarray, seed: int, epoch: int, repeat_number: np.ndarray | int = 0) -> Any:
        """The random decisions for these clips, from (seed, epoch, position in the split, repeat number) alone."""
        ...

    def train(self, clips: Clips, index: np.ndarray, draws: Any, out: torch.Tensor | None = None) -> torch.Tensor: ...

    def test(self, clips: Clips, index: np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor: ...


@runtime_checkable
class Positioned(Protocol):
    """A pipeline that also tells a network where in its clip each frame lies."""

    def positions(self, clips: Clips, index: np.ndarray, draws: Any | None) -> np.ndarray:
        """(B, W) float32, -1 for the first frame of a clip to 1 for its end; `draws` None at test time."""
        ...


def room(shape: tuple[int, ...], clips: Clips, out: torch.Tensor | None) -> torch.Tensor:
    """`out`, or a new float32 tensor of `shape` where batches of `clips` are made."""
    if out is not None:
        return out
    return torch.empty(shape, device=clips.table.device if clips.table is not None else None)


DrawsT = TypeVar("DrawsT")
OptionsT = TypeVar("OptionsT")


def rows_of(draws: DrawsT, rows: slice | np.ndarray) -> DrawsT:
    """The draws of some clips of a batch: every array field of the dataclass cut to `rows`."""
    fields = dataclasses.fields(draws)  # type: ignore[arg-type]
    return type(draws)(**{field.name: getattr(draws, field.name)[rows] for field in fields})


def options_of(kind: type[OptionsT], pipeline: str, given: Mapping[str, Any]) -> OptionsT:
    """The options dataclass `kind` filled with `given`; raises `UsageError` for a name it does not have."""
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            raise UsageError(
                f"unknown option {name!r}{nearest(name, known)}",
                where=f"pipeline {pipeline}",
                expected=", ".join(known),
            )
    return kind(**given)


def check(ok: bool, option: str, value: object, expected: str) -> None:
    """Raises `UsageError` unless `ok`."""
    if not ok:
        raise UsageError(f"option {option} is {value!r}", where=f"pipeline option {option}", expected=expected)


def is_number(value: object) -> bool:
    """A finite int or float, not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def check_stream(stream: object) -> None:
    """Raises `UsageError` unless `stream` is one of the four."""
    if stream not in STREAMS:
        raise UsageError(
            f"option stream is {stream!r}{nearest(str(stream), STREAMS)}",
            where="pipeline option stream",
            expected="j (joints), b (bones), jm (joint motion) or bm (bone motion)",
        )


def check_window(window: object, most: int) -> None:
    """Raises `UsageError` unless `window` is a whole number of frames from 1 to `most`."""
    ok = isinstance(window, int) and not isinstance(window, bool) and 1 <= window <= most
    check(ok, "window", window, f"a whole number of frames, 1 to {most}")


def check_joints(clips: Clips, pipeline: str, layout: Skeleton) -> None:
    """Raises `UsageError` unless the clips have the joints of the pipeline's bone table."""
    if clips.joints != layout.joints:
        raise UsageError(
            f"the clips have {clips.joints} joints, pipeline {pipeline} is set for {layout.joints}",
            where=f"pipeline {pipeline}, skeleton {layout.name}",
            expected=f"clips of {layout.title}",
            next_step="choose the pipeline of this data set or give the option skeleton",
        )
