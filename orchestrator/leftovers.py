"""Every container made here carries labels that name its run and its owner, so that none outlives both.

A run removes its own containers whatever ends it; what a killed run could not remove, the next start does. A container
belongs to a dead run when its owner was a process of this machine that is gone. Process numbers are used again, so the
start time of the process is part of its name where the system tells it (Linux). A run on another machine cannot be looked at:
its containers are those of a dead run when they are far older than they could be.

A training run (`python -m orchestrator run`) that lost its owner goes on, since hours of work are in it: only its ended container
is removed.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from docker import errors as docker_errors

RUN = "org.skeleton-lab.run"
OWNER = "org.skeleton-lab.owner"
MODEL = "org.skeleton-lab.container-of"
DEADLINE = "org.skeleton-lab.deadline"
"""Seconds since 1970 after which no run can still want a container; absent where that is never."""
_AT_WORK = ("running", "paused", "restarting")
_GRACE = 3600.0  # seconds that clocks of two machines may differ by


def _started(pid: int) -> str:
    """Start time in clock ticks since boot; "" where the system does not tell, "gone" without such a process."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "gone" if state[0] in "ZX" else state[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return "gone"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass
    return ""


def this_machine() -> str:
    """Name of the machine, and of its numbering of processes: containers with one host name each have their own."""
    try:
        return f"{socket.gethostname()}:{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def this_owner() -> str:
    """machine/pid/start time of this process."""
    return f"{this_machine()}/{os.getpid()}/{_started(os.getpid())}"


def labels(run: str, model: str, seconds: float | None = None) -> dict[str, str]:
    """Of a container of this process that `run` made, and that ends within `seconds` of its start; None: ends when it ends."""
    result = {RUN: run, OWNER: this_owner(), MODEL: model}
    return result if seconds is None else {**result, DEADLINE: f"{time.time() + seconds + _GRACE:.0f}"}


def is_dead(owner: str) -> bool:
    """True when `owner` was a process of this machine and runs no more. Other machines' are never judged."""
    machine, _, process = owner.partition("/")
    pid, _, started = process.partition("/")
    if machine != this_machine() or not pid.isdigit():
        return False
    now = _started(int(pid))
    return now == "gone" or now != started


def remove(container: Any) -> None:
    """Remove a container with its volumes, running or not; one that is already gone, or going, is fine."""
    try:
        container.remove(force=True, v=True)
    except docker_errors.NotFound:
        pass
    except docker_errors.APIError as error:
        if "is already in progress" not in str(error):
            raise


def remove_run(client: Any, run: str) -> int:
    """Remove every container of a run; returns how many there were."""
    found = client.containers.list(all=True, filters={"label": f"{RUN}={run}"}, ignore_removed=True)
    for container in found:
        remove(container)
    return len(found)


def sweep(client: Any) -> list[str]:
    """Remove the containers of dead runs, but no training that still runs; returns their names."""
    swept = []
    for container in client.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True):
        deadline = container.labels.get(DEADLINE)
        if deadline is None and container.status in _AT_WORK:
            continue
        if is_dead(container.labels.get(OWNER, "")) or _is_past(deadline):
            remove(container)
            swept.append(container.name)
    return swept


def orphans(client: Any) -> list[str]:
    """Names of the trainings that go on without the process that began them."""
    found = client.containers.list(filters={"label": OWNER}, ignore_removed=True)
    return [one.name for one in found if DEADLINE not in one.labels and is_dead(one.labels.get(OWNER, ""))]


def _is_past(deadline: str | None) -> bool:
    return deadline is not None and deadline.isdigit() and int(deadline) < time.time()
