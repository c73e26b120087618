"""`--fit 8GiB`: the settings of a run changed by the cheapest levers until its predicted peak fits a GPU of that size.

What the user gave on the command line stays as it is. The prediction is that of `sal plan`, with the same allowance; where it
does not fit after every lever that may be pulled, nothing is claimed and the run does not begin.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch

from engine import models
from engine.assembly import choose_device, load_data
from engine.config import RunConfig
from engine.errors import ConfigError
from planner.costs import Size, asked_of, costs_of, size_of
from planner.levers import WINDOW, Choice, choose
from planner.verdict import FITS, NOTE, PESSIMISTIC, usable_mib
from shared_data.errors import LabError

GIB = 1024.0
"""MiB."""
APPROXIMATE = "approximate, as a CPU's list of autocast operations stands in for a GPU's"
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


def fitted(config: RunConfig, given: AbstractSet[str] = frozenset()) -> Fitted:
    """`config` changed so that it fits the GPU memory named in its `fit`.

    given   keys that the user gave on the command line, which are not changed
    Raises `ConfigError` (2) for a size that is none or settings that cannot be predicted, `DoesNotFit` (76).
    """
    gib = memory_gib(config)
    _predictable(config)
    usable = usable_mib(gib)
    costs, asked = costs_of(models.find(config.model), config, _size(config)), asked_of(config)
    choice = choose(costs, asked, FITS * usable, fixed=_fixed(config, given), train=config.phase == "train")
    if not choice.fits:
        raise _refusal(choice, gib, usable)
    changed = {
        name: value for name, value in dataclasses.asdict(choice.settings).items() if value != getattr(asked, name)
    }  # fmt: skip
    # Also where nothing changed: a GPU's "auto" is what was predicted.
    result = dataclasses.replace(config, **{"recompute": choice.settings.recompute, **changed})
    return Fitted(result, _lines(choice, gib, usable), _record(choice, config, gib, usable))


def memory_gib(config: RunConfig) -> float:
    """GiB of `fit`: 8, 8GiB, 8GB (cards are sold so, and hold GiB) or 7.5G; "auto" is the memory of the run's own GPU."""
    if config.fit == "auto":
        device = choose_device(config.device)
        if device.type != "cuda":
            raise ConfigError(
                "--fit auto asks the GPU for its memory, and the run has none", where="--fit",
                expected="the size of the GPU to plan for, such as --fit 8GiB",
            )  # fmt: skip
        return float(torch.cuda.get_device_properties(device).total_memory) / 2**30
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:g|gb|gib)?", config.fit.strip().lower())
    if size is None or not float(size[1]):
        raise ConfigError(f"{config.fit!r} is no size of a GPU's memory", where="--fit", expected="8GiB, 7.5GiB, 8 or auto")
    return float(size[1])


def _predictable(config: RunConfig) -> None:
    """Refuse what takes memory that the traced step does not have."""
    unknown = {"compile": config.compile, "cuda_graphs": config.cuda_graphs, "augment_on": config.augment_on == "device"}
    if found := [f"--{name.replace('_', '-')}" for name, on in unknown.items() if on]:
        raise ConfigError(
            f"--fit cannot predict the memory of a run with {' and '.join(found)}", where="--fit",
            next_step="leave one of them out; --recompute, --precision and --forward-batch-size can be given by hand",
        )  # fmt: skip


def _size(config: RunConfig) -> Size:
    """Of the data set that the recipe is for; one for any data set is asked what it holds."""
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


def told(mib: float) -> str:
    """`mib` MiB for a person: GiB, or MiB where there is not one GiB."""
    return f"{mib / GIB:.2f} GiB" if mib >= GIB else f"{mib:.0f} MiB"


def _peaks(train: float, evaluation: float) -> str:
    evaluated = f"evaluation {told(evaluation)}"
    return f"training {told(train)}, {evaluated}" if train else evaluated


def _approximate(choice: Choice) -> bool:
    return choice.settings.precision != "fp32"


def _lines(choice: Choice, gib: float, usable: float) -> list[str]:
    before, after = _peaks(choice.train_before, choice.eval_before), _peaks(choice.train, choice.eval)
    room = f"{told(FITS * usable)} may be used of {gib:.4g} GiB; {NOTE}"
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


def _record(choice: Choice, config: RunConfig, gib: float, usable: float) -> dict[str, Any]:
    return {
        "fit": config.fit,
        "memory_gib": gib,
        "usable_mib": round(usable, 1),
        "room_mib": round(FITS * usable, 1),
        "allowance": PESSIMISTIC.sentence(),
        "prediction": f"{NOTE}; {APPROXIMATE}" if _approximate(choice) else NOTE,
        "approximate": _approximate(choice),
        "torch": torch.__version__,
        "asked": dataclasses.asdict(choice.asked),
        "settings": dataclasses.asdict(choice.settings),
        "levers": [
            {"setting": lever.setting[0], "value": value, "changes_numbers": lever.changes, "says": sentence}
            for (lever, value), sentence in zip(choice.levers, choice.sentences, strict=True)
        ],
        "predicted_mib": {
            "before": {"train": round(choice.train_before, 1), "eval": round(choice.eval_before, 1)},
            "after": {"train": round(choice.train, 1), "eval": round(choice.eval, 1)},
        },
    }


def _refusal(choice: Choice, gib: float, usable: float) -> DoesNotFit:
    least = max(choice.train, choice.eval) / FITS + (gib * GIB - usable)
    return DoesNotFit(
        f"the run is not predicted to fit {gib:.4g} GiB, whatever lever is pulled",
        where=f"nearest: {choice.flags or 'the settings as they are'}: {_peaks(choice.train, choice.eval)}",
        expected=f"{told(FITS * usable)} at most; a GPU of {least / GIB:.1f} GiB would do "
        f"({NOTE}{f'; {APPROXIMATE}' if _approximate(choice) else ''})",
        next_step=f"a larger GPU, fewer settings fixed on the command line, or a smaller --batch-size; {WINDOW}",
    )
