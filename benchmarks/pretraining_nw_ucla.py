"""Learning without labels on the real NW-UCLA skeletons: a pretrained encoder against the same one at its start weights.

    python benchmarks/pretraining_nw_ucla.py --data all_sqe.zip --models mamp isc usdrl

For each model and seed: the encoder of the recipe `pretrain/nw_ucla_cpu` (or another one) is judged as it starts, learns from the
training views (1 and 2) without their labels, and is judged again, each time on view 3: nearest neighbours (k = 1, 5) and a
linear probe on features made once. Writes `benchmarks/results/pretraining_nw_ucla_<device>.csv`: a row per model, seed and
encoder, then mean and standard deviation over the seeds. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.table_file import TableFile
from engine import models
from engine.config import RunConfig, parse
from engine.downstream.judging import Wishes, default_probe, judge
from engine.environment import describe
from engine.pretraining.unlabelled import Unlabelled
from engine.train import train

RESULTS = Path(__file__).resolve().parent / "results"
COLUMNS = ("model", "seed", "encoder", "knn_1", "knn_5", "linear_last", "spread", "effective_rank", "seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="NW-UCLA folder or zip")
    parser.add_argument("--models", nargs="+", default=["mamp", "isc", "usdrl"])
    parser.add_argument("--recipe", default="nw_ucla_cpu", help="in the models' pretrain folders")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dir/pretraining_nw_ucla"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or RESULTS / f"pretraining_nw_ucla_{args.device}.csv"
    table = TableFile(out, COLUMNS, COLUMNS[:3])
    done = table.begin(describe(), {"recipe": args.recipe}, sys.argv)
    for model in args.models:
        for seed in args.seeds:
            for encoder in ("start", "pretrained"):
                if (model, str(seed), encoder) not in done:
                    print(json.dumps(table.put(measured(args, model, seed, encoder))), flush=True)
    for (model, encoder), told in table.over_seeds(("model", "encoder"), digits=3).items():
        print(f"{model} {encoder}: {told}")
    return 0


def measured(args: argparse.Namespace, model: str, seed: int, encoder: str) -> dict[str, Any]:
    """One row: the encoder made, if it is to be, and judged."""
    folder = args.work_dir / model / f"seed_{seed}"
    flags = ["--recipe", args.recipe, "--data", str(args.data), "--seed", str(seed), "--device", args.device]
    pretrained = folder / "pretrained"
    config = parse([*flags, "--work-dir", str(pretrained)], model=model, stage="pretrain")
    began = time.monotonic()
    if encoder == "pretrained":
        train(config, Console(quiet=True), learning=Unlabelled)
    learnt = time.monotonic() - began
    how = judged_as(config, folder / f"judged_{encoder}")
    if encoder == "pretrained":
        how = dataclasses.replace(how, init=str(pretrained / "encoder.safetensors"))
    _, judged = judge(how, Wishes(("knn", "linear"), ks=(1, 5), crops="fixed", seeds=(0, 1, 2), probe=default_probe(how)))
    found = {(result.evaluation, result.setting): result.mean for result in judged.results if result.rule in ("none", "last")}
    (linear,) = (mean for (name, _), mean in found.items() if name == "linear")
    collapse = judged.collapse or {}
    return {
        "model": model, "seed": seed, "encoder": encoder, "knn_1": f"{found['k-NN', 'k = 1']:.4f}",
        "knn_5": f"{found['k-NN', 'k = 5']:.4f}", "linear_last": f"{linear:.4f}", "spread": f"{collapse['spread']:.3f}",
        "effective_rank": f"{collapse['effective_rank']:.1f}", "seconds": f"{learnt:.0f}",
    }  # fmt: skip


def judged_as(config: RunConfig, folder: Path) -> RunConfig:
    """The settings by which the encoder that `config` pretrains is judged: of its model's own recipe for NW-UCLA, or any data."""
    card = models.find(config.model)
    recipe = next(name for name in ("nw_ucla", "nw_ucla_cpu", "tiny_cpu") if name in card.recipes)
    told = ["--recipe", recipe, "--dataset", config.dataset, "--data", str(config.data), "--seed", str(config.seed)]
    base = parse([*told, "--device", config.device, "--work-dir", str(folder)], model=config.model)
    window = config.train_window_size
    return dataclasses.replace(
        base, train_window_size=window, test_window_size=window, model_args=classifier_arguments(config), test_batch_size=64
    )


def classifier_arguments(config: RunConfig) -> dict[str, Any]:
    """The model arguments of the classifier with the encoder that `config` pretrains."""
    from engine.assembly import load_data, objective_arguments

    data = load_data(config)
    people = data.train.max_people
    objective = models.build_objective(
        models.find(config.model), "pretrain", skeleton=data.skeleton, people=people,
        **objective_arguments(config, data.skeleton, people),
    )  # fmt: skip
    found: dict[str, Any] = objective.classifier("")  # type: ignore[operator]
    return found


if __name__ == "__main__":
    sys.exit(main())
