"""A run that looks at its own process after each epoch: ``python soak.py TABLE FLAG...``; flags are those of `MAIN`.

TABLE becomes a JSON list of {"epoch", "steps", "rss_kib", "descriptors", "threads", "shm", "disk_kib"}: memory that is resident,
open files, threads, what this process has in /dev/shm, and what the run folder holds without its log.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from engine import train
from sal.train import main


def entries(folder: str) -> int:
    return len(list(Path(folder).iterdir()))


def shared() -> int:
    """Mappings in /dev/shm, with a name there or without, and names with the number of this process."""
    mapped = sum("/dev/shm/" in line for line in Path("/proc/self/maps").read_text().splitlines())
    return mapped + len(list(Path("/dev/shm").glob(f"*{os.getpid()}*")))


def sample(trainer: train.Trainer) -> dict[str, Any]:
    gc.collect()  # what waits for the collector is no leak
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = [file for file in trainer.folder.path.rglob("*") if file.is_file() and file.suffix != ".jsonl"]
    return {
        "epoch": trainer.epoch, "steps": trainer.global_step, "rss_kib": pages * 4, "descriptors": entries("/proc/self/fd"),
        "threads": entries("/proc/self/task"), "shm": shared(),
        "disk_kib": sum(file.stat().st_size for file in files) // 1024,
    }  # fmt: skip


def soak(table: Path, words: list[str]) -> int:
    close, samples = train.Trainer.close_epoch, []

    def closed(trainer: train.Trainer) -> None:
        close(trainer)
        samples.append(sample(trainer))

    with mock.patch.object(train.Trainer, "close_epoch", closed):
        code = main("baselines", words)
    table.write_text(json.dumps(samples))
    return code


if __name__ == "__main__":
    sys.exit(soak(Path(sys.argv[1]), sys.argv[2:]))
