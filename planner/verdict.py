"""Four words for "does it fit?", and the lever that changes the answer.

First cut: the predicted peak is tensors only, so the card's memory is reduced by a stated, pessimistic allowance before
the comparison, and the upper limit of "fits" leaves 8 % of the rest for the allocator's slack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.peak import Law
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


def judge(
    law: Law,
    vram_gib: float,
    *,
    batch: int,
    test_batch: int,
    forward_batch: int | None = None,
    eval_law: Law | None = None,
    allowance: Allowance = PESSIMISTIC,
) -> Verdict:
    """Whether training at `batch` (in pieces of `forward_batch`) with evaluation at `test_batch` fits `vram_gib`.

    `eval_law`: for evaluation on clips of another length than those of training.
    """
    usable = usable_mib(vram_gib, allowance)
    room = FITS * usable
    train = law.peak(batch, micro_batch=forward_batch)
    evaluation = (eval_law or law).peak(test_batch, "eval")
    largest, largest_eval = law.largest_batch(room), (eval_law or law).largest_batch(room, "eval")
    levers: list[str] = []
    notes: list[str] = []
    if train > room:
        piece = _divisor_below(batch, min(law.largest_batch(room, micro=True), batch - 1))
        if piece:
            levers.append(f"--forward-batch-size {piece}")
            notes.append(f"same step size, but BatchNorm sees {piece} clips at a time; or --batch-size {min(largest, batch - 1)}")
        else:
            least = law.peak(1) + law.gradients + allowance.total if law.linear else 0.0
            card = f"; one clip at a time would need {least / FITS / 1024:.1f} GiB" if least else ""
            notes.append(f"no batch is small enough: shorten the window or take a larger card{card}")
    if evaluation > room:
        if largest_eval:
            levers.append(f"--test-batch-size {_power_of_two_below(largest_eval)}")
            notes.append("evaluation batch: changes no number")
        else:
            notes.append("not even one clip can be evaluated")
    word = word_for(max(train, evaluation), usable, mendable=len(levers) == (train > room) + (evaluation > room))
    return Verdict(word, train, evaluation, usable, largest, largest_eval, " ".join(levers), "; ".join(notes))


def _divisor_below(batch: int, limit: int) -> int:
    """The largest divisor of `batch` up to `limit`, so that all pieces are equal; 0 if `limit` is."""
    return next((piece for piece in range(limit, 1, -1) if batch % piece == 0), 1 if limit >= 1 else 0)


def _power_of_two_below(limit: int) -> int:
    return 1 << (limit.bit_length() - 1)
