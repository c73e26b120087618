"""Predictions held against a real GPU: what the first steps of a run took, and what to do where it was not enough."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import threading
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch

from engine import memory, models
from engine.config import RunConfig
from engine.runfolder import CALIBRATION_ROW
from planner.card.budget import Budget, of_device
from planner.card.calibration import Calibration, as_csv, header, user_file
from planner.costs import RunCosts, Size, asked_of, costs_of
from planner.fit import refuse_unpredictable, size_of_data
from planner.levers import Choice, choose, flags
from planner.measure import kernels_kept
from planner.verdict import told, told_room
from shared_data.datasets import DataSet
from shared_data.errors import LabError

TOLERANCE = 0.10
"""Relative distance of the measured peak from the predicted one, above which the user is told."""
LITTLE = 64.0
"""MiB apart of which nothing is said: of a small run, workspaces alone are more than a tenth."""
PATIENCE = 5.0
"""Seconds that a prediction may take before the user is told what is being waited for."""
LESS = 0.8
"""Share of the predicted peak that is aimed at where a GPU was too small for what was predicted to fit it."""


# -- a run that goes on ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """What a training step is predicted to need on the run's GPU.

    tensors    MiB, traced
    budget     of the GPU, with the row of calibration that it is reckoned by
    settings   the run's, in words
    """

    tensors: float
    budget: Budget
    gpu: str
    settings: str

    @property
    def allocated(self) -> float:
        """MiB, the middle of what is predicted."""
        return self.budget.allocated(self.tensors).point

    def compare(self, peaks: Mapping[str, float]) -> memory.Finding:
        """Hold `peaks` (`engine.memory.peaks`) of the first two steps against the prediction."""
        measured, row = peaks["peak_allocated_mib"], self.budget.calibration
        apart = measured / self.allocated - 1
        event: dict[str, Any] = {
            "predicted_allocated_mib": round(self.allocated, 1),
            "predicted_reserved_mib": round(self.budget.reserved(self.tensors).point, 1),
            "predicted_tensors_mib": round(self.tensors, 1),
            "calibration": row.gpu,
        }
        if abs(apart) <= TOLERANCE or abs(measured - self.allocated) < LITTLE:
            return memory.Finding(event)
        found = as_csv(self.row(measured, peaks["peak_reserved_mib"]))
        lines = [
            f"warning: a step takes {told(measured)} of GPU memory, {told(self.allocated)} were predicted ({apart:+.0%})",
            f"  predicted: {told(self.tensors)} of tensors + {told(row.workspace_mib)} of workspaces, by the calibration of "
            f"{row.gpu if row.measured else 'any GPU that was not measured'}",
        ]
        if measured < self.tensors:
            lines.append("  the tensors alone were predicted too high, which no calibration mends: please report it")
        lines += [
            f"  next: `sal calibrate` measures this GPU; or put this row (kept in {CALIBRATION_ROW}) into {user_file()}:",
            f"  {found}",
        ]
        return memory.Finding(event, lines, f"{header()}\n{found}\n")

    def row(self, allocated: float, reserved: float) -> Calibration:
        """The calibration of the GPU that this one step speaks for; what it does not say is taken over.

        allocated, reserved   MiB, measured
        """
        before = self.budget.calibration
        workspace = round(max(allocated - self.tensors, 0.0), 1)
        fragmentation = round(max(reserved / max(allocated, 1.0), 1.0), 4)
        return dataclasses.replace(
            before,
            gpu=self.gpu,
            gib=round(self.budget.vram_gib, 2),
            torch=torch.__version__,
            cuda=torch.version.cuda or "",
            workspace_mib=workspace,
            workspace_high_mib=max(workspace, before.workspace_high_mib),
            fragmentation=fragmentation,
            fragmentation_high=max(fragmentation, before.fragmentation_high),
            cells=1,
            date=datetime.date.today().isoformat(),
            source=f"one training step: {self.settings}; all else as in the row of {before.gpu}",
        )


def expect(config: RunConfig, data: DataSet, device: torch.device, note: Callable[[str], None] = print) -> memory.Compare:
    """Predict a training step of a run on the GPU `device`, as `engine.train.train` asks for it.

    note   is told if that takes long
    Raises `LabError` where there is no prediction, whatever the reason: a run must not fail for want of one.
    """
    waiting = threading.Timer(PATIENCE, note, ("predicting the memory of a training step, to compare it with the run",))
    waiting.daemon = True
    waiting.start()
    try:
        refuse_unpredictable(config)
        card, model = memory.gpu(device), models.find(config.model)
        with _as_when_planned():
            costs = costs_of(model, config, Size(data.num_classes, data.skeleton.name, data.train.max_people))
            tensors = costs.train(asked_of(config))
        settings = f"{config.model} {config.recipe or 'custom'}, {asked_of(config)}"
        return Expected(tensors, of_device(card.name, card.total), card.name, settings).compare
    except LabError:
        raise
    except Exception as error:
        raise LabError(f"{type(error).__name__}: {error}") from error
    finally:
        waiting.cancel()


@contextlib.contextmanager
def _as_when_planned() -> Iterator[None]:
    """Without the run's wish for deterministic algorithms: a prediction is the same wherever it is made."""
    with kernels_kept():
        torch.use_deterministic_algorithms(False)
        yield


