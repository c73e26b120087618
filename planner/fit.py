"""`--fit 8GiB`: the settings of a run changed by the cheapest levers until its predicted peak fits a GPU of that size.

What the user gave on the command line stays as it is. The prediction is that of `sal plan`, with the same allowance; where it
does not fit after every lever that may be pulled, nothing is claimed and the run does not begin.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch

from engine import memory, models
from engine.assembly import choose_device, load_data
from engine.config import RunConfig
from engine.errors import ConfigError
from engine.segmentation import material
from planner.card.budget import Budget, for_card, of_device
from planner.costs import RunCosts, Size, asked_of, costs_of, size_of
from planner.levers import WINDOW, Choice, choose
from planner.verdict import told, told_room
from shared_data.errors import LabError

PREDICTION = "peaks of tensors, traced without values; workspaces and fragmentation by the calibration"
"""What the figures of a choice are."""
APPROXIMATE = "approximate, as a list of CUDA's autocast operations stands in for a GPU"
"""What is to be said of a prediction under autocast."""


class DoesNotFit(LabError):
    """No permitted lever brings the predicted peak below what the GPU offers."""

    exit_code = 76


@dataclass(frozen=True)
class Fitted:
    """Settings that are predicted to fit, and what a run folder keeps about the choice.

    config   to be run
    lines    for the user
    record   for `fit.json`
    """

    config: RunConfig
    lines: list[str]
    record: dict[str, Any]


def fitted(config: RunConfig, given: AbstractSet[str] = frozenset(), begun: Mapping[str, Any] | None = None) -> Fitted:
    """`config` changed so that it fits the GPU memory named in its `fit`.

    given   keys that the user gave on the command line, which are not changed
    begun   the record of the fit that a run to be resumed was begun with: what other programs held then is reckoned with again
    Raises `ConfigError` (2) for a size that is none or settings that cannot be predicted, `DoesNotFit` (76).
    """
    budget = budget_of(config)
    if begun and begun["fit"] == config.fit:
        budget = dataclasses.replace(budget, taken_gib=float(begun.get("taken_gib", 0.0)))
    refuse_unpredictable(config)
    costs, asked = _costs(config), asked_of(config)
    choice = choose(costs, asked, budget.room(), fixed=_fixed(config, given), train=config.phase == "train")
    if not choice.fits:
        raise _refusal(choice, budget)
    changed = {
        name: value for name, value in dataclasses.asdict(choice.settings).items() if value != getattr(asked, name)
    }  # fmt: skip
    # Also where nothing changed: a GPU's "auto" is what was predicted.
    result = dataclasses.replace(config, **{"recompute": choice.settings.recompute, **changed})
    return Fitted(result, _lines(choice, budget), _record(choice, config, budget))


def memory_gib(size: str) -> float:
    """GiB of a GPU's size: 8, 8GiB, 8GB (cards are sold so, and hold GiB) or 7.5G. Raises `ConfigError` (2) for anything else."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:g|gb|gib)?", size.strip().lower())
    if number is None or not float(number[1]):
        raise ConfigError(f"{size!r} is no size of a GPU's memory", where="--fit", expected="8GiB, 7.5GiB, 8 or auto")
    return float(number[1])


def budget_of(config: RunConfig) -> Budget:
    """Of the GPU that `fit` names: a card of that size, or for "auto" the run's own, with what other programs hold of it now."""
    wanted = None if config.fit == "auto" else memory_gib(config.fit)
    device = choose_device(config.device)
    here = memory.gpu(device) if memory.counted(device) else None
    if wanted is not None:
        return for_card(here.name if here else None, wanted)
    if here is None:
        raise ConfigError(
            "--fit auto asks the GPU for its memory, and the run has none", where="--fit",
            expected="the size of the GPU to plan for, such as --fit 8GiB",
        )  # fmt: skip
    return of_device(here.name, here.total, others_bytes=here.others)


