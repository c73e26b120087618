"""A network that was trained to segment, from its file of weights: tested on a split, or shown one sequence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from engine import assembly, checkpoint
from engine.config import RunConfig
from engine.distributed import World
from engine.environment import describe
from engine.errors import ConfigError, WeightsError
from engine.report import write_report
from engine.runfolder import RunFolder
from engine.segmentation import evaluation, material
from engine.segmentation.framewise import chosen_of, heading, network_of, summary
from engine.segmentation.predictions import LAST, Predictions, write_predictions
from engine.segmentation.stream import sequence_scores
from engine.weights import load_weights
from shared_data.sequence_loader import Features
from shared_data.sequences import PADDING
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named

TOLD = ("num_classes", "class_names", "skeleton", "people", "segment_args", "pipeline", "window", "model", "model_args")


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode on its device, with what its file says about it."""

    network: nn.Module
    config: RunConfig
    skeleton: Skeleton
    people: int
    class_names: tuple[str, ...]
    features: Features
    device: torch.device

    def predict(self, name: str, frames: np.ndarray, truth: np.ndarray | None = None) -> Predictions:
        """Of one sequence, frames (T, M, V, 3) of as many people and joints as it was trained on; truth (T,) if known.

        Raises `ConfigError` for another shape.
        """
        expected = (self.people, self.skeleton.joints, 3)
        if frames.ndim != 4 or frames.shape[1:] != expected or not len(frames):
            raise ConfigError(
                f"{name} has the shape {frames.shape}", where="the sequence", expected=f"(T, {', '.join(map(str, expected))})"
            )  # fmt: skip
        labels = np.full(len(frames), PADDING, np.int64) if truth is None else truth
        classes, boundary = sequence_scores(
            self.network, torch.from_numpy(self.features(frames)), device=self.device, precision=self.config.precision,
            clips=self.config.test_batch_size,
        )  # fmt: skip
        return evaluation.of_scores(name, classes, boundary, self.class_names, labels)


def trained(config: RunConfig) -> Trained:
    """The network in `config.weights`; what its file tells takes the place of settings, but for how results are counted.

    Raises `WeightsError`, `ConfigError`.
    """
    config, about = as_trained(config), told(Path(str(config.weights)))
    device, skeleton = assembly.choose_device(config.device), skeleton_named(about["skeleton"])
    names = tuple(map(str, about["class_names"]))
    network = network_of(config, chosen_of(config), classes=len(names), skeleton=skeleton, people=about["people"])
    load_weights(Path(str(config.weights)), network, config.model)
    return Trained(
        network.to(device).eval(), config, skeleton, about["people"], names, material.features(config, skeleton), device
    )  # fmt: skip


def as_trained(config: RunConfig) -> RunConfig:
    """`config` with the settings of the network in its `weights`. Raises `WeightsError`, `ConfigError`."""
    if not config.weights:
        raise ConfigError("no weights named", next_step="--weights checkpoints/best.safetensors of a run of sal segment train")
    about = told(Path(config.weights))
    if about["model"] != config.model:
        raise ConfigError(f"the weights are of {about['model']}, not of {config.model}", where=str(config.weights))
    judging = {name: value for name, value in config.segment_args.items() if name == "official_ends"}  # the network's are its own
    return dataclasses.replace(
        config, model_args=about["model_args"], segment_args={**about["segment_args"], **judging}, pipeline=about["pipeline"],
        train_window_size=about["window"], init=None,
    )  # fmt: skip


def told(file: Path) -> dict[str, Any]:
    """What the header of a file of weights says. Raises `WeightsError` unless it is of a run that segments."""
    if file.suffix != ".safetensors":
        raise WeightsError("not a file of weights of ours", where=str(file), expected="best.safetensors of a run that segments")
    try:
        about = json.loads(checkpoint.read(file)[1].get("about", "{}"))
    except ValueError as error:
        raise WeightsError(f"its header says nothing that can be read: {error}", where=str(file)) from error
    if not isinstance(about, dict) or any(name not in about for name in TOLD):
        raise WeightsError(
            "these weights are not of a network that segments", where=str(file), expected="those of a run of sal segment train"
        )
    return about


def _require_same_order(here: tuple[str, ...], known: tuple[str, ...], where: str, console: Console) -> None:
    """Raise `ConfigError` where a class of the data is another of the weights; names that these do not know are told."""
    ids = {name: k for k, name in enumerate(known)}
    for k, name in enumerate(here):
        if ids.get(name, k) != k:
            raise ConfigError(
                f"class {k} is {name!r}, which is class {ids[name]} of the weights", where=where, expected=f"{known[k]!r}",
                next_step="give data whose classes are in the order of those the network was trained on",
            )  # fmt: skip
    if here != known:
        k = next(k for k, name in enumerate(here) if name != known[k])
        console.print(
            f"note: class {k} is {here[k]!r} in the data and {known[k]!r} in the weights", highlight=False, markup=False
        )


def score(config: RunConfig, console: Console, keep: Mapping[str, Any] | None = None, *, world: World | None = None) -> Path:
    """Test `--weights` on the test sequences; writes predictions, metrics and a report into the run folder and returns it.

    keep    file name -> what the run folder keeps there as JSON
    world   the processes that share the sequences, of which this is one
    """
    world = world or World()
    of = trained(config)
    config = of.config
    with RunFolder(assembly.work_dir(config), force=config.force, writes=world.first) as folder:
        world.by_first(folder.claim, config)
        data = material.load(config)
        world.require_same(**config.identity(), clips=data.fingerprint(), device=of.device.type, torch=torch.__version__)
        if (data.source.skeleton.name, data.people) != (of.skeleton.name, of.people):
            raise ConfigError(
                f"sequences of {data.people} people on {data.source.skeleton.name}", where=str(config.data),
                expected=f"{of.people} people on {of.skeleton.name}, as the weights are for",
            )  # fmt: skip
        if len(data.source.class_names) != len(of.class_names):
            raise ConfigError(
                f"sequences of {len(data.source.class_names)} classes", where=str(config.data),
                expected=f"{len(of.class_names)}, as the weights are for",
            )  # fmt: skip
        _require_same_order(data.source.class_names, of.class_names, str(config.data), console)
        world.by_first(folder.record, config)
        world.by_first(folder.write_json, "env.json", {**describe(), "processes": world.size})
        found = evaluation.predict(
            of.network, data.test, of.features, of.class_names, device=of.device, precision=config.precision,
            clips=config.test_batch_size, world=world,
        )  # fmt: skip
        chosen = chosen_of(config)
        metrics = evaluation.judged(found, official_ends=chosen.official_ends)
        world.by_first(write_predictions, folder.path / LAST, found)
        values = {
            **heading(config, of.class_names, chosen), "last": metrics, "weights": config.weights,
            "sequences_train": len(data.train), "sequences_test": len(data.test),
            "parameters": sum(p.numel() for p in of.network.parameters()),
        }  # fmt: skip
        world.by_first(folder.write_json, "metrics.json", values)
        for name, value in (keep or {}).items():
            world.by_first(folder.write_json, name, value)
        report = world.from_first(lambda: write_report(folder.path))
        for name, one in metrics.items():
            console.print(f"{name}: {summary(one)}  ({len(found)} sequences)", highlight=False)
        console.print(f"report: {report}", highlight=False, soft_wrap=True)
    return folder.path
