"""How long a whole zero-shot run takes, stage by stage, on made-up features of at least the official sizes.

    python benchmarks/zeroshot.py --out benchmarks/results/zeroshot_time_cpu.csv
    python benchmarks/zeroshot.py --model fsvae --task 60/5 --threads 2

A row per model and task: seconds of training on the test's split, of training on the validation's, and of the gate and the
evaluation. Every part of the features has as many clips of a class as the largest official one, of 256 numbers; the text is 1536
wide, as that of three descriptions. The settings are the published ones. Rows that are in --out already are not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.table_file import TableFile
from engine import models
from engine.environment import describe
from engine.launch import guarded
from engine.runfolder import RunFolder
from engine.zeroshot import pipeline, plan, synthetic, synthetic_folder, system
from engine.zeroshot.text.rows import TextRows
from engine.zeroshot.work import Data, Work
from shared_data import zeroshot_splits as splits

SEEN_CLIPS = {(60, 5): 36_758, (60, 12): 32_070, (120, 10): 57_767, (120, 24): 50_141}
"""Official clips of seen classes in training, the largest part of each task."""
COLUMNS = ("model", "task", "clips", "train_s", "val_s", "gate_s", "whole_s", "zsl", "harmonic")
SEED = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(models.discover("zeroshot")))
    parser.add_argument("--task", nargs="+", default=[f"{a}/{b}" for a, b in SEEN_CLIPS])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("zeroshot_time_cpu.csv"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    table = TableFile(given.out, COLUMNS, ("model", "task"))
    known = table.begin(describe(), {"threads": given.threads}, ["benchmarks/zeroshot.py", *sys.argv[1:]])
    print(" ".join(COLUMNS))
    for task in given.task:
        for name in given.model:
            print(*(known.get((name, task)) or table.put(measured(name, task))).values(), flush=True)
    return 0


def measured(name: str, task: str) -> dict[str, object]:
    """One row."""
    classes, unseen = map(int, task.split("/"))
    chosen = plan.published(classes, unseen, seeds=(SEED,))
    world = synthetic.world(classes=classes, seed=SEED, features=256, text=1536)
    per_class = math.ceil(SEEN_CLIPS[classes, unseen] / len(chosen.test.seen))
    text = TextRows(world.text)

    def source(phase: splits.Phase) -> Data:
        return Data(synthetic_folder.made_up(world, chosen, phase, per_class), text)

    with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder) / "run") as opened:
        work = Work(opened, name, system.find(name), chosen, source)
        clips = [work.data(phase).features.train.labels.size for phase in ("test", "val")]
        times = [time.monotonic()]
        for phase in splits.PHASES:
            pipeline.train(work, SEED, phase)
            times.append(time.monotonic())
        outcome = pipeline.evaluate(work, SEED)
        times.append(time.monotonic())
    seconds = [round(after - before, 1) for before, after in itertools.pairwise(times)]
    return {
        "model": name, "task": task, "clips": "+".join(map(str, clips)), "train_s": seconds[0], "val_s": seconds[1],
        "gate_s": seconds[2], "whole_s": round(times[-1] - times[0], 1), "zsl": round(outcome.zero_shot, 4),
        "harmonic": round(outcome.generalised.harmonic, 4),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(guarded(main))
