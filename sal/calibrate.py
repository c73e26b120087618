"""`sal calibrate`: what this GPU takes beside the tensors and how fast it is. Heavy imports stay inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.models import ModelCard
    from engine.step import Precision
    from planner.card.calibration import Calibration
    from planner.probes import Probes, Seen
    from planner.steps.peak import Steps
    from planner.steps.tracing import Phase

LIMIT = 90.0
"""Seconds after which no further step is begun."""
HOST, SMALL, LARGE = 2, 8, 32
"""Clips of a step in which the GPU waits for the host, and of two that say something about memory."""


def calibrate(device: int = 0, quick: bool = False, out: Path | None = None) -> int:
    """Measure what a GPU takes beside the tensors and how fast it is, in two minutes; `sal plan` and --fit go by it from then on.

    Args:
        device: number of the GPU.
        quick: fewer steps, in half a minute.
        out: file of calibration rows to write to (default: your own, in the folder of settings).
    """
    from planner.card import calibration
    from planner.probes import GpuProbes

    file = out or calibration.user_file()
    if file.exists():
        calibration.read(file)  # what cannot be added to is told before two minutes are spent
    row = calibrated(GpuProbes(device), quick=quick)
    for name, value in zip(calibration.FIELDS, vars(row).values(), strict=True):
        print(f"{name:20} {'not measured' if value is None else value}")
    print(f"{calibration.header()}\n{calibration.as_csv(row)}", flush=True)
    print(f"written to {calibration.append(row, file)}")
    return 0


def calibrated(gpu: Probes, *, quick: bool = False, tell: Callable[[str], None] = print) -> Calibration:
    """The row of `gpu`, from steps of every model; `tell` hears of each. Raises `NotMeasured` (75) where none had room."""
    import datetime
    import time

    from planner.probes import row_of
    from shared_data.errors import LabError

    seen: list[Seen] = []
    known: dict[str, Steps] = {}
    began, left = time.monotonic(), 0
    for card, config, phase in steps(gpu, quick=quick):
        if time.monotonic() - began > LIMIT:
            left += 1
            continue
        about = f"{card.name} {config.recipe} {phase} {config.batch_size} {config.precision}"
        try:
            found = one_step(gpu, card, config, phase, known)
        except LabError as error:  # a model that is broken hides no other
            tell(f"{about}: left out: {error.what}")
            continue
        if found is None:
            tell(f"{about}: left out: no room for it")
            continue
        tell(
            f"{about}: {found.tensors_mib:.0f} MiB of tensors predicted, {found.allocated_mib:.0f} allocated, "
            f"{found.reserved_mib:.0f} reserved, {1000 * found.seconds:.1f} ms"
        )
        seen.append(found)
    if left:
        tell(f"{left} steps left out: {LIMIT:.0f} s were over")
    return row_of(
        gpu, seen, nominal_mib=nominal_mib(gpu.name, gpu.total_mib), date=datetime.date.today().isoformat(),
        source="sal calibrate --quick" if quick else "sal calibrate",
    )  # fmt: skip


def steps(gpu: Probes, *, quick: bool) -> Iterator[tuple[ModelCard, RunConfig, Phase]]:
    """What is measured: of every model the smallest recipe, so ordered that what is left out in the end misses no model."""
    from engine import models

    plans: list[tuple[Phase, int, Precision]] = [("train", HOST, "fp32"), ("train", SMALL, "fp32"), ("train", SMALL, gpu.half)]
    if not quick:
        plans += [("train", LARGE, "fp32"), ("train", LARGE, gpu.half), ("eval", LARGE, "fp32"), ("eval", LARGE, gpu.half)]
    recipes = {card.name: (card, smallest_recipe(card)) for card in models.discover().values() if card.recipes}
    for phase, clips, precision in plans:
        for card, recipe in recipes.values():
            yield card, run_of(recipe, clips, precision), phase


def smallest_recipe(card: ModelCard) -> RunConfig:
    """Of the recipes of `card` the one whose clips have the fewest numbers."""
    import math

    from engine.assembly import clip_shape
    from engine.config import parse
    from planner.costs import size_of
    from shared_data.skeletons import skeleton

    def numbers(config: RunConfig) -> int:
        size = size_of(config.dataset)
        return math.prod(clip_shape(config, skeleton(size.skeleton), size.people, train=True))

    return min((parse(["--recipe", name], model=card.name) for name in card.recipes), key=numbers)


def run_of(recipe: RunConfig, clips: int, precision: Precision) -> RunConfig:
    """The run of a recipe in one piece, at a GPU's own level of recomputation."""
    from dataclasses import replace

    return replace(
        recipe, batch_size=clips, forward_batch_size=clips, test_batch_size=clips, precision=precision, recompute="cheap",
        memory_friendly=False,
    )  # fmt: skip


def one_step(gpu: Probes, card: ModelCard, config: RunConfig, phase: Phase, known: dict[str, Steps]) -> Seen | None:
    """What was predicted and what was found for one phase of a run; None where the GPU has no room for it.

    known   networks that were traced before, to which this one is added
    """
    from planner.costs import asked_of, costs_of, size_of
    from planner.measure import measured_phase
    from planner.probes import Seen

    size = size_of(config.dataset)
    figures = measured_phase(phase, config, card, size, gpu, steps=5)
    if figures is None:
        return None
    costs, clips = costs_of(card, config, size, known), config.batch_size
    steps, level = costs.steps if phase == "train" else costs.test_steps, asked_of(config).recompute
    tensors = steps.traced(phase, clips, precision=config.precision, recompute=level)
    host = phase == "train" and clips == HOST
    launches = steps.work(clips, precision=config.precision, recompute=level).launches if host else 0
    return Seen(tensors, figures.allocated_mib, figures.reserved_mib, figures.seconds, launches)


def nominal_mib(name: str, total_mib: float) -> float:
    """What a GPU is sold with: by the table of cards, or what it offers, rounded up to a GiB."""
    import math

    from planner.card import cards

    card = cards.named(name, total_mib / 1024)
    known = card.gib * 1024 if card else 0.0
    return known if known >= total_mib else math.ceil(total_mib / 1024) * 1024
