"""One step of learning without labels: ours against a plain form that does what the official codes do (`plain_objectives.py`).

    python benchmarks/pretraining_step.py --device meta --out benchmarks/results/pretraining_step_meta.csv
    python benchmarks/pretraining_step.py --device cpu --out benchmarks/results/pretraining_step_cpu.csv
    python benchmarks/pretraining_step.py --device cuda --clips 64 --out pretraining_step_cuda.csv

A row for each objective at its official size, all in fp32. Nothing is dropped by chance (SCD-Net's transformers officially drop a
tenth): both forms would drop other values.
    meta       at the official batch, without a device: what the planner predicts at most (`planner.steps.tracing.Bench`), of
               our step at each level of recomputation and of the plain one; launches, bytes and products of matrices
    cpu, cuda  median times of single steps of `--clips` clips, ours and the plain one in turns, so that what else the machine
               does slows both; of their ratio the median and the extremes. `recompute` is the device's default. On a CPU the
               times are the processor's, with one thread: what waits for other programs does not count
Where times are taken the two forms are held against each other first, in float64 and on 3 clips: loss and gradients of a step
from the same weights, queues and random numbers. Exit code 1 if they differ by more than 1e-6 of the largest gradient.

A GRU is counted frame by frame on meta, in both forms: without a device there is no cuDNN, which takes all frames of
ours at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from benchmarks.plain_objectives import learning, official_names, plain_objective
from benchmarks.step import milliseconds
from benchmarks.step_counts import GIB
from benchmarks.table_file import TableFile
from engine import models
from engine.assembly import choose_device, clip_shape
from engine.config import RunConfig, parse
from engine.environment import describe
from engine.launch import guarded
from engine.models import ModelCard
from engine.optimizers import build_optimizer
from engine.pretraining.step import PretrainStep, pretrain_step
from engine.step import chosen_level
from layers.recompute import Level
from planner.costs import Size, size_of
from planner.measure import built
from planner.steps.tracing import Bench, StepSettings, Task
from shared_data.errors import LabError
from shared_data.skeletons import skeleton

STEPS: dict[str, tuple[str, str, str]] = {
    "isc": ("isc", "pretrain", "ntu60_xview"),
    "scdnet": ("scdnet", "pretrain", "ntu60_xsub"),
    "mamp": ("mamp", "pretrain", "ntu60_xsub"),
    "stars": ("mamp", "tune", "ntu60_xsub_merged"),
    "usdrl": ("usdrl", "pretrain", "sttr_ntu60_xsub"),
}
"""Row -> model, stage and recipe."""
SURE = {"scdnet": {"dropout": 0.0}}
"""Arguments of objectives without which their steps would depend on what is dropped."""
CHECKED, ALLOWED = 3, 1e-6
LEVELS: tuple[Level, ...] = ("none", "cheap", "blocks")
COUNTS = ("launches", "gb_moved", "matrix_tflop")
META = (
    "step", "recipe", "batch", "clip", *(f"gib_{level}" for level in LEVELS), "gib_plain", *COUNTS,
    *(f"{name}_plain" for name in COUNTS),
)  # fmt: skip
TIMES = (
    "step", "recipe", "clips", "clip", "loss_difference", "gradient_difference", "recompute", "ms", "ms_plain", "times_plain",
    "times_plain_least", "times_plain_most",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """An objective of a recipe, and what builds its plain form."""

    name: str
    card: ModelCard
    config: RunConfig
    size: Size
    clip: tuple[int, ...]

    def ours(self) -> nn.Module:
        """On the CPU, with the same start weights every time."""
        return built(self.config, self.card, self.size)

    def plain_of(self, ours: nn.Module) -> nn.Module:
        return plain_objective(self.card, ours, skeleton(self.size.skeleton), self.size.people)

    def steps(self, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, PretrainStep, PretrainStep]:
        """Our objective, its step, and the step of its plain form."""
        ours = self.ours().to(dtype)
        plain = self.plain_of(ours).to(device, dtype).train()
        ours = ours.to(device).train()
        settled = dataclasses.replace(self.config, recompute="none")
        return (
            ours, pretrain_step(self.config, ours, device),
            pretrain_step(settled, plain, device, optimizer=self.plain_optimizer(ours, plain)),
        )  # fmt: skip

    def plain_optimizer(self, ours: nn.Module, plain: nn.Module) -> torch.optim.Optimizer:
        """That of the recipe, of what learns in ours; all at one rate, which costs the same as several."""
        config = self.config
        return build_optimizer(
            learning(self.card, ours, plain), name=config.optimizer, lr=config.base_lr, weight_decay=config.weight_decay,
            momentum=config.momentum, nesterov=config.nesterov, betas=config.betas, decay_vectors=config.decay_vectors,
        )  # fmt: skip

    def clips(self, count: int, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Made-up views and the clips' ids, the same every time."""
        drawn = torch.randn(count, *self.clip, generator=torch.Generator().manual_seed(0), dtype=dtype)
        return drawn.to(device), torch.arange(count, device=device)


