"""The answer of `sal plan`: every recipe of the models asked about, on one card; of a zero-shot system, every published task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from engine import models as registry
from engine.config import RunConfig, parse
from engine.models import ModelCard
from planner import zeroshot
from planner.card.budget import Budget
from planner.card.cards import Card
from planner.costs import RunCosts, Size, asked_of, costs_of, size_of
from planner.duration import Duration, duration_of
from planner.host import Host, host_needs
from planner.lengths import AtLength, Lengths
from planner.levers import Option, Settings, options
from planner.measure import Device, Measured, measured
from planner.steps.peak import Steps
from planner.verdict import Verdict, judge
from planner.windows import largest_window
from planner.zeroshot import OnCpu, Published
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
    frames   of untrimmed sequences: lengths that are told beside each other, the longest of which is judged; (): the usual one
    """

    budget: Budget
    card: Card | None = None
    changes: tuple[str, ...] = ()
    details: bool = False
    device: Device | None = None
    frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Rung:
    """Settings that could be taken; `chosen` by `--fit`, `duration` where a card is named."""

    option: Option
    chosen: bool
    duration: Duration | None

    @property
    def peak(self) -> float:
        """MiB of tensors, the worse of training and evaluation."""
        return max(self.option.train, self.option.eval)

    def as_dict(self, budget: Budget) -> dict[str, Any]:
        """For JSON."""
        peaks = {"train": self.option.train, "eval": self.option.eval}
        return {
            "flags": self.option.flags,
            "chosen": self.chosen,
            "changes_numbers": self.option.changes,
            "share_of_usable": round(budget.share(self.peak), 4),
            "tensors_mib": {phase: round(peak, 1) for phase, peak in peaks.items()},
            "reserved_mib": {
                phase: {end: round(mib, 1) for end, mib in asdict(budget.reserved(peak)).items()} for phase, peak in peaks.items()
            },
            "time": self.duration.as_dict() if self.duration else None,
        }


