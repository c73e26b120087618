"""Processes that pretrain, killed with SIGKILL wherever they are, and started again: the same bits, queue and follower too."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine import models
from engine.runfolder import read_log

ROOT = Path(__file__).resolve().parents[3]
KILLS = 8


def command(data: Path, folder: Path) -> list[str]:
    flags = ["--recipe", "small", "--data", str(data), "--work-dir", str(folder), "--num-epoch", "40", "--save-steps", "1"]
    return [sys.executable, "-m", "sal", "pretrain", "planted_toy", *flags]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_ends_as_one_that_was_not(toy: Path, tiny_data: Path, tmp_path: Path) -> None:
    environment = {**os.environ, models.MODELS_VARIABLE: str(toy.parent), "PYTHONPATH": str(ROOT)}
    subprocess.run(command(tiny_data, tmp_path / "straight"), check=True, env=environment, capture_output=True)
    chance, killed = random.Random(5), 0
    for _ in range(KILLS):
        process = subprocess.Popen(command(tiny_data, tmp_path / "killed"), env=environment, stdout=subprocess.DEVNULL)
        before = steps(tmp_path / "killed")
        while steps(tmp_path / "killed") <= before and process.poll() is None:
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 0.6))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(tiny_data, tmp_path / "killed"), check=True, env=environment, capture_output=True)
    assert killed >= KILLS // 2
    for name in ("encoder.safetensors", "checkpoints/last.safetensors"):
        ours, theirs = (load_file(tmp_path / folder / name) for folder in ("killed", "straight"))
        assert ours.keys() == theirs.keys() and [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def steps(folder: Path) -> int:
    """Steps that the log of a run tells."""
    file = folder / "log.jsonl"
    return sum(entry["event"] == "step" for entry in read_log(file)) if file.exists() else 0
