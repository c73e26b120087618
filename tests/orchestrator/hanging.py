"""A smoke test command of its own whose containers hang, to be stopped, killed, or left by its engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from orchestrator import leftovers
from tests.orchestrator.conftest import ROOT, TEST_IMAGE

CODE = f"""
import sys
from orchestrator import smoke_command, smoke
smoke.image_of = lambda _: {TEST_IMAGE!r}
smoke_command.choose = lambda names: list(names)
original = smoke.job_of
smoke.job_of = lambda plan, model: smoke.replace(original(plan, model), command=["sh", "-c", "sleep 600"])
sys.exit(smoke_command.main(["a", "b", "--jobs", "2", "--memory", "64m"]))
"""


def command(*, ignoring: bool = False, **variables: str) -> subprocess.Popen[str]:
    """Start it; `ignoring`: as a shell starts background jobs, with SIGINT ignored, which children inherit."""
    before = signal.SIG_IGN if ignoring else signal.SIG_DFL
    return subprocess.Popen(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, before),  # noqa: PLW1509 - no threads here
    )


def owned_by(client: Any, pid: int) -> list[Any]:
    """The containers of a process."""
    found = client.containers.list(all=True, filters={"label": leftovers.OWNER}, ignore_removed=True)
    return [c for c in found if c.labels[leftovers.OWNER].split("/")[1] == str(pid)]


def started(client: Any, *, ignoring: bool = False, **variables: str) -> subprocess.Popen[str]:
    """The command, once both of its containers run."""
    process = command(ignoring=ignoring, **variables)
    deadline = time.monotonic() + 60
    while len([c for c in owned_by(client, process.pid) if c.status == "running"]) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the containers did not start"
        time.sleep(0.1)
    return process
