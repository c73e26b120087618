"""Runs that are killed at random instants, inside saves too, end with the bits of a run that was not.

Each killed run is a process forked from one that has everything imported (`tests.engine.zygote`), so that a start costs no
imports; what it is held against is a run started as a user does.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.checkpoint import read
from tests.engine.test_train import assert_same
from tests.engine.zygote import MAIN, Zygote

IN_A_ROW = 6  # kills of one run, before it may end


@dataclass
class Seen:
    """Of all kills."""

    kills: int = 0
    in_saves: int = 0
    before_state: int = 0
    runs: int = 0


def temporaries(folder: Path) -> set[str]:
    """Names of files in the making; a killed writer leaves them."""
    return {file.name for part in (folder, folder / "checkpoints") for file in part.glob(".*.tmp")}


def killed(parent: Zygote, command: list[str], folder: Path, chance: random.Random, seconds: float, seen: Seen) -> bool:
    """Start `command` and kill it, every other time as soon as it is saving something; False if it had ended."""
    left = temporaries(folder)
    process = parent.start(MAIN, *command)
    time.sleep(chance.uniform(0, seconds))
    if chance.random() < 0.5:
        while not temporaries(folder) - left and Path(f"/proc/{process}/stat").read_text().split()[2] != "Z":
            pass
        time.sleep(chance.uniform(0, 0.005))
    os.kill(process, signal.SIGKILL)
    code = parent.wait(process)
    assert code in (0, -signal.SIGKILL), parent.said()
    if code == 0:
        return False
    seen.kills += 1
    seen.in_saves += bool(temporaries(folder) - left)
    last = folder / "checkpoints/last.safetensors"
    seen.before_state += not last.exists()
    if last.exists():
        read(last)
    return True


def kill_and_resume(parent: Zygote, words: list[str], straight: Path, folder: Path, workers: int, kills: int) -> Seen:
    """Runs that are killed and gone on with until there were so many `kills`; each ends as `straight` did."""
    chance, seen = random.Random(), Seen()
    began = time.monotonic()
    assert parent.run(MAIN, *words, "--work-dir", str(folder / "timed"), "--save-steps", "1") == 0, parent.said()
    seconds = 0.8 * (time.monotonic() - began)
    while seen.kills < kills:
        run = folder / str(seen.runs)
        command = [*words, "--work-dir", str(run), "--num-worker", str(workers), "--save-steps", str(chance.choice((0, 1, 4)))]
        for _ in range(min(IN_A_ROW, kills - seen.kills)):
            if not killed(parent, command, run, chance, seconds, seen):
                seconds *= 0.9  # too late: less is left to do
                break
        assert parent.run(MAIN, *command) == 0, parent.said()
        assert_same(straight, run)
        assert not temporaries(run)
        seen.runs += 1
    return seen


@pytest.mark.parametrize(
    ("workers", "kills"), [(1, 17), *(pytest.param(workers, 67, marks=pytest.mark.slow) for workers in (0, 1, 2))]
)
def test_killed_at_random_instants(
    parent: Zygote, words: list[str], straight: Path, tmp_path: Path, record_property: Callable[[str, object], None],
    workers: int, kills: int,
) -> None:  # fmt: skip
    seen = kill_and_resume(parent, words, straight, tmp_path, workers, kills)
    record_property(
        "told",
        f"{seen.kills} SIGKILLs with {workers} workers, {seen.in_saves} inside a save, {seen.before_state} before the first "
        f"state: {seen.runs} runs resumed and ended bit-identical",
    )
    assert seen.kills == kills
    assert seen.in_saves > 0


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([signal.SIGTERM] * 4, 143),  # torchrun and Slurm send it to every process, and once more
        ([signal.SIGUSR1] * 2, 85),
        ([signal.SIGUSR1, signal.SIGTERM], 85),
        ([signal.SIGINT] * 2, 130),  # from the terminal, and passed on by torchrun
    ],
)
def test_signals_may_come_twice(
    parent: Zygote, words: list[str], straight: Path, tmp_path: Path, sent: list[signal.Signals], code: int
) -> None:
    """From the first state on, when it is known that the run listens."""
    command, last = [*words, "--work-dir", str(tmp_path / "run")], tmp_path / "run/checkpoints/last.safetensors"
    process = parent.start(MAIN, *command)
    while not last.exists() and Path(f"/proc/{process}/stat").read_text().split()[2] != "Z":
        time.sleep(0.001)
    for number in sent:
        os.kill(process, number)
        time.sleep(0.01)
    assert parent.wait(process) == code, parent.said()
    assert "run the same command again" in parent.said()
    assert "Traceback" not in parent.said()
    assert parent.run(MAIN, *command) == 0
    assert "resuming" in parent.said()
    assert_same(straight, tmp_path / "run")
