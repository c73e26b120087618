"""A model on the real NW-UCLA skeletons: streams, seeds and their fusion, as one table.

    python benchmarks/nw_ucla.py --data all_sqe.zip --recipe nw_ucla --streams j b jm bm --seeds 1 2 3     # on a GPU
    python benchmarks/nw_ucla.py --data all_sqe.zip --recipe nw_ucla_cpu --streams j --seeds 1             # on CPU
    python benchmarks/nw_ucla.py --data all_sqe.zip --model hypergcn --recipe base_nw_ucla                 # another model

Writes `benchmarks/results/<model>_<recipe>_<device>.csv` (a row per stream and seed, fused rows per seed: with the
model's published weights where it has some, and with equal ones) and copies the logs of the runs beside it. Interrupted, it
goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from engine.ensemble import join, published_weights, top1
from engine.environment import describe, machine_line
from engine.errors import ConfigError
from engine.launch import guarded
from engine.score_files import read_scores
from sal.train import launch

RESULTS = Path(__file__).resolve().parent / "results"
STREAMS = ("j", "b", "jm", "bm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="NW-UCLA folder or zip")
    parser.add_argument("--model", default="ctrgcn")
    parser.add_argument("--recipe", default="nw_ucla")
    parser.add_argument("--streams", nargs="+", default=list(STREAMS), choices=STREAMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dir/nw_ucla"))
    given = parser.parse_args()
    about = describe()  # now, as the code on the disk may change while the runs go on
    rows = []
    for seed in given.seeds:
        for stream in given.streams:
            rows.append(one_run(given, seed, stream))
        if len(given.streams) > 1:
            rows += fused(given, seed)
    write(given, rows, about)
    return 0


def folder_of(given: argparse.Namespace, seed: int, stream: str) -> Path:
    return Path(given.work_dir, given.model, f"{given.recipe}_{stream}_seed{seed}")


def one_run(given: argparse.Namespace, seed: int, stream: str) -> dict[str, object]:
    folder = folder_of(given, seed, stream)
    launch(
        ["--recipe", given.recipe, "--data", str(given.data), "--stream", stream, "--seed", str(seed),
         "--device", given.device, "--work-dir", str(folder)],
        model=given.model, phase="train",
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    chosen = metrics["selection"]
    return {
        "stream": stream, "seed": seed, "last": chosen["last"]["top1"], "best_on_test": chosen["best_on_test"]["top1"],
        "best_epoch": chosen["best_on_test"]["epoch"] + 1, "seconds": round(metrics["seconds"], 1),
    }  # fmt: skip


def fused(given: argparse.Namespace, seed: int) -> list[dict[str, object]]:
    """Weighted sums of the last epochs' logits, joined by sample id."""
    files = [read_scores(folder_of(given, seed, stream)) for stream in given.streams]
    weights = {"equal": (1.0,) * len(files)}
    with contextlib.suppress(ConfigError):  # none published for these streams
        weights["published"] = published_weights(files).weights
    joined = join(files)
    name = "+".join(given.streams)
    return [{"stream": f"{name} ({how})", "seed": seed, "last": top1(joined, w)} for how, w in weights.items()]


def write(given: argparse.Namespace, rows: list[dict[str, object]], about: dict[str, Any]) -> None:
    import torch

    device = "cuda" if given.device != "cpu" and torch.cuda.is_available() else "cpu"
    name = f"{given.model}_{given.recipe}_{device}"
    file = RESULTS / f"{name}.csv"
    with file.open("w", newline="") as out:
        words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
        out.write(
            f"# {machine_line()}\n# {about['date']}, revision {about['git']}\n# python benchmarks/nw_ucla.py {' '.join(words)}\n"
        )
        table = csv.DictWriter(out, ["stream", "seed", "last", "best_on_test", "best_epoch", "seconds"])
        table.writeheader()
        table.writerows(rows)
    for seed in given.seeds:
        for stream in given.streams:
            shutil.copyfile(folder_of(given, seed, stream) / "log.jsonl", RESULTS / f"{name}_{stream}_seed{seed}.jsonl")
    print(file.read_text())


if __name__ == "__main__":
    sys.exit(guarded(main))
