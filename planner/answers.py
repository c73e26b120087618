"""The answer of `sal plan`: every recipe of the models asked about, on one card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine import models as registry
from engine.config import RunConfig, parse
from engine.models import ModelCard
from planner.card.budget import Budget
from planner.card.cards import Card
from planner.costs import RunCosts, asked_of, costs_of, size_of
from planner.duration import Duration, duration_of
from planner.host import Host, host_needs
from planner.levers import Option, options
from planner.measure import Device, Measured, measured
from planner.steps.peak import Steps
from planner.verdict import Verdict, judge
from planner.windows import largest_window
from shared_data.errors import LabError, UsageError, nearest

SETTINGS = ("dataset", "batch_size", "forward_batch_size", "test_batch_size", "train_window_size", "precision", "recompute")
"""What of a recipe an answer in JSON repeats."""


@dataclass(frozen=True)
class Question:
    """What is asked.

    budget   the card's memory
    card     its speed, None where no card was named
    changes  flags put behind each recipe: ("--batch-size", "32")
    details  also the levers one by one
    device   where the steps are also run; None: nowhere
    """

    budget: Budget
    card: Card | None = None
    changes: tuple[str, ...] = ()
    details: bool = False
    device: Device | None = None


@dataclass(frozen=True)
class Answer:
    """One recipe on the card asked about. `verdict` is None where it could not be judged; `problem` says why.

    window       the most frames that fit with the recipe's batch; None where there is one window only
    linear       whether memory follows a law in the batch (see `planner.steps.peak.Law`)
    approximate  whether the precision is autocast's, whose operations on a GPU are taken from a list (`planner.steps.kernels`)
    """

    model: str
    recipe: str
    config: RunConfig | None = None
    verdict: Verdict | None = None
    problem: str = ""
    window: int | None = None
    linear: bool = True
    approximate: bool = False
    duration: Duration | None = None
    host: Host | None = None
    options: Sequence[Option] = ()
    measured: Measured | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        told: dict[str, Any] = {"model": self.model, "recipe": self.recipe}
        if self.config is not None:
            names = (
                "dataset",
                "batch_size",
                "forward_batch_size",
                "test_batch_size",
                "train_window_size",
                "precision",
                "recompute",
            )
            told["settings"] = {name: getattr(self.config, name) for name in names}
        if self.verdict is None or self.host is None:
            return {**told, "word": None, "problem": self.problem}
        return {
            **told,
            **self.verdict.as_dict(),
            "largest_window": self.window,
            "affine": self.linear,
            "approximate": self.approximate,
            "time": self.duration.as_dict() if self.duration else None,
            "host": self.host.as_dict(),
            "measured": asdict(self.measured) if self.measured else None,
            "options": [self._option(option, self.verdict.budget) for option in self.options],
        }

    def _option(self, option: Option, budget: Budget) -> dict[str, Any]:
        peak = max(option.train, option.eval)
        return {
            "flags": option.flags, "changes_numbers": option.changes, "share_of_usable": round(budget.share(peak), 4),
            "tensors_mib": {"train": round(option.train, 1), "eval": round(option.eval, 1)},
        }  # fmt: skip


def answers(
    question: Question,
    cards: Mapping[str, ModelCard] | None = None,
    *,
    model: str | None = None,
    recipe: str | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> list[Answer]:
    """Answers for every recipe of `cards` (default: all discovered models), of one `model`, or of recipes called `recipe`.

    told   hears what is being looked at
    Raises `LabError` for unknown names. A recipe that cannot be read or traced is answered with its problem, never left out.
    """
    known = registry.discover() if cards is None else cards
    chosen = list(known.values()) if model is None else [known.get(model) or registry.find(model)]
    wanted = [(card, name, path) for card in chosen for name, path in card.recipes.items() if recipe in (None, name)]
    if recipe is not None and not wanted:
        names = [name for card in chosen for name in card.recipes]
        raise UsageError(f"no recipe {recipe!r}{nearest(recipe, names)}", expected=", ".join(dict.fromkeys(names)))
    traced: dict[str, Steps] = {}
    found = []
    for card, name, path in wanted:
        told(f"{card.name} {name}")
        found.append(_answer(question, card, name, path, traced))
    return found


def _answer(question: Question, card: ModelCard, recipe: str, path: Path, traced: dict[str, Steps]) -> Answer:
    try:
        config = parse(["--config", str(path), *question.changes], model=card.name)
    except LabError as error:
        if question.changes:
            raise
        return Answer(card.name, recipe, problem=error.what)
    try:
        size, asked = size_of(config.dataset), asked_of(config)
        costs = costs_of(card, config, size, traced)
        verdict = judge(costs, question.budget, asked)
        return Answer(
            card.name, recipe, config, verdict,
            window=largest_window(card, config, size, question.budget.room(), traced),
            linear=costs.law(asked, "train").linear and costs.law(asked, "eval").linear,
            approximate=config.precision != "fp32",
            duration=_duration(question, costs, config, verdict),
            host=host_needs(config, costs.steps.clip_shape, costs.law(asked, "train").gradients),
            measured=measured(config, card, size, question.device) if question.device else None,
            options=options(costs, asked, question.budget.room()) if question.details else (),
        )  # fmt: skip
    except LabError as error:
        return Answer(card.name, recipe, config, problem=error.what)


def _duration(question: Question, costs: RunCosts, config: RunConfig, verdict: Verdict) -> Duration | None:
    """Of the run as it would be started here: with the levers that it needs. None where no card is named or nothing helps."""
    if question.card is None or not verdict.choice.fits:
        return None
    return duration_of(costs, config, verdict.choice.settings, question.card, question.budget.calibration)
