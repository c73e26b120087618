"""Every model learns: three epochs of its small CPU recipe on made-up actions, from the Kaggle layout. Minutes, so slow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from engine import models
from engine.config import parse
from engine.train import train
from shared_data.synthetic import write_synthetic

CLASSES = 20
CARDS = models.discover()


@pytest.fixture(scope="module")
def actions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 classes, 480 training and 120 test clips; people of train and test are different ones."""
    file = tmp_path_factory.mktemp("data") / "synthetic_actions.npz"
    return write_synthetic(file, classes=CLASSES, train_per_class=24, test_per_class=6, frames=120, seed=5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(CARDS))
def test_three_epochs_beat_chance_five_times(name: str, actions: Path, tmp_path: Path) -> None:
    assert "tiny_cpu" in CARDS[name].recipes, "a model brings a recipe that two processor cores can train"
    flags = ["--recipe", "tiny_cpu", "--data", str(actions), "--num-epoch", "3", "--work-dir", str(tmp_path / "run")]
    folder = train(parse([*flags, "--device", "cpu", "--save-interval", "0"], model=name), Console(quiet=True))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if entry["event"] == "epoch"]
    accuracy = json.loads((folder / "metrics.json").read_text())["selection"]["last"]["top1"]
    print(f"{name}: losses {losses}, top-1 {accuracy:.1%}")
    assert losses[-1] < losses[0]
    assert accuracy >= 5 / CLASSES