# -- a run that could not ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Advice:
    """Settings that are predicted to fit where a run did not, or that come nearest.

    flags    to be put behind those of the command; "" where there is nothing to change
    again    the settings that differ from those the run was begun with
    lines    what was predicted, and what the flags mean
    """

    flags: str
    again: frozenset[str]
    lines: list[str]
    fits: bool


def advice(config: RunConfig, wished: RunConfig, given: AbstractSet[str], device: torch.device, *, evaluation: bool) -> Advice:
    """What `--fit` would choose for the GPU `device`, which was too small for `config`.

    wished       the settings before any `--fit`: the flags start from them
    given        keys that the user gave on the command line, changed only where nothing else is enough
    evaluation   whether it was evaluation that did not fit
    Where the run was predicted to fit, settings that need clearly less. Raises `LabError` where there is no prediction.
    """
    refuse_unpredictable(config)
    gpu = memory.gpu(device)
    budget = of_device(gpu.name, gpu.total, others_bytes=gpu.others)
    asked = asked_of(config)
    with _as_when_planned():
        costs = costs_of(models.find_for(config.model, config.stage), config, size_of_data(config))
        room, train = budget.room(), config.phase == "train"
        before = costs.evaluation(asked) if evaluation else costs.train(asked)
        surprise = before <= room
        choice = _chosen(costs, config, given, LESS * before if surprise else room, train=train)
    peaks = {"training": (choice.train_before, choice.train), "evaluation": (choice.eval_before, choice.eval)}
    lines = [
        "predicted: "
        + ", ".join(f"{phase} {told(one)} as it was, {told(other)} so" for phase, (one, other) in peaks.items() if one)
        + f"; {told_room(budget)}",
        *choice.sentences,
    ]
    if not choice.fits:
        lines.append(f"a GPU of {budget.card_for(max(choice.train, choice.eval)):.1f} GiB would do")
    if surprise:
        lines.append("that was predicted to fit: does another program use the GPU (nvidia-smi)? `sal calibrate` measures it")
    return Advice(
        flags(asked_of(wished), choice.settings),
        frozenset(key for key, value in dataclasses.asdict(choice.settings).items() if value != getattr(asked, key)),
        lines,
        choice.fits,
    )


def _chosen(costs: RunCosts, config: RunConfig, given: AbstractSet[str], room: float, *, train: bool) -> Choice:
    asked = asked_of(config)
    choice = choose(costs, asked, room, fixed=given, train=train)
    return choice if choice.fits else choose(costs, asked, room, train=train)
