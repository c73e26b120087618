"""An action for every frame: what pretraining gives, on made-up sequences and on real NW-UCLA clips joined to sequences.

    python benchmarks/segmentation.py --study synthetic
    python benchmarks/segmentation.py --study nw_ucla --data all_sqe.zip

An encoder learns without labels from trimmed clips (of other made-up people; of NW-UCLA's training views), once. Then, for each
number of labelled sequences, method and seed, a network is trained on these and judged on all test sequences, with the weights of
its last epoch: nothing is chosen by the test. Writes `benchmarks/results/segmentation_<study>_<device>.csv`, a row each, and
prints mean and standard deviation over the seeds. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from benchmarks.table_file import TableFile
from engine.config import parse
from engine.environment import describe
from engine.pretraining.unlabelled import Unlabelled
from engine.segmentation import material
from engine.segmentation.framewise import FrameWise
from engine.segmentation.metrics import excluded, segmentation_metrics
from engine.train import train
from shared_data.formats.nw_ucla_joined import ucla_sequences
from shared_data.sequence_loader import Features
from shared_data.sequence_store import write_sequences
from shared_data.sequences import Sequences, SequenceSource
from shared_data.synthetic_sequences import synthetic_sequences, write_synthetic_clips

RESULTS = Path(__file__).resolve().parent / "results"
MODEL = "usdrl"
METRICS = ("accuracy", "edit", "f1_10", "f1_25", "f1_50")
COLUMNS = ("sequences", "method", "seed", *METRICS, *(f"refined_{name}" for name in METRICS), "seconds")
METHODS: dict[str, tuple[str, ...]] = {
    "pretrained": ("--init",),
    "scratch": (),
    "frozen": ("--init", "--segment-args.frozen", "true"),
    "frozen_scratch": ("--segment-args.frozen", "true"),
    "window": ("--init", "--segment-args.mode", "window", "--batch-size", "16", "--clip-grad", "null"),
    "window_scratch": ("--segment-args.mode", "window", "--batch-size", "16", "--clip-grad", "null"),
    "window_512": (
        "--init", "--segment-args.mode", "window", "--batch-size", "512", "--forward-batch-size", "128", "--clip-grad", "null",
    ),
    "per_frame": (),
}  # fmt: skip
"""What is added to the study's recipe; --init is given the pretrained encoder. `per_frame` has no recipe."""
PIECE = 40  # frames: little more than a window, so that time runs about as fast in both
HIDDEN, FRAMES_A_STEP, PER_FRAME_STEPS = 128, 256, 1500


@dataclass(frozen=True)
class Study:
    """A data set and how its recipes, of segmentation and of pretraining, are called.

    labelled   number of training sequences with labels, 0 for all -> epochs, about as many steps for each
    clips      writes what is pretrained on into a folder, and returns it
    sequences  what is segmented
    """

    recipe: str
    pretraining: str
    labelled: dict[int, int]
    clips: Callable[[Path], Path]
    sequences: Callable[[], SequenceSource]


def made_up(folder: Path) -> Path:
    """Pieces of 80 sequences of ten actions, cut without a look at when these begin; the people are not those of the study.

    Pieces and not actions: an encoder that has only seen whole actions, from their first frame to their last, finds nothing of
    the kind in the windows that it is given when it segments.
    """
    source = synthetic_sequences(classes=10, train=80, test=4, seed=0)
    splits = {name: dataclasses.replace(part, classes=pieces(part)) for name, part in source.splits.items()}
    return write_synthetic_clips(folder / "synthetic_pieces.npz", dataclasses.replace(source, splits=splits))


