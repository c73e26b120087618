"""A whole zero-shot run: every stage of every seed, then the results and the report. Or one stage of training alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from engine import memory
from engine.errors import OutOfMemoryError
from engine.report import write_report
from engine.runfolder import RunFolder
from engine.zeroshot import pipeline, results
from engine.zeroshot.cycles import Kept
from engine.zeroshot.plan import Plan
from engine.zeroshot.plausible import require_one_world
from engine.zeroshot.sources import Source
from engine.zeroshot.system import System
from engine.zeroshot.work import After, Data, Work
from shared_data.zeroshot_splits import PHASES, Phase

HOST_FULL = "DefaultCPUAllocator"  # in the words of torch where the host has no more memory


def run(
    path: Path,
    name: str,
    system: System,
    plan: Plan,
    source: Source,
    *,
    device: torch.device | str = "cpu",
    force: bool = False,
    official_log: bool = False,
    after: After = lambda seed, phase, cycle: None,
) -> dict[str, Any]:
    """Do what is not done yet in the work folder `path`, and return the summary that its ``results.json`` holds.

    name          the model's
    force         replace what the folder holds of another run
    official_log  write the official text file too
    after         sees every new cycle: seed, phase, cycle
    Raises `UsageError`, `MissingInputError`, `DataError`, `WorkDirError`, `SaveError`, `DivergedError`, `OutOfMemoryError`.
    """
    source.require_files(plan, PHASES)
    data: dict[Phase, Data] = {phase: source.data(plan, phase) for phase in PHASES}  # a wrong file leaves no folder behind
    require_one_world(*(data[phase].features for phase in PHASES))
    with _enough_memory(), RunFolder(path, force=force) as folder:
        work = Work(folder, name, system, plan, data.__getitem__, device=device, force=force, after=after)
        outcomes = [pipeline.evaluate(work, seed) for seed in plan.seeds]
        if official_log:
            results.write_official_log(work, outcomes, source.arch)
        summary = results.write(work, outcomes, source.about(plan))
        write_report(path)
        return summary


def train_alone(
    path: Path,
    name: str,
    system: System,
    plan: Plan,
    source: Source,
    *,
    phase: Phase,
    device: torch.device | str = "cpu",
    force: bool = False,
    after: After = lambda seed, phase, cycle: None,
) -> dict[int, list[Kept]]:
    """Stage 1, or 2 for the phase "val", of every seed: what `run` of the same plan in the same folder then does not do again.

    Reads the phase's files alone. Raises as `run` does.
    """
    source.require_files(plan, [phase])
    data = {phase: source.data(plan, phase)}
    with _enough_memory(), RunFolder(path, force=force) as folder:
        work = Work(folder, name, system, plan, data.__getitem__, device=device, force=force, after=after)
        return {seed: pipeline.train(work, seed, phase) for seed in plan.seeds}


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Raises `OutOfMemoryError` in place of torch's."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        message = f"the GPU ran out of memory: {memory.first_line(error)}"
        raise OutOfMemoryError(message, part=memory.TRAINING, next_step="--device cpu: it needs minutes there") from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and HOST_FULL not in str(error):
            raise
        message = f"this machine has not so much memory: {memory.first_line(error)}"
        advice = "a smaller --latent-size, --batch-size or --samples"
        raise OutOfMemoryError(message, part=memory.TRAINING, next_step=advice) from None