def pair(name: str, given: argparse.Namespace) -> Pair:
    """The row `name` of the table; raises `LabError` for another."""
    if name not in STEPS:
        raise LabError(f"no step {name!r}", where="--only", expected=", ".join(STEPS))
    model, stage, recipe = STEPS[name]
    level = [] if given.device == "meta" else ["--recompute", chosen_level("auto", choose_device(given.device))]
    config = parse(["--recipe", recipe, "--precision", "fp32", *level], model=model, stage=stage)  # type: ignore[arg-type]
    config = dataclasses.replace(config, objective_args=config.objective_args | SURE.get(name, {}))
    if name == "isc":
        config = dataclasses.replace(config, objective_args=config.objective_args | {"representations": ["seq", "graph"]})
    size = size_of(config.dataset)
    layout = skeleton(size.skeleton)
    return Pair(name, models.find(model), config, size, clip_shape(config, layout, size.people, train=True))


def held_together(pair: Pair) -> tuple[float, float]:
    """Of one step of both in float64: the difference of the losses and the largest one of the gradients, both relative."""
    device = torch.device("cpu")
    ours, step, plain_step = pair.steps(device, torch.float64)
    losses = []
    for one in (step, plain_step):
        torch.manual_seed(0)
        losses.append(float(one(*pair.clips(CHECKED, device, torch.float64)).loss))
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    gradients = official_names(pair.card, ours, found)
    expected = dict(plain_step.network.named_parameters())
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    differences = []
    for name, gradient in gradients.items():
        other = expected[name].grad
        assert other is not None, name
        differences.append(float((gradient - other).abs().max()) / largest)
    return abs(losses[0] - losses[1]) / abs(losses[1]), max(differences)


def predicted(pair: Pair) -> dict[str, Any]:
    """What the steps of the official batch hold at most and ask of a device, without values."""
    batch = pair.config.batch_size
    settings = StepSettings(**{field.name: getattr(pair.config, field.name) for field in dataclasses.fields(StepSettings)})

    def bench(network: nn.Module) -> Bench:
        return Bench(network, pair.clip, pair.size.classes, settings, fake=False)

    ours = bench(pair.ours())
    row: dict[str, Any] = {
        f"gib_{level}": round(ours.trace(Task("train", batch, "fp32", level)).peak / GIB, 2) for level in LEVELS
    }
    whole = pair.ours()
    plain = bench(pair.plain_of(whole))
    plain.optimizer = pair.plain_optimizer(whole, plain.model)
    row["gib_plain"] = round(plain.trace(Task("train", batch, "fp32", "none")).peak / GIB, 2)
    for ending, one, level in (("", ours, "cheap"), ("_plain", plain, "none")):
        work = one.work(Task("train", batch, "fp32", level))  # type: ignore[arg-type]
        row |= {f"launches{ending}": work.launches, f"gb_moved{ending}": round(work.bytes / 1e9, 1),
                f"matrix_tflop{ending}": round(work.matrix_flops / 1e12, 2)}  # fmt: skip
    return row | {"batch": batch}


def timed(pair: Pair, device: torch.device, clips: int, steps: int) -> dict[str, Any]:
    """Times of single steps, ours and the plain one in turns."""
    _, step, plain_step = pair.steps(device)
    batch = pair.clips(clips, device)
    both = [lambda one=one: one(*batch) for one in (step, plain_step)]
    for work in both:
        work()
    clock = processor_milliseconds if device.type == "cpu" else partial(milliseconds, device=device)
    times = [[clock(work) for work in both] for _ in range(steps)]
    ratios = [plain / ours for ours, plain in times]
    ours, plain = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "clips": clips, "recompute": pair.config.recompute, "ms": round(ours), "ms_plain": round(plain),
        "times_plain": round(statistics.median(ratios), 2),
        "times_plain_least": round(min(ratios), 2), "times_plain_most": round(max(ratios), 2),
    }  # fmt: skip


def processor_milliseconds(work: Callable[[], object]) -> float:
    """What `work` takes of the processor."""
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began)


def row(one: Pair, given: argparse.Namespace) -> dict[str, Any]:
    """Of the table: counts, or times and how far the two forms are apart."""
    about = {"step": one.name, "recipe": f"{one.config.stage}/{one.config.recipe}", "clip": "x".join(map(str, one.clip))}
    if given.device == "meta":
        return about | predicted(one)
    loss, gradient = held_together(one)
    times = timed(one, choose_device(given.device), given.clips, given.steps)
    return about | times | {"loss_difference": f"{loss:.1e}", "gradient_difference": f"{gradient:.1e}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the table, a CSV file")
    parser.add_argument("--device", default="cpu", help="meta, cpu, cuda, or a GPU's number")
    parser.add_argument("--only", nargs="+", metavar="STEP", help=f"these rows: {', '.join(STEPS)}")
    parser.add_argument("--clips", type=int, default=4, help="of a timed step")
    parser.add_argument("--steps", type=int, default=3, help="timed, of each form")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    table = TableFile(given.out, META if given.device == "meta" else TIMES, ("step",))
    settings = {"threads": given.threads, "device": given.device, "clips": given.clips, "steps": given.steps}
    done = table.begin(describe(Path(__file__).resolve().parent.parent), settings, sys.argv)
    right = True
    for name in given.only or STEPS:
        if (name,) in done:
            continue
        found = table.put(row(pair(name, given), given))
        print(" ".join(f"{column} {value}" for column, value in found.items()), flush=True)
        right &= all(float(found.get(f"{what}_difference", 0)) <= ALLOWED for what in ("loss", "gradient"))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(guarded(main))
