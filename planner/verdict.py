"""Four words for "does it fit?", and the lever that changes the answer.

First cut: the predicted peak is tensors only, so the card's memory is reduced by a stated, pessimistic allowance before
the comparison, and the upper limit of "fits" leaves 8 % of the rest for the allocator's slack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from planner.levers import WINDOW, Costs, Settings, choose
from planner.peak import Phase
from shared_data.errors import UsageError

Word = Literal["comfortable", "fits", "tight", "no"]
COMFORTABLE, FITS = 0.80, 0.92
"""Shares of the usable memory up to which these words hold; above, a recipe is "tight" if a lever makes it fit, else "no"."""
NOTE = "prediction, first cut: tensors only + allowance"


@dataclass(frozen=True)
class Allowance:
    """MiB of a card that tensors cannot have. Pessimistic until a calibration of the card says better.

    driver      what the driver keeps of the nominal size (an 8 GiB card offers about 7.8)
    context     CUDA context and kernels of torch
    workspace   cuBLAS and cuDNN workspaces
    """

    driver: float = 256.0
    context: float = 512.0
    workspace: float = 512.0

    @property
    def total(self) -> float:
        return self.driver + self.context + self.workspace

    def sentence(self) -> str:
        return (
            f"{self.total:.0f} MiB allowance = {self.driver:.0f} driver + {self.context:.0f} CUDA context "
            f"+ {self.workspace:.0f} cuBLAS/cuDNN workspace"
        )


PESSIMISTIC = Allowance()


def usable_mib(vram_gib: float, allowance: Allowance = PESSIMISTIC) -> float:
    """MiB for tensors on a card of `vram_gib`; raises `UsageError` where the allowance leaves nothing."""
    usable = vram_gib * 1024 - allowance.total
    if usable <= 0:
        raise UsageError(
            f"{vram_gib:g} GiB of GPU memory leaves nothing to train with: {allowance.sentence()}",
            expected=f"more than {allowance.total / 1024:.2f} GiB",
        )
    return usable


def word_for(peak: float, usable: float, *, mendable: bool) -> Word:
    """The word for a peak of `peak` MiB in `usable` MiB, where `mendable` says that a lever would make it fit."""
    share = peak / usable
    if share <= COMFORTABLE:
        return "comfortable"
    if share <= FITS:
        return "fits"
    return "tight" if mendable else "no"


@dataclass(frozen=True)
class Verdict:
    """The answer for one recipe on one card; MiB are predictions.

    word             the worse of training and evaluation
    train, eval      predicted peaks at the recipe's batches
    usable           what the card offers tensors
    largest_batch    clips per training step that still "fit" (0: none), and the same for evaluation
    lever            what makes it fit, as settings to add, "" if it fits or nothing helps
    note             what the lever changes, or why none helps
    """

    word: Word
    train: float
    eval: float
    usable: float
    largest_batch: int
    largest_eval_batch: int
    lever: str = ""
    note: str = ""

    @property
    def share(self) -> float:
        """The larger peak as a share of the usable memory."""
        return max(self.train, self.eval) / self.usable


class JudgedCosts(Costs, Protocol):
    """Costs that also say what would fit."""

    def largest(self, settings: Settings, phase: Phase, room: float) -> int:
        """The most clips within `room` MiB, of a training step or of an evaluation pass; 0 if not even one fits."""


def judge(costs: JudgedCosts, vram_gib: float, asked: Settings, *, allowance: Allowance = PESSIMISTIC) -> Verdict:
    """Whether training and evaluation as `asked` fit `vram_gib`, and the levers that `--fit` would pull if not."""
    usable = usable_mib(vram_gib, allowance)
    room = FITS * usable
    choice = choose(costs, asked, room)
    largest, largest_eval = costs.largest(asked, "train", room), costs.largest(asked, "eval", room)
    levers, notes = "", ""
    if choice.fits:
        levers, sentences = choice.flags, choice.sentences
        if choice.settings.piece < asked.piece and largest:
            sentences.append(f"or --batch-size {min(largest, asked.batch_size - 1)}")
        notes = "; ".join(sentences)
    else:
        least = max(choice.train, choice.eval) / FITS + allowance.total
        notes = (
            f"no lever is enough: {choice.flags or 'as it is'} would need a card of {least / 1024:.1f} GiB; "
            f"take a larger card ({WINDOW})"
        )
    word = word_for(max(choice.train_before, choice.eval_before), usable, mendable=choice.fits)
    return Verdict(word, choice.train_before, choice.eval_before, usable, largest, largest_eval, levers, notes)
