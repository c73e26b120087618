"""What a published zero-shot task needs of a GPU, and how long it takes there: the same questions as for a classifier's recipe.

The steps are traced by `planner.steps.zeroshot`; clips are as many as the official features hold, and text is taken as wide as
published texts get. A system has no levers, and needs none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from engine.models import ModelCard
from engine.zeroshot import classifier, training
from engine.zeroshot import system as systems
from engine.zeroshot.network import LatentClassifier
from engine.zeroshot.schedule import TEXT_CYCLE
from engine.zeroshot.settings import Settings, published
from engine.zeroshot.system import System
from engine.zeroshot.task import Rows, Task
from planner import levers
from planner.card.budget import Budget, Interval
from planner.card.calibration import Calibration
from planner.card.cards import Card
from planner.duration import Duration, step_time
from planner.host import LOGS_MIB, PROCESS_MIB, Host
from planner.measure import Device, Figures, Measured
from planner.steps import tracing
from planner.steps.affine import MIB, Envelope, Fit, envelope
from planner.steps.cache import Findings, Store, store_of
from planner.steps.tracing import Trace
from planner.steps.work import StepWork
from planner.steps.zeroshot import CLASSIFIER_STEPS, STEPS, Stages, shortened
from planner.verdict import Verdict, judge
from shared_data import zeroshot_splits as splits
from shared_data.errors import LabError, UsageError
from shared_data.zeroshot_splits import PHASES, Phase

SKELETON, TEXT = 256, 3 * 512
"""Widths of the published skeleton features, and of text: three descriptions of each class, of CLIP's 512 numbers."""
PROBES = (16, 64)
"""Rows of the two traces that give the law for any number of rows."""
FIXED = frozenset(get_args(levers.Key))
WITHOUT = "it also runs without a GPU: --device cpu"
BATCH = "--batch-size"
"""The one flag of those that `sal plan` puts behind a recipe which means something here."""


@dataclass(frozen=True)
class Published:
    """One published task: `unseen` of `classes` are never seen in training."""

    classes: int
    unseen: int
    settings: Settings

    @property
    def name(self) -> str:
        """As a table says it: "60/5"."""
        return f"{self.classes}/{self.unseen}"

    @property
    def flags(self) -> str:
        """Those of a run."""
        return f"--ntu {self.classes} --ss {self.unseen}"

    @property
    def cycles(self) -> int:
        """Of a run: those on the test's split and those on the validation's."""
        return self.settings.cycles * len(PHASES)

    def clips(self, phase: Phase) -> tuple[int, int, int]:
        """Clips in training, of unseen classes, and the rest: the numbers of the official features."""
        from engine.zeroshot.features import USUAL  # not above: it brings scikit-learn, which images of classifiers do without

        return USUAL[self.classes, self.unseen][phase]

    @property
    def largest(self) -> Phase:
        """The phase with more clips to train with."""
        return max(PHASES, key=lambda phase: self.clips(phase)[0])

    @property
    def rows(self) -> int:
        """The most that one pass classifies."""
        return max(count for phase in PHASES for count in self.clips(phase)[1:])

    @property
    def asked(self) -> levers.Settings:
        """As the planner's other parts know settings."""
        return levers.Settings(self.settings.batch, self.rows, recompute="none")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "dataset": f"ntu{self.classes}",
            "unseen": self.unseen,
            "skeleton": SKELETON,
            "text": TEXT,
            **asdict(self.settings),
        }


def tasks() -> list[str]:
    """The names of the published tasks."""
    return [f"{classes}/{unseen}" for classes, unseen in splits.UNSEEN]


def task_named(name: str, changes: tuple[str, ...] = ()) -> Published:
    """The task called `name`, with flags of `sal plan`. Raises `UsageError`, and `LabError` for flags of classifiers."""
    if name not in tasks():
        raise UsageError(f"no zero-shot task {name!r}", expected=", ".join(tasks()))
    classes, unseen = map(int, name.split("/"))
    settings = published(classes)
    for flag, value in zip(changes[::2], changes[1::2], strict=True):
        if flag != BATCH:
            raise LabError(f"{flag} is a flag of classifiers, a zero-shot system has none such: ask without it")
        settings = replace(settings, batch=int(value))
    if settings.batch < 1:
        raise UsageError(f"batch_size {settings.batch}", expected="1 or more")
    return Published(classes, unseen, settings)


