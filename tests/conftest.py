"""Fixtures shared by all rooms' tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from shared_data.sequences import Sequences, SequenceSource

ROOT = Path(__file__).resolve().parent.parent
# Two test processes share two cores: threads that wait for each other cost more than they give.
os.environ["OMP_NUM_THREADS"] = "1"
# What tests trace stays out of the user's cache; `test_cache` has one of its own.
os.environ.setdefault("SAL_PLAN_CACHE", "off")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests that passed have counted, as they asked by ``record_property("told", ...)``."""
    told = [str(v) for r in terminalreporter.getreports("passed") for name, v in r.user_properties if name == "told"]
    if told:
        terminalreporter.section("counted")
    for line in told:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Kaggle-layout file of made-up actions: 4 classes, 24 training and 12 test clips."""
    from shared_data.synthetic import write_synthetic

    file = tmp_path_factory.mktemp("data") / "tiny_synthetic.npz"
    return write_synthetic(file, classes=4, train_per_class=6, test_per_class=3, frames=80, seed=3)


@pytest.fixture
def run_main() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `models/ctrgcn/main.py` as a user would, in a process of its own."""

    def run(*flags: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "models/ctrgcn/main.py"), *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload,no-any-return]

    return run


@pytest.fixture(scope="session")
def quick() -> list[str]:
    """Flags of a run that takes seconds: 2 epochs of 6 steps on 16 frames."""
    return ["--recipe", "tiny_cpu", "--num-epoch", "2", "--batch-size", "4", "--test-batch-size", "12", "--device", "cpu",
            "--train-window-size", "16", "--test-window-size", "16", "--log-interval", "2"]  # fmt: skip


@pytest.fixture
def untrimmed() -> SequenceSource:
    """Three made-up videos with a class per frame, two of them for training; "sit down" never comes."""
    import numpy as np

    from shared_data.formats.ragged import in_memory
    from shared_data.sequences import SequenceBuilder, SequenceSource
    from shared_data.skeletons import NTU25

    def part(*videos: tuple[str, list[int]]) -> Sequences:
        builder = SequenceBuilder(in_memory("train", 25, np.dtype(np.float32)), joints=25, max_people=2)
        for n, (name, labels) in enumerate(videos):
            frames = np.ones((len(labels), 2, 25, 3), np.float32)
            frames[:, 1:] *= n % 2
            builder.add(name, frames, np.array(labels))
        return builder.finish()

    splits = {"train": part(("a", [0] * 4 + [1] * 3 + [0] * 3), ("b", [1] * 6)), "test": part(("c", [1, 1, 2, 0]))}
    return SequenceSource("lasa", "", NTU25, ("background", "wave", "sit down"), splits, [], "two videos and one")
