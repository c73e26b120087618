"""Nothing grows while a run goes on: memory, open files, threads, shared memory.

Whatever leaks, leaks by the step, the epoch, the evaluation or the save: so the length is counted in those, not in hours. The
recipes have 65 to 500 epochs, and two hours on one GPU are a part of them; here are 1000 epochs of 6 steps, each with an
evaluation and two saves of the state.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.zygote import ROOT

WARM_UP = 0.2  # share of the epochs after which pools and caches have their size
MEMORY = 8 * 1024  # KiB by which the resident memory may differ between the thirds that follow: pools breathe
SOAK = Path(__file__).with_name("soak.py")


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [24, pytest.param(1000, marks=pytest.mark.timeout(7200))])
def test_nothing_grows(words: list[str], tmp_path: Path, record_property: Callable[[str, object], None], epochs: int) -> None:
    table, environment = tmp_path / "table.json", {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SOAK), str(table), *words, "--work-dir", str(tmp_path / "run"), "--num-epoch", str(epochs),
               "--save-steps", "3", "--num-worker", "2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=7000, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    samples = json.loads(table.read_text())
    assert [sample["epoch"] for sample in samples] == list(range(1, epochs + 1))
    record_property("told", _table(samples))
    warm = samples[int(epochs * WARM_UP) :]
    early, late = warm[: len(warm) // 3], warm[-(len(warm) // 3) :]
    for name in ("descriptors", "threads", "shm"):
        assert max(sample[name] for sample in late) <= max(sample[name] for sample in early), _table(samples)
    assert _median(late, "disk_kib") <= _median(early, "disk_kib") + 16, _table(samples)
    assert _median(late, "rss_kib") <= _median(early, "rss_kib") + MEMORY, _table(samples)


def _median(samples: list[dict[str, int]], name: str) -> int:
    return sorted(sample[name] for sample in samples)[len(samples) // 2]


def _table(samples: list[dict[str, int]]) -> str:
    """Ten rows of it."""
    rows = [samples[round(i * (len(samples) - 1) / 9)] for i in range(10)]
    head = " ".join(f"{name:>12}" for name in rows[0])
    return "\n".join([head, *(" ".join(f"{value:12d}" for value in row.values()) for row in rows)])