class ZeroShotCosts:
    """`planner.levers.Costs` of a system on a published task; what was traced is kept in `store` (None: nowhere)."""

    batch_norm = False

    def __init__(self, system: System, task: Published, store: Store | None = None) -> None:
        self.system, self.task, self.store = system, task, store
        self._found = Findings() if store is None else store.read()

    def train(self, settings: levers.Settings) -> float:
        """Peak of stage 1 or 2: of its steps, or of the classifier after them."""
        return max(self._peak(_step("train", settings.batch_size)), self._learning)

    def evaluation(self, settings: levers.Settings) -> float:
        """Peak of the pass over as many rows as are classified at once, beside what training keeps."""
        return self._peak(_step("eval", settings.test_batch_size))

    def largest(self, settings: levers.Settings, phase: tracing.Phase, room: float) -> int:
        """The most rows, up to those there are; 0 if not even one fits. Without a law no more than is asked about."""
        train, law = phase == "train", self._law(phase)
        if law is None:
            fits = (self.train(settings) if train else self.evaluation(settings)) <= room
            return fits * (settings.batch_size if train else settings.test_batch_size)
        most = max(self.task.clips(part)[0] for part in PHASES) if train else self.task.rows
        return min(law.largest(room * MIB), most) if not train or self._learning <= room else 0

    def work(self, settings: levers.Settings, phase: tracing.Phase) -> StepWork:
        """Of `STEPS` training steps together; of the evaluation pass."""
        if phase == "train":
            return self._stages.steps_work(settings.batch_size)
        return self._stages.judging_work(settings.test_batch_size)

    def classifier_work(self) -> StepWork:
        """Of `CLASSIFIER_STEPS` steps of the classifier."""
        return self._stages.learning_work()

    @property
    def weights(self) -> float:
        """MiB of the networks that a cycle leaves."""
        return self._fact("weights", lambda stages: stages.weights)

    @functools.cached_property
    def _stages(self) -> Stages:
        return Stages(self.system, made_up(self.task), self.task.settings)

    @property
    def _learning(self) -> float:
        """MiB of the classifier's training."""
        return self._fact("learning", lambda stages: stages.learning().peak)

    def _peak(self, step: tracing.Task) -> float:
        if step not in self._found.peaks:
            self._found.peaks[step] = self._trace(step).peak / MIB
            self._keep()
        return self._found.peaks[step]

    def _law(self, phase: tracing.Phase) -> Envelope | None:
        few, more = (_step(phase, rows) for rows in PROBES)
        if few.kind not in self._found.fits:
            first, second = self._trace(few), self._trace(more)
            law = envelope(first.timeline, PROBES[0], second.timeline, PROBES[1], batch=first.batch)
            if law is not None:
                self._found.fits[few.kind] = Fit(law, law.line, 0.0)
                self._keep()
        found = self._found.fits.get(few.kind)
        return found.envelope if found else None

    def _trace(self, step: tracing.Task) -> Trace:
        return self._stages.steps(step.batch) if step.phase == "train" else self._stages.judging(step.batch)

    def _fact(self, name: str, ask: Callable[[Stages], int]) -> float:
        """MiB of what `ask` says in bytes."""
        if name not in self._found.facts:
            self._found.facts[name] = ask(self._stages) / MIB
            self._keep()
        return self._found.facts[name]

    def _keep(self) -> None:
        if self.store is not None:
            self.store.write(self._found)


def made_up(task: Published) -> Task:
    """Rows of zeros in the official numbers, of the phase with more of them: for shapes, never for values."""
    split, (train, unseen, _) = splits.published(task.classes, task.unseen, task.largest), task.clips(task.largest)
    return Task(split, np.zeros((task.classes, TEXT), np.float32), _rows(split.seen, train), _rows(split.unseen, unseen))


def costs_of(card: ModelCard, task: Published) -> ZeroShotCosts:
    """The costs of the system of `card`, traced once for all sizes of card. Raises `LabError` for one that cannot be built."""
    return _costs_of(card.name, card.folder, task)


