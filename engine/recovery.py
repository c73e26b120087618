"""From which state a run goes on: the last one, or the one before it where the last is damaged."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine import checkpoint
from engine.errors import WeightsError
from engine.runfolder import RunFolder
from shared_data.errors import MissingInputError

COUNTS = ("epoch", "step", "global_step", "log_size")


def restore(
    folder: RunFolder,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    accept: Callable[[dict[str, Any]], None],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """`checkpoint.load_state` of the newest state of a training run that is whole; returns its position.

    accept   sees the position before anything is restored, and may refuse it
    tell     is told, in words for the user, that the last state is damaged and another one was taken

    A damaged last state is put aside. Raises `WeightsError` (exit 65) if no state is whole or if it is another run's.
    """

    def accept_sound(position: dict[str, Any]) -> None:
        _require_sound(position)
        accept(position)

    def load(path: Path) -> dict[str, Any]:
        return checkpoint.load_state(path, model, optimizer, scaler, accept=accept_sound)

    try:
        return load(folder.last)
    except (checkpoint.DamagedError, MissingInputError) as error:
        damage = error
    try:
        position = load(folder.previous)
    except MissingInputError:
        raise damage from None
    except checkpoint.DamagedError as error:
        raise WeightsError(
            f"{damage.what}; and so is the state before it: {error.what}", where=f"{damage.where}, {error.where}",
            expected=error.expected, next_step=error.next_step,
        ) from None  # fmt: skip
    folder.fall_back()
    size = folder.last.stat().st_size
    tell(f"{damage.what}: {damage.where}; the run goes on from the state before it ({size} bytes)")
    return position


def _require_sound(position: dict[str, Any]) -> None:
    """Raises ValueError unless `position` is of the kind that a training run writes."""
    sums = position.get("sums")
    sound = (
        all(_is_count(position.get(name)) for name in COUNTS)
        and isinstance(sums, dict)
        and all(_is_count(sums.get(name)) for name in ("correct", "seen"))
        and _is_number(sums.get("loss"))
        and _is_number(position.get("seconds_before"))
        and all(_is_result(position.get(name, "")) for name in ("last", "best"))
    )
    if not sound:
        raise ValueError("the position is not that of a training run")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_result(value: object) -> bool:
    """None before the first evaluation, then what that made: top-1 among it, without labels the loss, of frames two tables."""
    if value is None:
        return True
    if not isinstance(value, dict) or not _is_count(value.get("epoch")):
        return False
    if "raw" in value:
        return all(_is_table(value[name]) for name in ("raw", "refined") if name in value)
    return _is_number(value.get("top1", value.get("loss")))


def _is_table(value: object) -> bool:
    """Numbers by name; one that could not be measured is None."""
    return (
        isinstance(value, dict) and _is_number(value.get("accuracy")) and all(v is None or _is_number(v) for v in value.values())
    )
