"""Processes that start in milliseconds: forks of one that has imported what a run needs, and has computed nothing yet.

Started as ``python tests/engine/zygote.py``; orders are JSON lines on its standard input, answers are JSON lines on its output:
``{"run": [SCRIPT, WORD...], "output": FILE}`` runs a script as the interpreter would and answers with the process id,
``{"wait": ID}`` answers with the exit code. What it forks has one thread: the others of a run are made after the fork.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "models/baselines/main.py"
IMPORTED = ("engine.train", "engine.scoring", "engine.recovery", "planner.expectation", "sal.train", "models.baselines.network")


class Zygote:
    """The parent's side."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder, self.number = process, folder, 0
        assert json.loads(self._line()) == {"threads": 1}

    def start(self, script: Path, *words: str) -> int:
        """The id of a process that runs `script`."""
        self.number += 1
        return int(self._ask({"run": [str(script), *words], "output": str(self.output)}))

    @property
    def output(self) -> Path:
        """What the process that was started last prints, on both streams."""
        return self.folder / f"{self.number}.txt"

    def wait(self, process: int) -> int:
        """Its exit code, or less than 0 for a signal."""
        return int(self._ask({"wait": process}))

    def run(self, script: Path, *words: str) -> int:
        """The exit code of `script`."""
        return self.wait(self.start(script, *words))

    def said(self) -> str:
        return self.output.read_text()

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextlib.contextmanager
def zygote(folder: Path) -> Iterator[Zygote]:
    """One, whose processes print into files of `folder`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SAL_PLAN_CACHE": "off", "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        yield Zygote(process, folder)
        assert process.stdin is not None
        process.stdin.close()


def _child(words: Sequence[str], output: str) -> int:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = list(words)
    sys.path[0] = str(Path(words[0]).parent)
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    with contextlib.suppress(ImportError):
        importlib.import_module("torch._inductor")  # newer torch imports it, for seconds, when asked for deterministic kernels
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    print(json.dumps({"threads": len(list(Path("/proc/self/task").iterdir()))}), file=answers)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            print(json.dumps(os.waitstatus_to_exitcode(status)), file=answers)
            continue
        process = os.fork()
        if process == 0:
            code = _child(order["run"], order["output"])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(json.dumps(process), file=answers)


if __name__ == "__main__":
    _serve()
