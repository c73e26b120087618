"""Four words for "does it fit?", and what changes the answer.

The words judge the high end of what is predicted to be reserved on the card (`planner.card.budget`), so that what is called
"fits" fits also where the GPU's kernels take the largest workspaces and the allocator loses most that was reckoned with.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

from planner.card.budget import COMFORTABLE, FITS, GIB, Budget, Interval
from planner.levers import WINDOW, Choice, Costs, Settings, choose

Word = Literal["comfortable", "fits", "tight", "no"]


def word_for(share: float, *, mendable: bool) -> Word:
    """The word for a `share` of the usable memory, where `mendable` says that levers would make it fit."""
    if share <= COMFORTABLE:
        return "comfortable"
    if share <= FITS:
        return "fits"
    return "tight" if mendable else "no"


@dataclass(frozen=True)
class Verdict:
    """The answer for one recipe on one card.

    word             the worse of training and evaluation
    choice           the settings asked for, those that `--fit` would take, and the peaks of both in MiB of tensors
    largest_batch    clips per training step that still "fit" (0: none), and the same for evaluation
    otherwise        what helps where no lever does; "" for a larger card and a shorter window
    """

    word: Word
    budget: Budget
    choice: Choice
    largest_batch: int
    largest_eval_batch: int
    otherwise: str = ""

    @property
    def train(self) -> Interval:
        """MiB reserved in training as asked."""
        return self.budget.reserved(self.choice.train_before)

    @property
    def eval(self) -> Interval:
        """MiB reserved in evaluation as asked."""
        return self.budget.reserved(self.choice.eval_before)

    @property
    def share(self) -> float:
        """Of the usable memory, at the worse of both, the high end."""
        return self.budget.share(max(self.choice.train_before, self.choice.eval_before))

    @property
    def lever(self) -> str:
        """What makes it fit, as flags; "" if it fits as asked or nothing helps."""
        return self.choice.flags if self.choice.fits else ""

    @property
    def note(self) -> str:
        """What the levers change, or why none helps."""
        if not self.choice.fits:
            least = self.budget.card_for(max(self.choice.train, self.choice.eval))
            if self.otherwise:
                return f"it would need a card of {least:.1f} GiB; {self.otherwise}"
            return (
                f"no lever is enough: {self.choice.flags or 'as it is'} would need a card of {least:.1f} GiB; "
                f"take a larger card ({WINDOW})"
            )
        sentences = self.choice.sentences
        if self.choice.settings.piece < self.choice.asked.piece and self.largest_batch:
            sentences.append(f"or --batch-size {min(self.largest_batch, self.choice.asked.batch_size - 1)}")
        return "; ".join(sentences)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; MiB."""
        tensors = {"train": round(self.choice.train_before, 1), "eval": round(self.choice.eval_before, 1)}
        return {
            "word": self.word,
            "share_of_usable": round(self.share, 4),
            "usable_mib": round(self.budget.usable, 1),
            "tensors_mib": tensors,
            "allocated_mib": {phase: _rounded(self.budget.allocated(peak)) for phase, peak in tensors.items()},
            "reserved_mib": {"train": _rounded(self.train), "eval": _rounded(self.eval)},
            "largest_batch": self.largest_batch,
            "largest_test_batch": self.largest_eval_batch,
            "levers": self.choice.as_list() if self.choice.fits else [],
            "note": self.note,
        }  # fmt: skip


def _rounded(interval: Interval) -> dict[str, float]:
    return {"low": round(interval.low, 1), "point": round(interval.point, 1), "high": round(interval.high, 1)}


def told(mib: float) -> str:
    """`mib` MiB for a person: GiB, or MiB where there is not one GiB."""
    return f"{mib / GIB:.2f} GiB" if mib >= GIB else f"{mib:.0f} MiB"


def told_room(budget: Budget) -> str:
    """What of a card a run's tensors may take for it to fit, for a person."""
    room, card = budget.room(), f"{budget.vram_gib:.4g} GiB"
    return f"tensors may take {told(room)} of {card}" if room > 0 else f"nothing of {card} is left for tensors"


def judge(
    costs: Costs, budget: Budget, asked: Settings, *, fixed: AbstractSet[str] = frozenset(), otherwise: str = ""
) -> Verdict:
    """Whether training and evaluation as `asked` fit, and the levers that `--fit` would pull if not.

    fixed       names of settings that stay as asked, whatever they cost
    otherwise   as in `Verdict`
    """
    choice = choose(costs, asked, budget.room(), fixed=fixed)
    largest, largest_eval = costs.largest(asked, "train", budget.room()), costs.largest(asked, "eval", budget.room())
    share = budget.share(max(choice.train_before, choice.eval_before))
    return Verdict(word_for(share, mendable=choice.fits), budget, choice, largest, largest_eval, otherwise)
