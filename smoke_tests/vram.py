"""Does a model's main recipe fit a GPU of so many GiB? Predicted by the planner of this image; measured too where there is a GPU.

The prediction needs no GPU and is about any card; the measurement is on the GPU at hand, which may be a larger one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared_data.errors import UsageError

if TYPE_CHECKING:
    from engine.models import ModelCard
    from planner.card.budget import Budget
    from planner.measure import Figures, Gpu
    from planner.verdict import Verdict

MAIN = "ntu60_xsub"
ALL_FITS = ("comfortable", "fits")
MAIN_TASK = "60/5"
_STEPS, _WARM_UP = 1, 2  # memory is at its peak from the second step on, when the optimizer has its state
_MIB = 2**20


def main_recipe(card: ModelCard) -> str | None:
    """The recipe that a model is known by: NTU-60 cross-subject (of the first size where there are several), else its first.

    Of a zero-shot system, a published task; None where there is no recipe that trains on clips.
    """
    if card.kind == "zeroshot":
        return MAIN_TASK
    names = [*card.recipes, None]
    return next((n for n in names if n == MAIN), next((n for n in names if n and n.endswith(MAIN)), names[0]))


def budget(limit_gib: float, device: str) -> Budget:
    """A card of `limit_gib` GiB: the GPU that `device` is if that has about as much, else one of which nothing is known.

    Raises `UsageError` for what is no size.
    """
    import torch

    from planner.card.budget import for_card

    if not 0 < limit_gib < math.inf:
        raise UsageError(f"{limit_gib} is no size of a GPU's memory", where="--vram-limit", expected="GiB, such as 8")
    return for_card(torch.cuda.get_device_name(device) if device.startswith("cuda") else None, limit_gib)


def judged(card: ModelCard, budget: Budget, device: str) -> dict[str, Any]:
    """The `vram` object of a result line; MiB.

    recipe, batch              what was judged
    word                       of `planner.verdict`
    reason                     the flags with which a "tight" one fits, or why nothing helps; "" where it fits as it is
    predicted_mib              reserved in training and in evaluation, the most likely value; `interval` has the bounds
    predicted_allocated_mib    the same of what tensors and workspaces take of that
    usable_mib                 what a process can have of such a card
    measured_allocated_mib, measured_reserved_mib   peaks of the recipe's own steps on `device`, the larger of both phases; None
                               without a GPU, and where it ran out of memory, which `measured_note` then says
    out_of_memory_mib          what the GPU offers on which they ran out of memory, None where they did not
    Raises `LabError` where the recipe cannot be traced, and `UsageError` where there is none.
    """
    recipe = main_recipe(card)
    if recipe is None:
        raise UsageError(f"{card.name} has no recipe that trains on clips", where=str(card.folder))
    asked = _of_task(card, recipe, budget) if card.kind == "zeroshot" else _of_recipe(card, recipe, budget)
    verdict = asked.verdict
    phases = {"train": verdict.choice.train_before, "eval": verdict.choice.eval_before}
    reserved = {phase: budget.reserved(peak) for phase, peak in phases.items()}
    levers = f"fits with {verdict.lever} ({verdict.note})" if verdict.lever else ""
    return {
        "limit_gib": budget.vram_gib, "recipe": recipe, "batch": verdict.choice.asked.batch_size, "word": verdict.word,
        "reason": verdict.note if verdict.word == "no" else levers,
        "predicted_mib": {phase: round(one.point, 1) for phase, one in reserved.items()},
        "interval": {phase: [round(one.low, 1), round(one.high, 1)] for phase, one in reserved.items()},
        "predicted_allocated_mib": {phase: round(budget.allocated(peak).point, 1) for phase, peak in phases.items()},
        "usable_mib": round(budget.usable, 1),
        **_measured(asked.measure, device),
    }  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """What the planner says, and how both phases are measured on a GPU; None for one that runs out of memory."""

    verdict: Verdict
    measure: Callable[[Gpu], list[Figures | None]]


def _of_recipe(card: ModelCard, recipe: str, budget: Budget) -> _Asked:
    from engine.config import parse
    from planner.costs import asked_of, costs_of, size_of
    from planner.measure import measured_phase
    from planner.verdict import judge

    config = parse(["--config", str(card.recipe(recipe))], model=card.name)
    size = size_of(config.dataset)

    def measure(gpu: Gpu) -> list[Figures | None]:
        return [measured_phase(phase, config, card, size, gpu, steps=_STEPS, warm_up=_WARM_UP) for phase in ("train", "eval")]

    return _Asked(judge(costs_of(card, config, size), budget, asked_of(config)), measure)


def _of_task(card: ModelCard, task: str, budget: Budget) -> _Asked:
    from planner import zeroshot

    costs = zeroshot.costs_of(card, zeroshot.task_named(task))

    def measure(gpu: Gpu) -> list[Figures | None]:
        both = zeroshot.measured(costs, gpu)
        return [both.train, both.eval]

    return _Asked(zeroshot.judged(costs, budget), measure)


def assertions(vram: Mapping[str, Any]) -> dict[str, bool]:
    """What a `vram` object must hold: an answer other than "no", and no measurement that gives the lie to one that all fits.

    Nothing is asserted of a measurement that says nothing: none was made, or it ran out of memory on a smaller card.
    """
    reserved, full, usable = vram["measured_reserved_mib"], vram["out_of_memory_mib"], vram["usable_mib"]
    holds = {"fits_vram_limit": vram["word"] != "no"}
    ran_out = full is not None and full >= usable
    if reserved is None and not ran_out:
        return holds
    optimistic = vram["word"] in ALL_FITS and (ran_out or reserved > usable)
    return {**holds, "measured_within_vram_limit": not optimistic}


def own_peaks(device: str) -> dict[str, int | None]:
    """The peaks of this process so far, in bytes: of the smoke test's own steps."""
    import torch

    if not device.startswith("cuda"):
        return {"peak_cuda_bytes": None, "peak_cuda_reserved_bytes": None}
    return {
        "peak_cuda_bytes": torch.cuda.max_memory_allocated(device),
        "peak_cuda_reserved_bytes": torch.cuda.max_memory_reserved(device),
    }


def _measured(measure: Callable[[Gpu], list[Figures | None]], device: str) -> dict[str, Any]:
    nothing: dict[str, Any] = {"measured_allocated_mib": None, "measured_reserved_mib": None, "out_of_memory_mib": None}
    if not device.startswith("cuda"):
        return {**nothing, "measured_note": "not measured (no GPU)"}
    import torch

    from planner.measure import Gpu

    figures = measure(Gpu(torch.device(device).index or 0))
    found = [one for one in figures if one is not None]
    if len(found) < len(figures):
        of = torch.cuda.get_device_properties(device).total_memory / _MIB
        note = f"not measured: out of memory on this GPU of {of:.0f} MiB"
        return {**nothing, "out_of_memory_mib": round(of, 1), "measured_note": note}
    return {
        **nothing,
        "measured_allocated_mib": round(max(one.allocated_mib for one in found), 1),
        "measured_reserved_mib": round(max(one.reserved_mib for one in found), 1),
        "measured_note": "",
    }