def pieces(sequences: Sequences) -> np.ndarray:
    """(F,) in place of classes: 1 and 2 in turns, which change every `PIECE` frames of a sequence."""
    return np.concatenate([1 + np.arange(length) // PIECE % 2 for length in sequences.lengths.tolist()])


def studies(data: Path | None) -> dict[str, Study]:
    """By name. `data` is NW-UCLA."""
    sizes: dict[str, Any] = {"classes": 6, "train": 48, "test": 20, "actions": 4, "lengths": (36, 60), "pauses": (8, 24)}
    found = {
        "synthetic": Study(
            "synthetic_cpu", "synthetic_cpu", {12: 36, 0: 12}, made_up, lambda: synthetic_sequences(**sizes, seed=1)
        )
    }
    if data is not None:
        found["nw_ucla"] = Study("nw_ucla_cpu", "nw_ucla_32_cpu", {16: 32, 0: 8}, lambda _: data, lambda: ucla_sequences(data))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=("synthetic", "nw_ucla"), default="synthetic")
    parser.add_argument("--data", type=Path, help="NW-UCLA folder or zip, for --study nw_ucla")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["pretrained", "scratch", "per_frame"])
    parser.add_argument("--labelled", nargs="+", type=int, help="numbers of labelled sequences of the study, 0 for all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dir/segmentation"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.study not in (known := studies(args.data)):
        parser.error("--study nw_ucla needs --data")
    study, folder = known[args.study], args.work_dir / args.study
    folder.mkdir(parents=True, exist_ok=True)
    table = TableFile(args.out or RESULTS / f"segmentation_{args.study}_{args.device}.csv", COLUMNS, COLUMNS[:3])
    done = table.begin(describe(), {"recipe": study.recipe}, sys.argv)
    source = study.sequences()
    for count in args.labelled or study.labelled:
        sequences = of_few(source, count)
        stored = folder / f"{args.study}_{len(sequences.splits['train'])}.h5"
        flags = ["--data", str(stored), "--num-epoch", str(study.labelled[count]), "--device", args.device]
        for method in args.methods:
            for seed in args.seeds:
                key = (str(len(sequences.splits["train"])), method, str(seed))
                if key not in done:
                    if not stored.exists():
                        write_sequences(sequences, stored)
                    row = dict(zip(COLUMNS, key, strict=False)) | measured(flags, study, stored, method, seed)
                    print(json.dumps(table.put(row)), flush=True)
    for (count, method), told in table.over_seeds(("sequences", "method"), digits=1).items():
        print(f"{count} sequences, {method}: {told}")
    return 0


def of_few(source: SequenceSource, count: int) -> SequenceSource:
    """`count` of the training sequences, evenly spaced (0: all), and all test sequences."""
    train_part = source.splits["train"]
    chosen = np.linspace(0, len(train_part) - 1, min(count or len(train_part), len(train_part))).round().astype(np.int64)
    return dataclasses.replace(source, splits={"train": train_part.subset(chosen), "test": source.splits["test"]})


def measured(flags: list[str], study: Study, stored: Path, method: str, seed: int) -> dict[str, str]:
    """The figures of one row: a run of `method`, from the encoder where it is to be, which is made first where there is none."""
    extra = list(METHODS[method])
    if extra[:1] == ["--init"]:
        extra.insert(1, str(pretrained(flags[-1], study, stored.parent)))
    run = stored.with_suffix("") / method / f"seed_{seed}"
    told = ["--recipe", study.recipe, "--layout", "auto", "--seed", str(seed), "--work-dir", str(run)]
    config = parse([*told, *flags, *extra], model=MODEL, stage="segment")
    began = time.monotonic()
    if method == "per_frame":
        data = material.load(config)
        last = {"raw": per_frame(data, material.features(config, data.source.skeleton), seed)}
    else:
        train(config, Console(quiet=True), learning=FrameWise)
        last = json.loads((run / "metrics.json").read_text())["last"]
    row = {name: f"{last['raw'][name]:.2f}" for name in METRICS}
    row |= {f"refined_{name}": f"{last['refined'][name]:.2f}" for name in METRICS if "refined" in last}
    return row | {"seconds": f"{time.monotonic() - began:.0f}"}


def pretrained(device: str, study: Study, folder: Path) -> Path:
    """The encoder that has learnt without labels, one for all rows."""
    run = folder / "pretrained"
    if not (run / "metrics.json").exists():
        flags = ["--recipe", study.pretraining, "--data", str(study.clips(folder)), "--device", device, "--work-dir", str(run)]
        train(parse(flags, model=MODEL, stage="pretrain"), Console(quiet=True), learning=Unlabelled)
    return run / "encoder.safetensors"


def per_frame(data: material.Material, features: Features, seed: int) -> dict[str, float | None]:
    """Metrics of a network of one hidden layer that is shown the coordinates of a single frame, and nothing around it."""
    torch.manual_seed(seed)
    shown, labels = (torch.cat(parts) for parts in zip(*frames_of(data.train, features), strict=True))
    mean, spread = shown.mean(0), shown.std(0).clamp(min=1e-6)
    network = nn.Sequential(nn.Linear(shown.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(data.source.class_names)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PER_FRAME_STEPS)
    for _ in range(PER_FRAME_STEPS):
        rows = torch.randint(len(shown), (FRAMES_A_STEP,))
        loss = nn.functional.cross_entropy(network((shown[rows] - mean) / spread), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    truth, found = [], []
    with torch.no_grad():
        for points, known in frames_of(data.test, features):
            truth.append(known.numpy())
            found.append(network((points - mean) / spread).argmax(1).numpy())
    return segmentation_metrics(truth, found, exclude=excluded(data.source.class_names)).as_dict()


def frames_of(sequences: Sequences, features: Features) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each sequence, its frames (T, M C V) and their classes (T,)."""
    return [
        (torch.from_numpy(features(sequences.frames(n))).flatten(0, 1).T.contiguous(), torch.from_numpy(sequences.labels(n)))
        for n in range(len(sequences))
    ]


if __name__ == "__main__":
    sys.exit(main())
