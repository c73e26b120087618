"""A whole zero-shot run: every stage of every seed, then the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.runfolder import RunFolder
from engine.zeroshot import pipeline, results
from engine.zeroshot.plan import Plan
from engine.zeroshot.sources import Source
from engine.zeroshot.system import System
from engine.zeroshot.work import After, Work


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
    Raises `UsageError`, `MissingInputError`, `DataError`, `WorkDirError`, `SaveError`, `DivergedError`.
    """
    with RunFolder(path, force=force) as folder:
        work = Work(folder, name, system, plan, lambda phase: source.data(plan, phase), device=device, force=force, after=after)
        for phase in ("test", "val"):
            work.data(phase)  # what is wrong with a file is said before anything is trained
        outcomes = [pipeline.evaluate(work, seed) for seed in plan.seeds]
        if official_log:
            results.write_official_log(work, outcomes, source.arch)
        return results.write(work, outcomes, source.about())
