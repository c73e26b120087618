"""What `step.py` measures: a recipe made concrete, its network, its step and made-up batches for it."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.plain import plain_network
from engine import compiling, graphs, models
from engine.assembly import choose_device, clip_shape, model_arguments, train_step
from engine.config import RunConfig, parse
from engine.errors import ConfigError
from engine.models import ModelCard
from engine.step import TrainStep, chosen_level
from planner.measure import Batch, made_up
from shared_data.protocols import BENCHMARKS
from shared_data.skeletons import Skeleton, skeleton

EAGER = {"recompute": "none", "cuda_graphs": False, "compile": False}
"""Settings of a step that keeps everything and does nothing clever."""
LEVELS = ("none", "cheap", "blocks")
PAPER_BATCH = {"ctrgcn": 64, "msg3d": 32, "freqmixformer": 128, "skateformer": 128, "hypergcn": 64}


@dataclass(frozen=True)
class Task:
    """A recipe made concrete: what the network is built for, and the shape (C, T, V, M) of its clips."""

    config: RunConfig
    card: ModelCard
    classes: int
    skeleton: Skeleton
    clip: tuple[int, ...]
    arguments: dict[str, Any]

    def having(self, **changes: Any) -> Task:
        """The same with `changes` of the settings."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **changes))

    def dropout(self) -> dict[str, float]:
        """The rates of dropout, of any kind, that are not 0."""
        taken = inspect.signature(models.entry_class(self.card)).parameters
        rates = {name: self.arguments.get(name, given.default) for name, given in taken.items() if "drop" in name}
        return {name: rate for name, rate in rates.items() if rate}

    def without_dropout(self) -> Task:
        return dataclasses.replace(self, arguments=self.arguments | dict.fromkeys(self.dropout(), 0.0))

    def network(self) -> nn.Module:
        """On the CPU, with the same start weights every time."""
        torch.manual_seed(self.config.seed)
        return models.build(self.card, num_classes=self.classes, skeleton=self.skeleton, people=self.clip[3], **self.arguments)

    def plain(self) -> nn.Module:
        """The plain form with the same start weights; raises `ConfigError` for a model without one."""
        return plain_network(self.card, self.network(), (self.classes, self.skeleton, self.clip), self.arguments)

    def step(self, network: nn.Module, device: torch.device, note: Callable[[str], None] = print) -> TrainStep:
        """The trainer's step for `network`, with the optimizer and the clipping of the recipe.

        At a tenth of the recipe's learning rate: fresh weights leap at the whole one, and every rounding with them.
        """
        config = dataclasses.replace(self.config, base_lr=self.config.base_lr / 10)
        return train_step(config, network.train(), device, note=note)

    def batch(self, number: int, size: int, device: torch.device | str) -> Batch:
        """Made-up batch `number`, the same on every device."""
        clips, labels, positions = made_up(number, size, self.clip, self.classes)
        return clips.to(device), labels.to(device), positions.to(device)


def task(given: argparse.Namespace) -> tuple[Task, torch.device]:
    """What the command line asks for, and where; raises `ConfigError` for what cannot be.

    "meta" is counted as on a GPU, by a step that is told the CPU: autocast and loss scalers know no meta device.
    """
    card = models.find(given.model)
    meta = given.device == "meta"
    words = ["--recipe", given.recipe or paper_recipe(card), "--precision", given.precision, "--device", given.device]
    for flag, value in (("batch-size", given.batch), ("forward-batch-size", given.forward_batch_size),
                        ("train-window-size", given.frames), ("recompute", given.recompute)):  # fmt: skip
        words += [] if value is None else [f"--{flag}", str(value)]
    config = parse(words, model=card.name)
    device = torch.device("cpu") if meta else choose_device(given.device)
    if given.cuda_graphs:
        graphs.on_device(device)
    if given.compile:
        if meta:
            raise ConfigError("a compiled step cannot be counted without a device", where="--compile with --device meta")
        compiling.require(device)
    level = "cheap" if meta and config.recompute == "auto" else chosen_level(config.recompute, device)
    benchmark = BENCHMARKS["ntu60" if config.dataset == "auto" else config.dataset]
    layout = skeleton(benchmark.skeleton)
    clip = clip_shape(config, layout, benchmark.people, train=True)
    if given.frames is not None:  # also where the recipe's pipeline shows whole clips whatever the window is
        clip = (clip[0], given.frames, *clip[2:])
    arguments = model_arguments(config, benchmark.classes, layout, benchmark.people)
    config = dataclasses.replace(config, recompute=level, cuda_graphs=given.cuda_graphs, compile=given.compile)
    return Task(config, card, benchmark.classes, layout, clip, arguments), device


def paper_recipe(card: ModelCard) -> str:
    """The recipe for NTU-60, cross-subject, or the first there is."""
    names = list(card.recipes)
    return next((name for name in names if name.endswith("ntu60_xsub")), names[0])
