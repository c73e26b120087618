"""What the steps of a run cost: from its settings to traces of its network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TypeVar

from torch import nn

from engine import models as registry
from engine.assembly import clip_shape, model_arguments, objective_arguments
from engine.config import RunConfig
from engine.models import ModelCard
from engine.segmentation import framewise, material
from planner.levers import Settings
from planner.steps.cache import store_of
from planner.steps.peak import Law, Steps
from planner.steps.segmenting import SegmentBench
from planner.steps.tracing import Phase, StepSettings
from planner.steps.work import StepWork
from shared_data.errors import LabError
from shared_data.protocols import BENCHMARKS
from shared_data.skeletons import skeleton

Made = TypeVar("Made")


LONGEST = 10_000
"""Frames to which untrimmed sequences are taken to be as long as, where nobody says: the most of the "5 to 10 k" that
specification `usdrl_segmentation.md`, section 8, has for PKU-MMD, at 30 frames a second five and a half minutes."""
UNTRIMMED = {"auto": "pku_mmd", "pku_mmd1": "pku_mmd", "pku_mmd2": "pku_mmd", "nw_ucla": "nw_ucla"}
"""Untrimmed data that recipes name -> the benchmark of clips with the same classes and joints."""


@dataclass(frozen=True)
class Size:
    """What a network is built for; of untrimmed data with the `frames` of the longest sequence, else 0."""

    classes: int
    skeleton: str
    people: int
    frames: int = 0


def size_of(dataset: str, stage: registry.Stage = "supervised", frames: int | None = None) -> Size:
    """That of a data set named in a recipe; "auto", whatever comes, is taken for NTU-60, of untrimmed data for PKU-MMD 2.

    frames   of the longest untrimmed sequence; None: `LONGEST`
    Raises `LabError` for an unknown one.
    """
    if stage == "segment":
        if dataset not in UNTRIMMED:
            raise LabError(f"no untrimmed data set {dataset!r} known", expected=", ".join(UNTRIMMED))
        benchmark = BENCHMARKS[UNTRIMMED[dataset]]
        return Size(benchmark.classes + 1, benchmark.skeleton, benchmark.people, frames or LONGEST)  # and background
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

    def linear(self, settings: Settings) -> bool:
        """Whether memory follows a law in the clips, of training and of evaluation."""
        return self.law(settings, "train").linear and self.law(settings, "eval").linear

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


@dataclass(frozen=True)
class SegmentCosts(RunCosts):
    """The same of a run that segments: steps on sequences of one length or on windows, and the longest evaluated.

    In an evaluation pass clips are windows that go through the encoder together. Memory is no line in them, as a sequence has
    only so many: each number is traced.
    windows   of the longest sequence: more never come together
    """

    windows: int

    def evaluation(self, settings: Settings) -> float:
        clips = min(settings.test_batch_size, self.windows)
        return self.test_steps.traced("eval", clips, precision=settings.precision, recompute=settings.recompute)

    def linear(self, settings: Settings) -> bool:
        return self.law(settings, "train").linear

    def largest(self, settings: Settings, phase: Phase, room: float) -> int:
        if phase == "train":
            return super().largest(settings, phase, room)
        low, high = 0, self.windows + 1
        while high - low > 1:
            middle = high - 1 if low == 0 and high > self.windows else (low + high) // 2  # all at once first
            fits = self.evaluation(replace(settings, test_batch_size=middle)) <= room
            low, high = (middle, high) if fits else (low, middle)
        return low

    def law(self, settings: Settings, phase: Phase) -> Law:
        """Of training alone."""
        return self.steps.law(precision=settings.precision, recompute=settings.recompute, phases=("train",))

    def work(self, settings: Settings, phase: Phase) -> StepWork:
        if phase == "train":
            return super().work(settings, phase)
        clips = min(settings.test_batch_size, self.windows)
        return self.test_steps.counted("eval", clips, precision=settings.precision, recompute=settings.recompute)


def costs_of(card: ModelCard, config: RunConfig, size: Size, known: dict[str, Steps] | None = None) -> RunCosts:
    """The costs of a run on data of `size`. Networks that memory cannot tell apart share one entry of `known`.

    Raises `LabError` for a network that cannot be built.
    """
    known = {} if known is None else known
    if config.stage == "segment":
        return _segment_costs(card, config, size, known)
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
    settings = _step_settings(config)

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


def _segment_costs(card: ModelCard, config: RunConfig, size: Size, known: dict[str, Steps]) -> SegmentCosts:
    layout, chosen, settings = skeleton(size.skeleton), framewise.chosen_of(config), _step_settings(config)
    item = item_shape(config, size)
    key = repr((card.name, config.stage, size, item, settings, chosen, config.model_args, config.train_window_size))
    if key not in known:

        def network() -> nn.Module:
            made: nn.Module = _guarded(
                card, lambda: framewise.network_of(config, chosen, classes=size.classes, skeleton=layout, people=size.people)
            )
            return made

        bench = partial(SegmentBench, chosen=chosen, longest=size.frames)
        known[key] = Steps(network, item, size.classes, settings, store=store_of(card.name, card.folder, key), bench=bench)
    return SegmentCosts(known[key], known[key], windows=-(-size.frames // config.train_window_size))


def item_shape(config: RunConfig, size: Size) -> tuple[int, ...]:
    """(M C, V, T) of a sequence of the longest, or of a window, in the training batches of a run that segments."""
    chosen = framewise.chosen_of(config)
    if config.pipeline not in material.CHANNELS:
        material.features(config, skeleton(size.skeleton))  # raises, with what is expected
    frames = config.train_window_size if chosen.mode == "window" else size.frames
    return size.people * material.CHANNELS[config.pipeline], skeleton(size.skeleton).joints, frames


def _step_settings(config: RunConfig) -> StepSettings:
    return StepSettings(**{field.name: getattr(config, field.name) for field in fields(StepSettings)})


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
