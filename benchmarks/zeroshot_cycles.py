"""Seconds of one core that a cycle of a zero-shot system takes without a GPU, for every published task.

    python benchmarks/zeroshot_cycles.py --out benchmarks/results/zeroshot_cycles_cpu.csv

The features are made up, in the official numbers and widths, and the text is of three descriptions: what they hold changes no
time. One cycle is run, a late one, in which every term of the loss counts, with the classifier after it. Counted is the time of
one thread on its core, so that other work on the machine does not count. A file that is there goes on where it was cut off.
`[cpu]` in a system's model.toml has these figures, and `sal plan` shows them.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.table_file import TableFile
from engine import models
from engine.environment import describe
from engine.launch import guarded
from engine.zeroshot import synthetic, training
from engine.zeroshot.schedule import TEXT_CYCLE
from engine.zeroshot.system import find
from planner.zeroshot import SKELETON, TEXT, Published, task_named, tasks
from shared_data import zeroshot_splits as splits

COLUMNS = ("model", "task", "clips", "text", "latent", "steps", "cycle_s")
WARM_UP = 20
ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the table, a CSV file")
    return measure(parser.parse_args().out)


def measure(out: Path) -> int:
    """Write a row for each system and task."""
    torch.set_num_threads(1)
    table = TableFile(out, COLUMNS, ("model", "task"))
    found = table.begin(describe(ROOT), {"threads": 1}, ["benchmarks/zeroshot_cycles.py", "--out", str(out)])
    for name in models.discover("zeroshot"):
        for task in map(task_named, tasks()):
            if (name, task.name) in found:
                continue
            seconds, clips = cycle(name, task)
            settings = task.settings
            row = table.put({
                "model": name, "task": task.name, "clips": clips, "text": TEXT, "latent": settings.latent,
                "steps": settings.steps, "cycle_s": f"{seconds:.1f}",
            })  # fmt: skip
            print(" ".join(row.values()), flush=True)
    return 0


def cycle(name: str, task: Published) -> tuple[float, int]:
    """Seconds of the processor, and the clips that it was trained with."""
    split = splits.published(task.classes, task.unseen)
    world = synthetic.world(classes=task.classes, seed=0, features=SKELETON, text=TEXT)
    made_up = world.task(split, per_class=round(task.clips("test")[0] / len(split.seen)))
    run = training.start(find(name), made_up, task.settings, seed=0)
    training.steps(replace(run, settings=replace(run.settings, steps=WARM_UP)), TEXT_CYCLE)
    began = time.process_time()
    training.train_cycle(run, TEXT_CYCLE)
    return time.process_time() - began, len(made_up.train.labels)


if __name__ == "__main__":
    sys.exit(guarded(main))
