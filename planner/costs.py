"""What the steps of a run cost: from its settings to traces of its network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

from torch import nn

from engine import models as registry
from engine.assembly import clip_shape, model_arguments, objective_arguments
from engine.config import RunConfig
from engine.models import ModelCard
from planner.levers import Settings
from planner.steps.cache import store_of
from planner.steps.peak import Law, Steps
from planner.steps.tracing import Phase, StepSettings
from planner.steps.work import StepWork
from shared_data.errors import LabError
from shared_data.protocols import BENCHMARKS
from shared_data.skeletons import skeleton

Made = TypeVar("Made")


@dataclass(frozen=True)
class Size:
    """What a network is built for."""

    classes: int
    skeleton: str
    people: int


def size_of(dataset: str) -> Size:
    """That of a data set named in a recipe; "auto", whatever comes, is taken for NTU-60. Raises `LabError` for an unknown one."""
    name = "ntu60" if dataset == "auto" else dataset
    if name not in BENCHMARKS:
        raise LabError(f"no clip shape known for data set {name!r}", expected=", ".join(BENCHMARKS))
    benchmark = BENCHMARKS[name]
    return Size(benchmark.classes, benchmark.skeleton, benchmark.people)


@dataclass(frozen=True)
class RunCosts:
    """`planner.levers.Costs` of a run: steps on its training clips, and on its test clips, which may be of another length."""

    steps: Steps
    test_steps: Steps

    @property
    def batch_norm(self) -> bool:
        return self.steps.batch_norm

    def train(self, settings: Settings) -> float:
        return self.steps.peak(
            "train", settings.batch_size, precision=settings.precision, recompute=settings.recompute, micro_batch=settings.piece
        )  # fmt: skip

    def evaluation(self, settings: Settings) -> float:
        return self.test_steps.peak("eval", settings.test_batch_size, precision=settings.precision, recompute=settings.recompute)

    def law(self, settings: Settings, phase: Phase) -> Law:
        """The law of training or evaluation at the precision and level of `settings`."""
        steps = self.steps if phase == "train" else self.test_steps
        return steps.law(precision=settings.precision, recompute=settings.recompute)

    def largest(self, settings: Settings, phase: Phase, room: float) -> int:
        """The most clips of a step, or of an evaluation pass, within `room` MiB."""
        return self.law(settings, phase).largest_batch(room, phase)

    def work(self, settings: Settings, phase: Phase) -> StepWork:
        """What a training step, or an evaluation pass of one batch, asks of the device."""
        if phase == "eval":
            return self.test_steps.work(
                settings.test_batch_size, precision=settings.precision, recompute=settings.recompute, phase=phase
            )  # fmt: skip
        return self.steps.work(
            settings.batch_size, precision=settings.precision, recompute=settings.recompute, micro_batch=settings.piece
        )  # fmt: skip


def costs_of(card: ModelCard, config: RunConfig, size: Size, known: dict[str, Steps] | None = None) -> RunCosts:
    """The costs of a run on data of `size`. Networks that memory cannot tell apart share one entry of `known`.

    Raises `LabError` for a network that cannot be built.
    """
    known = {} if known is None else known
    layout = skeleton(size.skeleton)
    supervised = config.stage == "supervised"
    arguments = _guarded(
        card,
        lambda: (
            model_arguments(config, size.classes, layout, size.people)
            if supervised
            else {"stage": config.stage, **objective_arguments(config, layout, size.people)}
        ),
    )
    settings = StepSettings(**{field.name: getattr(config, field.name) for field in fields(StepSettings)})

    def network() -> nn.Module:
        if not supervised:
            return registry.build_objective(card, skeleton=size.skeleton, people=size.people, **arguments)
        return registry.build(card, num_classes=size.classes, skeleton=size.skeleton, people=size.people, **arguments)

    def steps(*, train: bool) -> Steps:
        clip = clip_shape(config, layout, size.people, train=train or not supervised)  # without labels nothing is tested
        key = repr((card.name, size, clip, settings, arguments))
        if key not in known:
            store = store_of(card.name, card.folder, size, clip, settings, arguments)
            known[key] = Steps(lambda: _guarded(card, network), clip, size.classes, settings, store=store)
        return known[key]

    return RunCosts(steps(train=True), steps(train=False))


def asked_of(config: RunConfig) -> Settings:
    """The settings of a run as far as memory goes, on a GPU, where "auto" recomputes cheap values."""
    level = "cheap" if config.recompute == "auto" else config.recompute
    return Settings(config.batch_size, config.test_batch_size, config.forward_batch_size, level, config.precision)


def _guarded(card: ModelCard, make: Callable[[], Made]) -> Made:
    """`make()` from the model's own modules; one broken model must not hide the others."""
    try:
        return make()
    except LabError:
        raise
    except Exception as error:
        raise LabError(f"{card.name} cannot be built: {type(error).__name__}: {error}", where=str(card.folder)) from error