@dataclass(frozen=True)
class Answer:
    """One recipe on the card asked about. `verdict` is None where it could not be judged; `problem` says why.

    config       of a classifier's recipe; None for a zero-shot system, whose `recipe` is the name of a published `task`
    cpu          what was measured without a GPU, where something was
    window       the most frames that fit with the recipe's batch; None where there is one window only
    frames       of the longest sequence, of untrimmed data; None of clips
    longest      frames of the longest sequence that fits, all else as it is; None where batches are not of whole sequences, or
                 details were not asked for
    lengths      peaks at other lengths, where some were named
    duration     with the levers that are needed; None where no card is named or nothing helps
    ladder       settings that could be taken, the cheapest first; empty unless details were asked for
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
    ladder: Sequence[Rung] = ()
    measured: Measured | None = None
    task: Published | None = None
    cpu: OnCpu | None = None
    frames: int | None = None
    longest: int | None = None
    lengths: Sequence[AtLength] = ()

    @property
    def batch(self) -> str:
        """Clips of a step, "64/16" where they go in pieces; "" where nothing is known."""
        if self.task is not None:
            return str(self.task.settings.batch)
        if self.config is None:
            return ""
        return f"{self.config.batch_size}{f'/{self.config.forward_batch_size}' if self.config.forward_batch_size else ''}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        told: dict[str, Any] = {"model": self.model, "recipe": self.recipe}
        if self.config is not None:
            told["settings"] = {name: getattr(self.config, name) for name in SETTINGS}
        if self.frames is not None:
            told |= {"frames": self.frames, "longest_sequence": self.longest}
        if self.task is not None:
            told |= {"settings": self.task.as_dict(), "cpu": self.cpu.as_dict() if self.cpu else None}
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
            "ladder": [rung.as_dict(self.verdict.budget) for rung in self.ladder],
            **({"lengths": [asdict(one) for one in self.lengths]} if self.lengths else {}),
        }


def answers(
    question: Question,
    cards: Mapping[str, ModelCard] | None = None,
    *,
    model: str | None = None,
    recipe: str | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> list[Answer]:
    """Answers for every recipe of `cards` (default: all discovered models), or of one `model`.

    recipe   only those of this name, or of this pattern: "*ntu60_xsub*"
    told     hears what is being looked at
    Raises `LabError` for unknown names. A recipe that cannot be read or traced is answered with its problem, never left out.
    """
    known = registry.discover(None) if cards is None else cards
    chosen = list(known.values()) if model is None else [known.get(model) or registry.find(model, None)]
    wanted = [(card, name) for card in chosen for name in _recipes(card) if fnmatchcase(name, "*" if recipe is None else recipe)]
    if recipe is not None and not wanted:
        names = [name for card in chosen for name in _recipes(card)]
        raise UsageError(f"no recipe {recipe!r}{nearest(recipe, names)}", expected=", ".join(dict.fromkeys(names)))
    traced: dict[str, Steps] = {}
    found = []
    for number, (card, name) in enumerate(wanted, 1):
        told(f"{card.name} {name} ({number} of {len(wanted)})")
        found.append(_of_task(question, card, name) if card.kind == "zeroshot" else _answer(question, card, name, traced))
    return found


def _recipes(card: ModelCard) -> list[str]:
    """What can be asked about."""
    if card.kind == "zeroshot":
        return zeroshot.tasks()
    return [name if stage == "supervised" else f"{stage}/{name}" for stage in registry.STAGES for name in card.recipes_of(stage)]


def recipe_config(card: ModelCard, recipe: str, changes: Sequence[str] = ()) -> RunConfig:
    """The settings of a recipe, "ntu60_xsub", "pretrain/NAME" or "segment/NAME", with flags behind it; raises `LabError`."""
    words: list[Any] = recipe.split("/")
    stage: registry.Stage = words[0] if len(words) == 2 else "supervised"
    return parse(["--config", str(card.recipe(words[-1], stage)), *changes], model=card.name, stage=stage)


def _answer(question: Question, card: ModelCard, recipe: str, traced: dict[str, Steps]) -> Answer:
    try:
        config = recipe_config(card, recipe, question.changes)
    except LabError as error:
        if question.changes:
            raise
        return Answer(card.name, recipe, problem=error.what)
    try:
        size = size_of(config.dataset, config.stage, max(question.frames, default=None))
        costs = costs_of(card, config, size, traced)
        if not size.frames:
            _require_window(question, config, costs.steps.clip_shape[-3])
        return _judged(question, card, recipe, config=config, size=size, costs=costs, traced=traced)
    except LabError as error:
        return Answer(card.name, recipe, config, problem=error.what)


def _judged(
    question: Question,
    card: ModelCard,
    recipe: str,
    *,
    config: RunConfig,
    size: Size,
    costs: RunCosts,
    traced: dict[str, Steps],
) -> Answer:
    asked, budget = asked_of(config), question.budget
    verdict = judge(costs, budget, asked)

    def duration(settings: Settings) -> Duration | None:
        return duration_of(costs, config, settings, question.card, budget.calibration) if question.card else None

    def ladder() -> Iterator[Rung]:
        choice = verdict.choice
        chosen = Option(asked, choice.settings, choice.train, choice.eval)
        found = options(costs, asked, budget.room())
        for option in found if chosen.settings in [one.settings for one in found] else [*found, chosen]:
            taken = choice.fits and option.settings == choice.settings
            yield Rung(option, taken, duration(option.settings))

    sequences = Lengths(card, config, size, traced) if size.frames else None
    return Answer(
        card.name, recipe, config, verdict,
        window=None if sequences else largest_window(card, config, size, budget.room(), traced),
        linear=costs.linear(asked),
        approximate=config.precision != "fp32",
        duration=duration(verdict.choice.settings) if verdict.choice.fits else None,
        host=host_needs(config, costs.steps.clip_shape, costs.steps.weights),
        measured=measured(config, card, size, question.device) if question.device else None,
        ladder=tuple(ladder()) if question.details else (),
        frames=size.frames or None,
        longest=sequences.longest(budget.room()) if sequences and sequences.matters and question.details else None,
        lengths=sequences.table(question.frames) if sequences and len(question.frames) > 1 else (),
    )  # fmt: skip


def _of_task(question: Question, card: ModelCard, name: str) -> Answer:
    """One published task of a zero-shot system."""
    gpu, budget = question.card, question.budget
    try:
        task = zeroshot.task_named(name, question.changes)
        costs = zeroshot.costs_of(card, task)
        verdict = zeroshot.judged(costs, budget)
    except UsageError:
        raise
    except LabError as error:
        return Answer(card.name, name, problem=error.what)
    return Answer(
        card.name, name, None, verdict,
        duration=zeroshot.duration_of(costs, gpu, budget.calibration) if gpu and verdict.choice.fits else None,
        host=zeroshot.host_needs(costs),
        measured=zeroshot.measured(costs, question.device) if question.device else None,
        task=task,
        cpu=zeroshot.on_cpu(card, task),
    )  # fmt: skip


def _require_window(question: Question, config: RunConfig, frames: int) -> None:
    """Refuse a window that was asked for and that the pipeline does not make."""
    if "--train-window-size" in question.changes and frames != config.train_window_size:
        raise LabError(f"its clips have {frames} frames, whatever the window is ({config.pipeline}): ask without --window")
