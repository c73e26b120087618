"""Does zero-shot accuracy on NW-UCLA come from the texts? Each order of the three unseen texts in turn, on the same features.

    python benchmarks/zeroshot_nw_ucla.py --data all_sqe.zip --work-dir W      # makes the features
    python benchmarks/zeroshot_orders.py --work-dir W

Over all six orders each clip is right in exactly two where nothing but the texts tells unseen classes apart: the mean is then a
third but for the noise of training. Above it, something about unseen classes has leaked. Writes
`benchmarks/results/zeroshot_orders_cpu.csv`: a row per split and system with the accuracy of every order, the right one first.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.zeroshot_nw_ucla import CLASSES, MODE, plans  # noqa: E402
from engine import models  # noqa: E402
from engine.environment import describe, machine_line  # noqa: E402
from engine.launch import guarded  # noqa: E402
from engine.zeroshot import features, training  # noqa: E402
from engine.zeroshot.plan import Plan  # noqa: E402
from engine.zeroshot.system import find  # noqa: E402
from engine.zeroshot.task import Task  # noqa: E402
from engine.zeroshot.text import rows as text_rows  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "zeroshot_orders_cpu.csv"
ORDERS = list(itertools.permutations(range(3)))
HEAD = ("split", "unseen", "model", *("order " + "".join(map(str, order)) for order in ORDERS), "mean")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dir/zeroshot_nw_ucla"))
    parser.add_argument("--splits", type=int, default=20)
    given = parser.parse_args()
    about = describe()
    rows: list[tuple[int, str, str, list[float]]] = []
    for number, plan in enumerate(itertools.islice(plans(), given.splits)):
        for model in models.discover("zeroshot"):
            found = accuracies(given.work_dir / f"split{number:03}" / "first" / "features", plan, model)
            rows.append((number, " ".join(map(str, plan.test.unseen)), model, [*found, statistics.fmean(found)]))
            print(number, model, *(f"{value:.4f}" for value in rows[-1][3]), flush=True)
    with RESULTS.open("w", newline="") as out:
        out.write(f"# {machine_line()}\n# {about['date']}, revision {about['git']}\n")
        out.write(f"# python benchmarks/zeroshot_orders.py --splits {given.splits}\n# ZSL on features of zeroshot_nw_ucla.py, ")
        out.write("no ReLU on scores, last cycle, seed 5; order 012 is the right one\n")
        table = csv.writer(out)
        table.writerow(HEAD)
        table.writerows([*row[:3], *(round(value, 4) for value in row[3])] for row in rows)
        for model in models.discover("zeroshot"):
            columns = list(zip(*(row[3] for row in rows if row[2] == model), strict=True))
            for name, fold in (("mean", statistics.fmean), ("deviation", statistics.stdev)):
                table.writerow([f"{name} of {given.splits}", "", model, *(round(fold(column), 4) for column in columns)])
    return 0


def accuracies(root: Path, plan: Plan, model: str) -> list[float]:
    """ZSL after the last cycle, for each order of the unseen classes' texts."""
    made = features.read(
        root / "sk_feats" / features.folder_name(len(plan.test.unseen), "test", extractor="baselines"), plan.test, "test"
    )
    text = text_rows.read(root / "text_feats" / "shared_words", MODE, CLASSES).rows
    unseen = list(plan.test.unseen)
    found = []
    for order in ORDERS:
        swapped = text.copy()
        swapped[unseen] = text[[unseen[place] for place in order]]
        task = Task(plan.test, swapped, made.train, made.unseen.rows)
        run = training.start(find(model), task, replace(plan.settings, relu_logits=False), seed=plan.seeds[0])
        found.append(training.train(run)[-1].accuracy)
    return found


if __name__ == "__main__":
    sys.exit(guarded(main))
