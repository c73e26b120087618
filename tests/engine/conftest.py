"""A run of a fraction of a second, and processes that start as fast, for tests that need many of both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.zygote import MAIN, Zygote, zygote

FLAGS = ["--recipe", "tiny_cpu", "--model-args.architecture", "mlp", "--num-epoch", "2", "--batch-size", "4", "--test-batch-size",
         "12", "--train-window-size", "16", "--test-window-size", "16", "--device", "cpu", "--log-interval", "2"]  # fmt: skip


@pytest.fixture(scope="session")
def words(tiny_data: Path) -> list[str]:
    """Flags of `MAIN`, without a work folder: 2 epochs of 6 steps."""
    return [*FLAGS, "--data", str(tiny_data)]


@pytest.fixture(scope="session")
def straight(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of `words`, in a fresh interpreter, as a user starts it."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    command = [sys.executable, str(MAIN), *words, "--work-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """What forks processes that have everything imported."""
    with zygote(tmp_path_factory.mktemp("said")) as process:
        yield process