def refuse_unpredictable(config: RunConfig) -> None:
    """Refuse what takes memory that the traced step does not have."""
    unknown = {"compile": config.compile, "cuda_graphs": config.cuda_graphs, "augment_on": config.augment_on == "device"}
    if found := [f"--{name.replace('_', '-')}" for name, on in unknown.items() if on]:
        raise ConfigError(
            f"the memory of a run with {' and '.join(found)} cannot be predicted", where="--fit",
            next_step="leave one of them out; --recompute, --precision and --forward-batch-size can be given by hand",
        )  # fmt: skip


def _costs(config: RunConfig) -> RunCosts:
    return costs_of(models.find_for(config.model, config.stage), config, size_of_data(config))


def size_of_data(config: RunConfig) -> Size:
    """Of the data set that the recipe is for; one for any data set is asked what it holds.

    Untrimmed data are always asked where they are named, for their longest sequence.
    """
    if config.stage == "segment":
        if config.data is None:
            return size_of(config.dataset, config.stage)
        sequences = material.load(config)
        frames = max(int(part.lengths.max()) for part in (sequences.train, sequences.held_out, sequences.test))
        return Size(len(sequences.source.class_names), sequences.source.skeleton.name, sequences.people, frames)
    if config.dataset != "auto" or config.data is None:
        return size_of(config.dataset)
    data = load_data(config)
    return Size(data.num_classes, data.skeleton.name, data.train.max_people)


def _fixed(config: RunConfig, given: AbstractSet[str]) -> frozenset[str]:
    fixed = set(given)
    if config.recompute == "auto":  # also where it was said: it leaves the choice
        fixed.discard("recompute")
    if "memory_friendly" in given and config.memory_friendly:
        fixed |= {"forward_batch_size", "test_batch_size"}
    return frozenset(fixed)


def _peaks(train: float, evaluation: float) -> str:
    evaluated = f"evaluation {told(evaluation)}"
    return f"training {told(train)}, {evaluated}" if train else evaluated


def _approximate(choice: Choice) -> bool:
    return choice.settings.precision != "fp32"


def _lines(choice: Choice, budget: Budget) -> list[str]:
    before, after = _peaks(choice.train_before, choice.eval_before), _peaks(choice.train, choice.eval)
    room = f"{told_room(budget)}: {budget.sentence()}"
    remark = [f"     {choice.settings.precision}: {APPROXIMATE}"] if _approximate(choice) else []
    if not choice.levers:
        return [f"fit: nothing to change ({before}; {room})", *remark]
    return [
        f"fit: {choice.flags}",
        *(f"     {sentence}" for sentence in choice.sentences),
        f"     predicted before: {before}; after: {after}",
        f"     {room}",
        *remark,
    ]


def _record(choice: Choice, config: RunConfig, budget: Budget) -> dict[str, Any]:
    return {
        "fit": config.fit,
        "memory_gib": budget.vram_gib,
        "taken_gib": budget.taken_gib,
        "usable_mib": round(budget.usable, 1),
        "room_mib": round(budget.room(), 1),
        "calibration": dataclasses.asdict(budget.calibration),
        "prediction": f"{PREDICTION}; {APPROXIMATE}" if _approximate(choice) else PREDICTION,
        "approximate": _approximate(choice),
        "torch": torch.__version__,
        "asked": dataclasses.asdict(choice.asked),
        "settings": dataclasses.asdict(choice.settings),
        "levers": choice.as_list(),
        "predicted_mib": {
            "before": {"train": round(choice.train_before, 1), "eval": round(choice.eval_before, 1)},
            "after": {"train": round(choice.train, 1), "eval": round(choice.eval, 1)},
        },
    }


def _refusal(choice: Choice, budget: Budget) -> DoesNotFit:
    remark = f"; {APPROXIMATE}" if _approximate(choice) else ""
    return DoesNotFit(
        f"the run is not predicted to fit {budget.vram_gib:.4g} GiB, whatever lever is pulled",
        where=f"nearest: {choice.flags or 'the settings as they are'}: {_peaks(choice.train, choice.eval)}",
        expected=f"{told_room(budget)}: {budget.sentence()}; "
        f"a GPU of {budget.card_for(max(choice.train, choice.eval)):.1f} GiB would do{remark}",
        next_step=f"a larger GPU, fewer settings fixed on the command line, or a smaller --batch-size; {WINDOW}",
    )
