"""Stage 1: both autoencoders, cycle by cycle, with a classifier of the unseen classes after each.

All rows lie in memory as tensors, and a step is a few matrix products. Everything random is a function of (seed, cycle, step):
a run goes on after any cycle as if it had never stopped, and on a CPU it repeats bit for bit.

Several seeds stacked in one step (torch.func.vmap) gain nothing on a CPU: the products of one seed fill a core. Seeds are runs
side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from engine.errors import DivergedError
from engine.zeroshot.classifier import probabilities, train_classifier
from engine.zeroshot.draws import Draw, counted
from engine.zeroshot.losses import terms
from engine.zeroshot.network import AlignedVAE, Enhancement, LatentClassifier, Sizes, initialise
from engine.zeroshot.optimizer import adam
from engine.zeroshot.schedule import factors
from engine.zeroshot.settings import Settings
from engine.zeroshot.system import System
from engine.zeroshot.task import Task, require_sound


@dataclass(frozen=True)
class Run:
    """A training run between two steps: `network` and `optimizer` are all that changes."""

    system: System
    task: Task
    settings: Settings
    seed: int
    network: AlignedVAE
    optimizer: torch.optim.Optimizer
    device: torch.device


@dataclass(frozen=True)
class Cycle:
    """What one cycle left behind.

    number      from 0
    loss        that of its last step
    accuracy    fraction of the test clips whose class was found among the unseen ones
    network, classifier   state dicts, on the CPU
    """

    number: int
    loss: float
    accuracy: float
    network: dict[str, Tensor]
    classifier: dict[str, Tensor]


def start(system: System, task: Task, settings: Settings, *, seed: int, device: torch.device | str = "cpu") -> Run:
    """A run before its first step. Raises `DataError` if the task is not sound."""
    require_sound(task)
    sizes = Sizes(task.train.features.shape[1], task.text.shape[1], settings.latent)
    network = system.build(sizes, relu_output=settings.relu_output)
    initialise(network, seed)
    network.to(device)
    return Run(system, task, settings, seed, network, adam(network, settings.lr), torch.device(device))


def train(run: Run, *, after: Callable[[Cycle], None] = lambda cycle: None) -> list[Cycle]:
    """All cycles of a run; `after` sees each as soon as it is done."""
    done = []
    for number in range(run.settings.cycles):
        done.append(train_cycle(run, number))
        after(done[-1])
    return done


def train_cycle(run: Run, number: int) -> Cycle:
    """Cycle `number` of a run, then its classifier. Raises `DivergedError` if the loss is no number at its end."""
    task, settings, network = run.task, run.settings, run.network
    loss = float(steps(run, number))
    if not np.isfinite(loss):
        raise DivergedError(
            f"the loss is {loss}", where=f"{run.system.title}, seed {run.seed}, cycle {number}",
            next_step="look for very large numbers among the features, or lower lr",
        )  # fmt: skip
    text = torch.from_numpy(task.text[list(task.split.unseen)]).to(run.device)
    classifier = train_classifier(network, text, settings, seed=run.seed, cycle=number)
    predicted = np.asarray(task.split.unseen)[probabilities(network, classifier, task.test.features).argmax(1)]
    return Cycle(number, loss, float((predicted == task.test.labels).mean()), _kept(network), _kept(classifier))


def restored(run: Run, cycle: Cycle) -> tuple[AlignedVAE, LatentClassifier]:
    """The networks of `cycle`, in evaluation mode."""
    settings = run.settings
    network = run.system.build(run.network.sizes, relu_output=settings.relu_output)
    network.load_state_dict(cycle.network)
    classifier = LatentClassifier(settings.latent, len(run.task.split.unseen), relu=settings.relu_logits)
    classifier.load_state_dict(cycle.classifier)
    return network.to(run.device).eval(), classifier.to(run.device).eval()


def steps(run: Run, number: int) -> Tensor:
    """The steps of cycle `number`; returns the loss of the last, a scalar. Reads no value on the device: none need be there."""
    task, settings, network, optimizer = run.task, run.settings, run.network, run.optimizer
    features = torch.from_numpy(task.train.features).to(run.device)
    seen = torch.from_numpy(task.text[list(task.split.seen)]).to(run.device)
    classes = torch.from_numpy(np.searchsorted(task.split.seen, task.train.labels)).to(run.device)
    enhance = cast("Enhancement | None", network.text_encoder.enhance)
    with torch.no_grad():
        parts = None if enhance is None else enhance.parts(seen)
    weight = run.system.weight(task.split.classes)
    draws = counted(
        run.seed, number, range(settings.steps), rows=len(features), batch=settings.batch, width=settings.noise_width,
        pairing=run.system.pairs,
    )  # fmt: skip
    network.train()
    loss = torch.zeros(())
    for step, host_draw in enumerate(draws):
        draw = _moved(host_draw, run.device)
        factor = factors(number, step, steps=settings.steps)
        of_class = classes.index_select(0, draw.rows)
        enhanced = None
        if enhance is not None and parts is not None:
            enhanced = enhance.joined(parts).index_select(0, of_class)
        found = terms(
            network, features.index_select(0, draw.rows), seen.index_select(0, of_class), draw, run.system.alignment,
            enhanced=enhanced, crossed=bool(factor.alignment),
        )  # fmt: skip
        loss = found.total(factor, weight)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return loss.detach()


def _moved(draw: Draw, device: torch.device) -> Draw:
    rows, skeleton_noise, text_noise, pairing = draw
    paired = None if pairing is None else pairing.to(device)
    return Draw(rows.to(device), skeleton_noise.to(device), text_noise.to(device), paired)


def _kept(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
