"""Small made-up skeletons, their texts, and backbones that train in a second."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from engine.config import parse
from engine.train import train
from shared_data.synthetic import names, write_synthetic

CLASSES = 6
FLAGS = (
    "--recipe", "tiny_cpu", "--model-args.architecture", "mlp", "--num-epoch", "1", "--batch-size", "4", "--test-batch-size", "5",
    "--train-window-size", "16", "--test-window-size", "16", "--num-worker", "0",
)  # fmt: skip


def skeletons(folder: Path, *, seed: int = 0) -> Path:
    """`CLASSES` classes with 6 training and 3 test clips each."""
    return write_synthetic(folder / "synthetic.npz", classes=CLASSES, train_per_class=6, test_per_class=3, frames=40, seed=seed)


def trained(model: str, flags: list[str]) -> Path:
    """`sal train MODEL` without its words; returns the run folder."""
    return train(parse(flags, model=model, phase="train"), Console(quiet=True))


def backbone(data: Path, folder: Path, *flags: str) -> Path:
    """One of `FLAGS` and more flags."""
    return trained("baselines", [*FLAGS, "--data", str(data), "--work-dir", str(folder), "--device", "cpu", *flags])


def texts(folder: Path, classes: int = CLASSES, order: list[int] | None = None) -> Path:
    """Labels of synthetic classes as a CSV file in `folder`; in another `order` they are those of other classes."""
    said = names(classes)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f'{k + 1},"{said[n]}"' for k, n in enumerate(order or range(classes))]
    (folder / f"lb_{classes}.csv").write_text("\n".join(["idx,label", *rows]) + "\n")
    return folder
