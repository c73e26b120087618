"""From the tensors of a step to a share of a card: what is reserved for them, and what the card can give."""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.card.calibration import Calibration, pessimistic, row_for
from planner.card.cards import Card
from shared_data.errors import UsageError

COMFORTABLE, FITS = 0.80, 0.92
"""Shares of the usable memory up to which these words hold; above, a recipe is "tight" if a lever makes it fit, else "no"."""
GIB = 1024.0
"""MiB."""
LEAST = 1.0
"""MiB: a card of which driver, context and others leave nothing is taken for one that has so much, so that shares are numbers."""


@dataclass(frozen=True)
class Interval:
    """A prediction and the values between which it is held to lie, in one unit (MiB, seconds)."""

    low: float
    point: float
    high: float


@dataclass(frozen=True)
class Budget:
    """A card of `vram_gib` GiB, with what is known of it.

    taken_gib   what other programs hold (a desktop, another run); raises `UsageError` for less than none
    """

    vram_gib: float
    calibration: Calibration = field(default_factory=pessimistic)
    taken_gib: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.taken_gib < float("inf"):
            raise UsageError(f"{self.taken_gib:g} GiB cannot be taken by other programs", expected="0 or more")

    @property
    def usable(self) -> float:
        """MiB that a process can have for tensors, workspaces and what the allocator loses to fragmentation; `LEAST` of a card
        that holds nothing else."""
        row = self.calibration
        return max((self.vram_gib - self.taken_gib) * GIB - row.driver_mib - row.context_mib, LEAST)

    def allocated(self, tensors_mib: float) -> Interval:
        """What `torch.cuda.max_memory_allocated` will say of a step with such a peak of tensors, MiB."""
        row = self.calibration
        return Interval(tensors_mib, tensors_mib + row.workspace_mib, tensors_mib + row.workspace_high_mib)

    def reserved(self, tensors_mib: float) -> Interval:
        """What `torch.cuda.max_memory_reserved` will say, MiB."""
        row, allocated = self.calibration, self.allocated(tensors_mib)
        return Interval(allocated.low, allocated.point * row.fragmentation, allocated.high * row.fragmentation_high)

    def share(self, tensors_mib: float) -> float:
        """The high end of `reserved` over `usable`: what the four words judge."""
        return self.reserved(tensors_mib).high / self.usable

    def room(self, share: float = FITS) -> float:
        """MiB of tensors of just that `share`; below 0 where workspaces alone are more."""
        row = self.calibration
        return share * self.usable / row.fragmentation_high - row.workspace_high_mib

    def card_for(self, tensors_mib: float) -> float:
        """GiB of the smallest card of this kind on which such a peak still "fits"."""
        row = self.calibration
        return (self.reserved(tensors_mib).high / FITS + row.driver_mib + row.context_mib) / GIB + self.taken_gib

    def sentence(self) -> str:
        """What is taken from the card, for a person."""
        others = f"{self.taken_gib:g} GiB of other programs + " if self.taken_gib else ""
        return f"{others}{self.calibration.sentence()}"


def for_card(gpu: Card | str | None, gib: float, taken_gib: float = 0.0) -> Budget:
    """Of a card sold with `gib` GiB: a named one, one that a driver calls so, or (None) any. What was measured on a GPU speaks
    for a card of that name and about that memory alone; any other is reckoned by the pessimistic row.
    """
    return Budget(gib, row_for(gpu, gib), taken_gib)


def of_device(name: str, total_bytes: int, taken_gib: float = 0.0, *, others_bytes: int = 0) -> Budget:
    """Of a GPU that is there, which offers `total_bytes`: what the driver keeps of the nominal size is off already.

    others_bytes   in use beside this process's tensors (`engine.memory.Gpu.others`), beside what `taken_gib` says; its own
                   context, which the row reckons with, is among them
    """
    row = row_for(name, total_bytes / 2**30)
    others_gib = max(others_bytes / 2**30 - row.context_mib / GIB, 0.0)
    return Budget(total_bytes / 2**30 + row.driver_mib / GIB, row, taken_gib + round(others_gib, 2))
