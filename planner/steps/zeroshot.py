"""What of a zero-shot system takes memory and time, run on tensors without values and watched, as a classifier's steps are.

The steps are the engine's own. All training rows lie on the device while there are steps; then a classifier of the unseen classes
learns from all its samples at once, beside the network and what its training keeps; so are rows judged, all in one pass.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from engine.zeroshot import classifier, training
from engine.zeroshot.network import LatentClassifier
from engine.zeroshot.schedule import TEXT_CYCLE
from engine.zeroshot.settings import Settings
from engine.zeroshot.system import System
from engine.zeroshot.task import Task
from planner.steps.lifetimes import Lifetimes
from planner.steps.modes import OperationMode
from planner.steps.shapes import KnownShapes
from planner.steps.tracing import Trace
from planner.steps.work import StepWork, Work

STEPS = 6
"""Of a cycle that is run: the first makes the optimizer's state, the last is aligned, as one in six is officially."""
CLASSIFIER_STEPS = 2


def shortened(settings: Settings) -> Settings:
    """A cycle of `STEPS`, which has every kind of step."""
    return replace(settings, steps=STEPS, classifier_steps=CLASSIFIER_STEPS)


class Stages:
    """Those of `system` on the shapes of `task`; its values are not looked at."""

    def __init__(self, system: System, task: Task, settings: Settings) -> None:
        self.system, self.task, self.settings = system, task, shortened(settings)

    def steps(self, batch: int) -> Trace:
        """The steps of a cycle of `batch` rows each."""
        run = self._begun(batch)
        with KnownShapes(), WithoutValues(), Lifetimes("meta", reads=True) as memory:
            memory.hold([*run.network.parameters(), *run.network.buffers()])
            training.steps(run, TEXT_CYCLE)
        return Trace(memory.peak, memory.timeline, 0)

    def learning(self) -> Trace:
        """The classifier's training."""
        run = self._trained
        with KnownShapes(), WithoutValues(), Lifetimes("meta", reads=True) as memory:
            memory.hold(_kept(run))
            self._learn(run)
        return Trace(memory.peak, memory.timeline, 0)

    def judging(self, rows: int) -> Trace:
        """The pass that classifies `rows` rows."""
        run, judge = self._trained, self._judge()
        features = torch.empty(rows, self._width, device="meta")
        with KnownShapes(), WithoutValues(), Lifetimes("meta", reads=True) as memory:
            memory.hold([features, *_kept(run), *judge.parameters()])
            classifier.judged(run.network, judge, features)
        return Trace(memory.peak, memory.timeline, 1)

    def steps_work(self, batch: int) -> StepWork:
        """What `STEPS` steps ask of the device together."""
        run = self._begun(batch)
        with KnownShapes(), WithoutValues(), Work() as work:
            training.steps(run, TEXT_CYCLE)
        return _counted(work)

    def learning_work(self) -> StepWork:
        """What `CLASSIFIER_STEPS` steps of the classifier ask, with the samples that they are of."""
        with KnownShapes(), WithoutValues(), Work() as work:
            self._learn(self._trained)
        return _counted(work)

    def judging_work(self, rows: int) -> StepWork:
        """What the pass over `rows` rows asks."""
        features = torch.empty(rows, self._width, device="meta")
        with KnownShapes(), WithoutValues(), Work() as work:
            classifier.judged(self._trained.network, self._judge(), features)
        return _counted(work)

    @property
    def weights(self) -> int:
        """Bytes of the networks that a cycle leaves."""
        parameters = [*self._trained.network.parameters(), *self._judge().parameters()]
        return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

    @cached_property
    def _trained(self) -> training.Run:
        """One that has its optimizer's state, and gradients."""
        run = self._begun(self.settings.batch)
        with KnownShapes(), WithoutValues():
            training.steps(run, TEXT_CYCLE)
        return run

    @property
    def _width(self) -> int:
        return int(self.task.train.features.shape[1])

    def _begun(self, batch: int) -> training.Run:
        return training.start(self.system, self.task, replace(self.settings, batch=batch), seed=0, device="meta")

    def _judge(self) -> LatentClassifier:
        return LatentClassifier(self.settings.latent, len(self.task.split.unseen)).to("meta")

    def _learn(self, run: training.Run) -> None:
        text = torch.empty(len(self.task.split.unseen), self.task.text.shape[1], device="meta")
        classifier.train_classifier(run.network, text, self.settings, seed=0, cycle=0)


class WithoutValues(OperationMode):
    """Inside, operations on meta tensors hold what those with values do, and all of them run.

    A mean squared error is one number in front of a tensor as large as the rows: it is allocated for all squares and then shrunk
    (TORCH_META_FUNC(mse_loss) in ATen/native/Loss.cpp, for a CPU and CUDA); without values, torch makes a number of its own.
    Torch 2.3 has no meta kernel of some updates in place, which have nothing to do there.
    To be entered after `KnownShapes` and before what watches.
    """

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        try:
            result = func(*args, **kwargs)
        except NotImplementedError:
            if func._schema.returns:
                raise
            return None
        if func is torch.ops.aten.mse_loss.default and not result.dim():
            return torch.empty_like(args[0]).resize_(())
        return result


def _kept(run: training.Run) -> list[Tensor]:
    """What training keeps on the device between two cycles."""
    parameters = list(run.network.parameters())
    state = [value for one in run.optimizer.state.values() for value in one.values() if isinstance(value, Tensor)]
    return [*parameters, *run.network.buffers(), *(p.grad for p in parameters if p.grad is not None), *state]


def _counted(work: Work) -> StepWork:
    return work.counted