@functools.lru_cache(maxsize=32)
def _costs_of(name: str, folder: Path, task: Published) -> ZeroShotCosts:
    clips = [task.clips(phase) for phase in PHASES]
    return ZeroShotCosts(systems.find(name), task, store_of(name, folder, task, clips, SKELETON, TEXT))


def judged(costs: ZeroShotCosts, budget: Budget) -> Verdict:
    """Whether a task fits."""
    return judge(costs, budget, costs.task.asked, fixed=FIXED, otherwise=WITHOUT)


def duration_of(costs: ZeroShotCosts, card: Card, calibration: Calibration) -> Duration:
    """Stages 1 and 2 on `card`; those after them look at each clip once, on the host for the most part, and take seconds."""
    settings, asked = costs.task.settings, costs.task.asked

    def seconds(work: StepWork, phase: tracing.Phase, times: float) -> list[float]:
        return [times * value for value in asdict(step_time(work, card, calibration, "fp32", phase=phase)).values()]

    step = seconds(costs.work(asked, "train"), "train", 1 / STEPS)
    learnt = seconds(costs.classifier_work(), "train", settings.classifier_steps / CLASSIFIER_STEPS)
    looked = seconds(costs.work(asked, "eval"), "eval", 1)
    after = Interval(*map(sum, zip(learnt, looked, strict=True)))
    return Duration(Interval(*step), after, settings.batch, settings.steps, 1, costs.task.cycles, unit="cycle")


def host_needs(costs: ZeroShotCosts) -> Host:
    """Features and logits of both phases lie in memory; the networks of all cycles on the disk, with two states of training."""
    task, numbers = costs.task, 0
    for phase in PHASES:
        train, unseen, rest = task.clips(phase)
        numbers += (train + unseen + rest) * SKELETON + (unseen + rest) * task.classes
    files = numbers * 4 / MIB
    run = (task.cycles + 2 * 3) * costs.weights + LOGS_MIB
    return Host(ram_mib=round(PROCESS_MIB + 2 * files), shm_mib=0.0, store_mib=round(files), run_mib=round(run))


@dataclass(frozen=True)
class OnCpu:
    """Seconds of a cycle, as they were measured on `machine`, and the cycles of a run."""

    cycle_s: float
    cycles: int
    machine: str

    @property
    def run_s(self) -> float:
        return self.cycle_s * self.cycles

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "run_s": self.run_s}


def on_cpu(card: ModelCard, task: Published) -> OnCpu | None:
    """What the model's toml says was measured without a GPU; None for other settings than the published ones, or no figure."""
    told: Mapping[str, Any] = card.toml.get("cpu", {})
    seconds = told.get("cycle_s", {}).get(task.name)
    if seconds is None or task.settings != published(task.classes):
        return None
    return OnCpu(float(seconds), task.cycles, str(told["machine"]))


def measured(costs: ZeroShotCosts, device: Device) -> Measured:
    """A short cycle of stage 1 and a pass over the whole test set on a device at hand; None for both where memory runs out."""
    try:
        return _measured(costs, device)
    except torch.cuda.OutOfMemoryError:
        pass  # dropped before what its frames hold is released
    device.release()
    return Measured(None, None)


def _measured(costs: ZeroShotCosts, device: Device) -> Measured:
    task = costs.task
    device.release()
    run = training.start(costs.system, made_up(task), shortened(task.settings), seed=0, device=device.torch)
    device.reset()
    training.train_cycle(run, TEXT_CYCLE)
    seconds = device.seconds(lambda: training.steps(run, TEXT_CYCLE)) / STEPS
    train = Figures(*device.peaks(), seconds, STEPS)
    judge_of = LatentClassifier(task.settings.latent, task.unseen).to(device.torch)
    everything = _rows(tuple(range(task.classes)), task.rows).features
    device.release()
    device.reset()
    seconds = device.seconds(lambda: classifier.probabilities(run.network, judge_of, everything))
    return Measured(train, Figures(*device.peaks(), seconds, 1))


def _rows(classes: tuple[int, ...], count: int) -> Rows:
    return Rows("made-up rows", np.zeros((count, SKELETON), np.float32), np.resize(np.asarray(classes, np.int64), count))


def _step(phase: tracing.Phase, rows: int) -> tracing.Task:
    """By the name under which it is kept."""
    return tracing.Task(phase, rows, "fp32", "none")
