"""Predicted against real peaks of memory: 5 networks x 3 batches x 2 precisions x 3 levels of recomputation, and evaluation.

    python benchmarks/vram_grid.py --device cuda --out vram_grid_cuda.csv    # on a GPU: a process for each cell
    python benchmarks/vram_grid.py --device cpu --out vram_grid_cpu.csv      # without: two judges of the tensors alone

On a GPU each cell is measured (`planner.measure`) and held against what `sal plan` says of it: peak allocated and reserved, and
for cards of several sizes whether it fits. On a CPU the prediction of the tensors is held against the log of the CPU's allocator
at small batches, and against torch's MemTracker at the paper's (`vram_judges.py`); both are of the CPU's kernels, and so is what
is predicted for them.

A file is gone on with where it was cut off; cells that failed are measured again. Exit code 1 if a cell is predicted to fit a
card that it does not fit, or a cell failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.step_table import reason
from benchmarks.step_task import PAPER_BATCH, paper_recipe
from benchmarks.table_file import TableFile
from benchmarks.vram_judges import AllocatorLog, tracked_peak
from engine import models
from engine.config import RunConfig, parse
from engine.environment import describe, machine_line
from engine.launch import guarded
from engine.models import ModelCard
from engine.step import Precision
from layers.recompute import Level
from planner.card.budget import FITS, Budget, for_card, of_device
from planner.costs import costs_of, size_of
from planner.measure import Gpu, measured_phase
from planner.steps.peak import Steps
from planner.steps.tracing import Kernels, Phase

LEVELS: tuple[Level, ...] = get_args(Level)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
BATCHES = (8, 16)
"""Clips, beside the paper's batch."""
SMALL_BATCHES = (2, 4)
"""Clips of the cells that a CPU really computes."""
TRACKED: tuple[Level, ...] = ("none", "cheap")
"""MemTracker's hooks on modules do not stand a block that runs again in the backward pass: it raises, or holds tensors itself."""
CARDS = (6.0, 8.0, 12.0, 16.0, 24.0)
"""GiB of the cards that are judged."""

