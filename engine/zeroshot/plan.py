"""What a zero-shot run is to do, and where that leaves the published way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from engine.zeroshot import settings as of_training
from engine.zeroshot.gate import TEMPERATURE, THRESHOLD
from engine.zeroshot.selection import Selection
from engine.zeroshot.settings import Noise, Settings
from shared_data import zeroshot_splits as splits
from shared_data.errors import UsageError
from shared_data.zeroshot_splits import Phase, Split

PUBLISHED_SEED = 5


@dataclass(frozen=True)
class Plan:
    """One run of the five stages.

    test, val   the splits; as many unseen classes in both
    settings    of training
    seeds       each is a run of its own
    selection   which cycle counts
    temperature, threshold   of the gate; None: searched
    """

    test: Split
    val: Split
    settings: Settings
    seeds: tuple[int, ...] = (PUBLISHED_SEED,)
    selection: Selection = "oracle"
    temperature: float | None = TEMPERATURE
    threshold: float | None = THRESHOLD

    def split(self, phase: Phase) -> Split:
        """That of a phase."""
        return self.test if phase == "test" else self.val

    def as_json(self) -> dict[str, Any]:
        """Plain values: what makes two runs the same, their seeds apart."""
        return {name: value for name, value in asdict(self).items() if name != "seeds"}


@dataclass(frozen=True)
class Deviation:
    """A setting that is not the published one."""

    name: str
    value: Any
    published: Any = field(compare=False)


def published(classes: int, unseen: int, *, truncated: bool = True, settings: Settings | None = None, **choices: Any) -> Plan:
    """The plan for a published task; `choices` are further fields of `Plan`. Raises `UsageError`.

    truncated   the official list of 120/10 in validation, which lacks 19 of the 100 seen classes
    settings    None: the published ones
    """
    plan = Plan(
        splits.published(classes, unseen),
        splits.published(classes, unseen, "val", truncated=truncated),
        settings or of_training.published(classes),
        **choices,
    )
    require_sound(plan)
    return plan


def corrected(settings: Settings) -> Settings:
    """Without two of the official quirks: noise for each latent dimension, and scores of the classifier without a ReLU."""
    return replace(settings, noise="per_dimension", relu_logits=False)


def require_sound(plan: Plan) -> None:
    """Raises `UsageError` that names what cannot be."""
    settings, gate = plan.settings, (plan.temperature, plan.threshold)
    rates = ("lr", "classifier_lr")
    counts = ("latent", "cycles", "steps", "batch", "samples", "classifier_steps")
    checks: Sequence[tuple[bool, str, object, str]] = [
        *((getattr(settings, name) >= 1, name, getattr(settings, name), "at least 1") for name in counts),
        *((0 < getattr(settings, name) < float("inf"), name, getattr(settings, name), "above 0") for name in rates),
        (settings.noise in get_args(Noise), "noise", settings.noise, ", ".join(get_args(Noise))),
        (plan.selection in get_args(Selection), "select", plan.selection, ", ".join(get_args(Selection))),
        (bool(plan.seeds) and len(set(plan.seeds)) == len(plan.seeds), "seeds", plan.seeds, "at least one, each once"),
        (all(0 <= seed < 2**32 for seed in plan.seeds), "seeds", plan.seeds, "0 to 4294967295"),
        (gate[0] is None or 0 < gate[0] < float("inf"), "temperature", gate[0], "above 0"),
        (gate[1] is None or 0 < gate[1] < 1, "threshold", gate[1], "between 0 and 1"),
        (
            len(plan.val.unseen) == len(plan.test.unseen) and plan.val.classes == plan.test.classes,
            "validation split", f"{len(plan.val.unseen)} of {plan.val.classes} classes unseen",
            f"{len(plan.test.unseen)} of {plan.test.classes}, as in the test: the gate looks at as many probabilities",
        ),
        (
            not set(plan.test.unseen) & {*plan.val.seen, *plan.val.unseen},
            "validation split", sorted(set(plan.test.unseen) & {*plan.val.seen, *plan.val.unseen}),
            "none of the test's unseen classes",
        ),
    ]  # fmt: skip
    for holds, name, value, expected in checks:
        if not holds:
            raise UsageError(f"{name}: {value}", where="a zero-shot run", expected=expected)


def deviations(plan: Plan) -> list[Deviation]:
    """Where the plan is not the published one for its splits; the cycle that counts is always said besides."""
    usual = asdict(of_training.published(plan.test.classes))
    found = [Deviation(name, value, usual[name]) for name, value in asdict(plan.settings).items() if value != usual[name]]
    task = (plan.test.classes, len(plan.test.unseen))
    known = task in splits.UNSEEN and splits.published(*task) == plan.test
    if not known:
        found.append(Deviation("test split", list(plan.test.unseen), "60/5, 60/12, 120/10 or 120/24"))
    elif splits.published(*task, "val") != plan.val:
        found.append(Deviation("seen classes in validation", len(plan.val.seen), len(splits.published(*task, "val").seen)))
    if (plan.temperature, plan.threshold) != (TEMPERATURE, THRESHOLD):
        found.append(Deviation("gate", [plan.temperature, plan.threshold], [TEMPERATURE, THRESHOLD]))
    return found
