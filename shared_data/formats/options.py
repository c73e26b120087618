"""What a user may say about a data file: one object, from the flags of a command to the reader of a layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shared_data.errors import DataError, UsageError

MAX_CLASSES = 10_000
ON_BAD = ("refuse", "drop")


@dataclass(frozen=True)
class ReadOptions:
    """What may be said about a data file. Raises `UsageError` for what no file can be.

    Args:
        num_classes: number of classes the labels must fit in; else as the file says.
        split: protocol that divides the clips of a file which is not divided yet (xsub, xview, xset ...).
        skip_list: text file naming clips to leave out, one per line.
        repair: undo a wrong order of the values, if train and test prove to have the same wrong order.
        on_bad: refuse a file with clips that hold NaN, infinity or nothing at all, or drop these clips.
    """

    num_classes: int | None = None
    split: str = "auto"
    skip_list: Path | None = None
    repair: bool = False
    on_bad: str = "refuse"

    def __post_init__(self) -> None:
        if self.num_classes is not None and not 1 <= self.num_classes <= MAX_CLASSES:
            raise UsageError(f"--num-classes is {self.num_classes}", expected=f"1 or more, at most {MAX_CLASSES}")
        if self.on_bad not in ON_BAD:
            raise UsageError(f"--on-bad is {self.on_bad!r}", expected=" or ".join(ON_BAD))

    @property
    def drop_bad(self) -> bool:
        """Whether clips that no pipeline can take are left out instead of refusing the file."""
        return self.on_bad == "drop"


def refuse_classes(where: object, options: ReadOptions, known: int, says: str) -> None:
    """Raise `DataError` if another number of classes was asked for than the `known` one, and say who knows it."""
    if options.num_classes not in (None, known):
        raise DataError(
            f"{options.num_classes} classes were asked for", where=str(where), expected=f"{known}, as {says}",
            next_step="leave --num-classes out; in training, --dataset auto takes classes, joints and people from the file",
        )  # fmt: skip


def refuse_options(path: Path, layout: str, options: ReadOptions, *unused: str) -> None:
    """Raise `UsageError` if one of the `unused` options is set: a layout must not ignore what it is asked."""
    for name in unused:
        if getattr(options, name) != getattr(ReadOptions(), name):
            raise UsageError(
                f"--{name.replace('_', '-')} means nothing for a file of layout {layout}", where=str(path),
                next_step="leave it out",
            )  # fmt: skip