KEY = ("judge", "model", "phase", "batch", "precision", "recompute")
SHARED = (*KEY, "recipe", "clip", "tensors_mib")
COLUMNS = {
    "cpu": (*SHARED, "judged_mib", "difference", "with_workspaces_mib", "seconds", "error"),
    "cuda": (
        *SHARED, "allocated_predicted_mib", "allocated_high_mib", "allocated_mib", "allocated_error", "reserved_predicted_mib",
        "reserved_high_mib", "reserved_mib", "reserved_error", "step_seconds", "out_of_memory", "predicted_to_fit_gib",
        "false_fits_gib", "error",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One step or evaluation pass, and who judges its prediction: "gpu", "allocator" or "tracker"."""

    judge: str
    model: str
    phase: Phase
    batch: int
    precision: Precision
    recompute: Level

    @property
    def key(self) -> tuple[str, ...]:
        return self.judge, self.model, self.phase, str(self.batch), self.precision, self.recompute

    @property
    def card(self) -> ModelCard:
        return models.find(self.model)

    def config(self, device: str) -> RunConfig:
        """The recipe's run of this cell, in one piece."""
        words = ["--recipe", paper_recipe(self.card), "--precision", self.precision, "--recompute", self.recompute]
        for flag in ("batch-size", "forward-batch-size", "test-batch-size"):
            words += [f"--{flag}", str(self.batch)]
        return parse([*words, "--device", device], model=self.model)


def cells(device: str, chosen: Iterable[str]) -> Iterator[Cell]:
    """The cells for "cuda" or "cpu", small batches of all models before larger ones."""

    def grid(judge: str, batches: Mapping[str, Iterable[int]], levels: tuple[Level, ...] = LEVELS) -> Iterator[Cell]:
        for model, sizes in batches.items():
            for batch, precision in itertools.product(sizes, PRECISIONS):
                for level in levels:
                    yield Cell(judge, model, "train", batch, precision, level)
                yield Cell(judge, model, "eval", batch, precision, LEVELS[0])

    chosen = list(chosen)
    if device == "cuda":
        yield from grid("gpu", {model: sorted({*BATCHES, PAPER_BATCH[model]}) for model in chosen})
        return
    for batch in SMALL_BATCHES:
        yield from grid("allocator", dict.fromkeys(chosen, (batch,)))
    yield from grid("tracker", {model: (PAPER_BATCH[model],) for model in chosen}, TRACKED)


@dataclass
class Predictions:
    """The steps of networks, with the kernels of "cuda" or "cpu"; those that were made are kept."""

    kernels: Kernels
    known: dict[str, Steps] = field(default_factory=dict)
    _on_cpu: dict[int, Steps] = field(default_factory=dict)

    def steps(self, cell: Cell) -> Steps:
        """Raises `LabError` for a network that cannot be built."""
        config = cell.config("cpu")
        costs = costs_of(cell.card, config, size_of(config.dataset), self.known)
        steps = costs.steps if cell.phase == "train" else costs.test_steps
        if self.kernels == "cuda":
            return steps
        if id(steps) not in self._on_cpu:  # `known` keeps it: no other one has its id
            self._on_cpu[id(steps)] = Steps(steps.build, steps.clip_shape, steps.num_classes, steps.settings, kernels="cpu")
        return self._on_cpu[id(steps)]


def on_cpu(cell: Cell, tensors: float) -> dict[str, Any]:
    """What a judge of the CPU says."""
    began, config = time.monotonic(), cell.config("cpu")
    size = size_of(config.dataset)
    row: dict[str, Any] = {}
    if cell.judge == "tracker":
        judged = tracked_peak(cell.phase, config, cell.card, size)
    else:
        log = AllocatorLog()
        figures = measured_phase(cell.phase, config, cell.card, size, log, steps=1, warm_up=0)
        assert figures is not None  # a CPU that has no memory left raises something else
        judged = log.without_workspaces
        row["with_workspaces_mib"] = round(figures.allocated_mib, 2)
    return row | {
        "judged_mib": round(judged, 2), "difference": round(tensors / judged - 1, 5),
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def on_gpu(cell: Cell, number: int) -> dict[str, Any]:
    """What the GPU says, in this process."""
    config = cell.config(str(number))
    figures = measured_phase(cell.phase, config, cell.card, size_of(config.dataset), Gpu(number))
    if figures is None:
        return {"out_of_memory": True}
    return {
        "out_of_memory": False, "allocated_mib": round(figures.allocated_mib, 1),
        "reserved_mib": round(figures.reserved_mib, 1), "step_seconds": round(figures.seconds, 5),
    }  # fmt: skip


def alone(cell: Cell, number: int, limit: float) -> dict[str, Any]:
    """`on_gpu` in a process of its own: what one cell leaves in the allocator or in cuDNN is nothing to the next."""
    command = [sys.executable, __file__, "--gpu", str(number), "--cell", *cell.key[1:]]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"given up after {limit:g} s"}
    try:
        row: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": reason(ran.stderr) or f"exit code {ran.returncode}"}
    return row


def held_against(row: dict[str, Any], budget: Budget, cards: Iterable[Budget]) -> dict[str, Any]:
    """What was measured beside what is predicted for it; `budget` is that of the GPU, `cards` are others to be judged."""
    tensors = row["tensors_mib"]
    allocated, reserved = budget.allocated(tensors), budget.reserved(tensors)
    row |= {
        "allocated_predicted_mib": round(allocated.point, 1), "allocated_high_mib": round(allocated.high, 1),
        "reserved_predicted_mib": round(reserved.point, 1), "reserved_high_mib": round(reserved.high, 1),
    }  # fmt: skip
    if "out_of_memory" not in row:
        return row
    fitting, wrong = [], []
    for card in sorted([*cards, budget], key=lambda one: one.vram_gib):
        if card.share(tensors) <= FITS:
            fitting.append(card.vram_gib)
            held = card.vram_gib > budget.vram_gib if row["out_of_memory"] else row["reserved_mib"] <= card.usable
            if not held:
                wrong.append(card.vram_gib)
    row |= {"predicted_to_fit_gib": _sizes(fitting), "false_fits_gib": _sizes(wrong)}
    if not row["out_of_memory"]:
        row["allocated_error"] = round(allocated.point / row["allocated_mib"] - 1, 4)
        row["reserved_error"] = round(reserved.point / row["reserved_mib"] - 1, 4)
    return row


def _sizes(gib: Iterable[float]) -> str:
    return " ".join(f"{size:.4g}" for size in gib)


def fill(given: argparse.Namespace, words: list[str]) -> int:
    """Measure what the file lacks; a line for each cell, then the summary. The exit code of the command."""
    device = given.device
    out = given.out or Path(f"vram_grid_{device}.csv")
    budget, sizes = None, []
    settings: dict[str, object] = {"device": device, "threads": given.threads}
    if device == "cuda":
        about = torch.cuda.get_device_properties(Gpu(given.gpu).torch)
        budget = of_device(about.name, about.total_memory)
        sizes = [for_card(about.name, gib) for gib in given.vram]
        settings |= {"gpu": given.gpu, "calibration": f"of {budget.calibration.gpu} {budget.calibration.date}"}
    table = TableFile(out, COLUMNS[device], KEY)
    print(machine_line())
    rows = table.begin(describe(), settings, ["benchmarks/vram_grid.py", *words])
    predictions = Predictions("cpu" if device == "cpu" else "cuda")
    wanted = [cell for cell in cells(device, given.only or PAPER_BATCH) if not given.judge or cell.judge == given.judge]
    for cell in wanted:
        before = rows.get(cell.key)
        if before and before["error"] == "":
            continue
        row = measure(cell, predictions, given, budget, sizes)
        rows[cell.key] = table.put(row, instead=before is not None)
        print(in_short(row), flush=True)
    print(*summary([rows[cell.key] for cell in wanted]), sep="\n")
    return int(any(row["error"] or row.get("false_fits_gib") for row in (rows[cell.key] for cell in wanted)))


def measure(
    cell: Cell, predictions: Predictions, given: argparse.Namespace, budget: Budget | None, sizes: Iterable[Budget]
) -> dict[str, Any]:
    """The row of one cell; where it cannot be had, with its reason as `error`. `budget` and `sizes` as for `held_against`."""
    row: dict[str, Any] = dict(zip(KEY, cell.key, strict=True))
    try:
        steps = predictions.steps(cell)
        row |= {"recipe": cell.config("cpu").recipe, "clip": "x".join(map(str, steps.clip_shape))}
        tensors = steps.peak(cell.phase, cell.batch, precision=cell.precision, recompute=cell.recompute)
        row["tensors_mib"] = round(tensors, 2)
        if budget is None:
            return row | on_cpu(cell, tensors)
    except Exception as error:  # whatever one network may raise: the other cells are still measured
        return row | {"error": reason(f"{type(error).__name__}: {error}".splitlines()[0])}
    return held_against(row | alone(cell, given.gpu, given.seconds), budget, sizes)


def in_short(row: Mapping[str, Any]) -> str:
    """A row for a person who waits."""
    about = f"{row['model']:14}{row['phase']:6}{row['batch']:>4} {row['precision']:5}{row['recompute']:7}"
    if row.get("error"):
        return f"{about} error: {row['error']}"
    about += f"{row['tensors_mib']:>10} MiB of tensors predicted; "
    if "judged_mib" in row:
        return f"{about}{row['judge']}: {row['judged_mib']} ({row['difference']:+.2%}), {row['seconds']} s"
    if row["out_of_memory"]:
        return f"{about}out of memory{_wrong(row)}"
    return (
        f"{about}allocated {row['allocated_mib']} ({row['allocated_error']:+.1%}), "
        f"reserved {row['reserved_mib']} ({row['reserved_error']:+.1%}){_wrong(row)}"
    )


def _wrong(row: Mapping[str, Any]) -> str:
    return f"; predicted to fit {row['false_fits_gib']} GiB and does NOT" if row["false_fits_gib"] else ""


def summary(rows: list[dict[str, str]]) -> Iterator[str]:
    """Median and worst absolute errors of rows as a file holds them, of all and by model."""
    kinds = {"difference": "tensors", "allocated_error": "allocated", "reserved_error": "reserved"}
    for column, what in kinds.items():
        found = [row for row in rows if row.get(column)]
        for judge in dict.fromkeys(row["judge"] for row in found):
            for model in ("", *dict.fromkeys(row["model"] for row in found)):
                errors = [abs(float(row[column])) for row in found if row["judge"] == judge and model in ("", row["model"])]
                if errors:
                    told = f"median error {statistics.median(errors):.2%}, worst {max(errors):.2%}"
                    yield f"{what} by {judge:10}{model or 'all':14}{len(errors):4} cells, {told}"
    if any("false_fits_gib" in row for row in rows):
        memory = sum(row["out_of_memory"] == "True" for row in rows)
        wrong = sum(bool(row["false_fits_gib"]) for row in rows)
        yield f"{memory} cells ran out of memory; {wrong} were predicted to fit a card and did not"
    if failed := sum(bool(row["error"]) for row in rows):
        yield f"{failed} of {len(rows)} cells FAILED (column error); the same command measures them again"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gpu", type=int, default=0, help="number of the GPU")
    parser.add_argument("--vram", type=float, nargs="+", default=CARDS, help="sizes of cards to judge, GiB")
    parser.add_argument("--only", nargs="+", choices=tuple(PAPER_BATCH), metavar="MODEL", help="these models")
    parser.add_argument("--judge", choices=("allocator", "tracker"), help="--device cpu: this judge alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="CSV file; default vram_grid_DEVICE.csv")
    parser.add_argument("--seconds", type=float, default=300, help="after so long a cell on a GPU is given up")
    parser.add_argument("--cell", nargs=5, help=argparse.SUPPRESS)
    return parser


def main() -> int:
    """The grid, or the one cell of a process of its own."""
    words = sys.argv[1:]
    given = arguments().parse_args(words)
    if given.cell:
        model, phase, batch, precision, recompute = given.cell
        print(json.dumps(on_gpu(Cell("gpu", model, phase, int(batch), precision, recompute), given.gpu)))
        return 0
    torch.set_num_threads(given.threads)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    return fill(given, words)


if __name__ == "__main__":
    sys.exit(guarded(main))
