"""A run on a small file system: ``python on_a_small_disk.py DISK KEPT MAIN FLAG...``, in a namespace that may mount DISK anew.

DISK is the file system. The run folder is copied to KEPT at the end. What is not as it should be ends it with an AssertionError.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

from engine import train
from engine.checkpoint import read
from sal.train import main


def run(words: list[str]) -> tuple[int, str]:
    """Exit code, and what was said on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main("baselines", words)
    print(code, said.getvalue())
    return code, said.getvalue()


def fill(disk: Path) -> None:
    """Until nothing more can be written."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def steps(disk: Path, kept: Path, words: list[str]) -> None:
    folder = disk / "run"
    last = folder / "checkpoints/last.safetensors"
    words = [*words, "--work-dir", str(folder), "--save-steps", "1"]
    fill(disk)
    code, said = run(words)
    assert code in (73, 74) and str(folder) in said and not folder.exists(), "a full disk"
    (disk / "filler").unlink()

    (disk / "filler").write_bytes(bytes(12 << 20))
    code, said = run(words)
    assert code == 74 and "bytes free" in said and str(folder) in said, "no room for the states"
    assert not folder.exists()
    (disk / "filler").unlink()

    save, saved = train.Trainer.save, []

    def full_at_the_third(trainer: train.Trainer) -> None:
        if len(saved) == 3:
            fill(disk)
        save(trainer)
        saved.append(read(last))

    with mock.patch.object(train.Trainer, "save", full_at_the_third):
        code, said = run(words)
    assert code == 74 and "the disk is full" in said and str(last) in said and f"{last.stat().st_size // 10**5}" in said
    assert read(last)[1]["position"] == saved[-1][1]["position"], "the last good state"
    assert not [*folder.rglob(".*.tmp")]
    (disk / "filler").unlink()

    before = last.read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, said = run(words)
    assert code == 73 and str(folder) in said, "a file system that is read-only"
    assert last.read_bytes() == before
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)

    code, _ = run(words)
    assert code == 0
    shutil.copytree(folder, kept)


if __name__ == "__main__":
    steps(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[4:])
