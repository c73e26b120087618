"""A finished training run, opened again: its settings, its data, its network with the weights that it ended with."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from engine import assembly, checkpoint, memory, models
from engine.config import RunConfig, parse
from engine.encode import Encoded, encode_clips, head_of
from engine.errors import OutOfMemoryError
from engine.records import array_fingerprint
from engine.report.reading import read_run
from engine.weights import load_weights
from shared_data.clips import Clips
from shared_data.datasets import DataSet
from shared_data.errors import DataError, MissingInputError

Which = Literal["last", "best"]
"""Weights of the last epoch, or of the one that was best on the run's test clips: those were looked at."""


@dataclass(frozen=True)
class TrainedRun:
    """A run and what it takes to look at clips as it does.

    data       all clips of the data, whatever the run was shown
    weights    which ones `network` has
    sha256     of these weights, name by name: the same for a run that was trained again to the same bits
    """

    folder: Path
    config: RunConfig
    data: DataSet
    network: nn.Module
    head: nn.Linear
    weights: Which
    sha256: str
    device: torch.device

    def encoded(self, clips: Clips) -> Encoded:
        """Features and scores of `clips`, as the run evaluates. Raises `DivergedError` and `OutOfMemoryError`."""
        config = self.config
        loader = assembly.test_loader(dataclasses.replace(self.data, test=clips), config, self.device)
        try:
            return encode_clips(self.network, self.head, loader, device=self.device, precision=config.precision)
        except torch.cuda.OutOfMemoryError as error:
            words = memory.first_line(error)
        memory.release(self.device)
        smaller = max(config.test_batch_size // 2, 1)
        advice = f"--test-batch-size {smaller} (no number changes)" if config.test_batch_size > 1 else "a larger GPU, or a CPU"
        raise OutOfMemoryError(f"the GPU ran out of memory: {words}", part=memory.EVALUATION, next_step=advice)

    def require_its_clips(self) -> None:
        """Raises `DataError` if `data` is not what the run was trained and evaluated on."""
        if not began_with(self.folder, self.data, self.config):
            raise DataError(
                "the data holds other clips than the run was trained with", where=str(self.data.path),
                expected=f"the data of {self.folder}", next_step="name it with --data",
            )  # fmt: skip


def open_run(
    folder: Path,
    *,
    data: Path | None = None,
    weights: Which = "last",
    device: str = "auto",
    test_batch_size: int | None = None,
) -> TrainedRun:
    """The finished training run in `folder`.

    data             where the data is now; None: where it was
    device           as of a run
    test_batch_size  clips of an evaluation pass; None: as the run
    Raises `MissingInputError` for what is no such run, and what reading its settings, data and weights raises.
    """
    run = read_run(folder)
    if run.config.get("phase") != "train" or not run.metrics or not run.ended:
        raise MissingInputError(
            "this is no finished training run" + (f": {run.notes[0]}" if run.notes else ""), where=str(folder),
            expected="a run folder with config.yaml, metrics.json and checkpoints/",
            next_step="run the training command again: one that was cut off goes on",
        )  # fmt: skip
    saved = parse(["--config", str(folder / "config.yaml")])
    place, batch = str(data) if data else saved.data, test_batch_size or saved.test_batch_size
    config = dataclasses.replace(saved, device=device, data=place, test_batch_size=batch)
    file, found = _weights(folder, weights), assembly.choose_device(config.device)
    whole = assembly.whole_data(config)
    network = assembly.build_model(config, whole, found)
    load_weights(file, network, config.model)
    card = models.find(config.model)
    return TrainedRun(folder, config, whole, network.eval(), head_of(card, network), weights, _fingerprint(network), found)


def began_with(folder: Path, data: DataSet, config: RunConfig) -> bool:
    """Whether the run in `folder`, of these settings, was trained and evaluated on what `config` shows of the whole `data`.

    Raises `DataError` or `MissingInputError` where its last state cannot be read.
    """
    begun = json.loads(checkpoint.read(_weights(folder, "last"))[1]["position"])["data"]
    return bool(assembly.fingerprint(assembly.validation(assembly.shown(data, config), config)) == begun)


def _weights(folder: Path, which: Which) -> Path:
    return folder / "checkpoints" / f"{which}.safetensors"


def _fingerprint(network: nn.Module) -> str:
    return array_fingerprint(*(value.detach().cpu().numpy() for _, value in sorted(network.state_dict().items())))
