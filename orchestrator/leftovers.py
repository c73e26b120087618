"""Every container made here carries labels that name its run and its owner, so that none outlives both.

A run removes its own containers whatever ends it; what a killed run could not remove, the next start does. A container
belongs to a dead run when its owner was a process of this machine that is gone. Process numbers are used again, so the
start time of the process is part of its name where the system tells it (Linux). A run on another machine cannot be looked at:
its containers are those of a dead run when they are far older than they could be.

A training run (`python -m orchestrator run`) that lost its owner goes on, since hours of work are in it: only its ended container
is removed, and one that was left to run on purpose not even then.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from docker import errors as docker_errors

RUN = "org.skeleton-lab.run"
OWNER = "org.skeleton-lab.owner"
DETACHED = "org.skeleton-lab.detached"
"""On a container that was left to run on purpose: when it has ended, its user removes it, or the sweep whose run it was."""
DEADLINE = "org.skeleton-lab.deadline"
"""Seconds since 1970 after which no run can still want a container; absent where that is never."""
AT_WORK = ("running", "paused", "restarting")
"""States of a container that has begun and not ended."""
_GRACE = 3600.0  # seconds that clocks of two machines may differ by


def _started(pid: int) -> str:
    """Start time in clock ticks since boot; "" where the system does not tell, "gone" without such a process."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "gone" if state[0] in "ZX" else state[19]
    except OSError:
        pass
    try:  # it may be hidden from us
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass
    return ""


def this_machine() -> str:
    """Name of the machine and of its numbering of processes: neither hosts nor containers that share a host name are one."""
    parts = [socket.gethostname()]
    for file in (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id")):
        with contextlib.suppress(OSError):
            parts.append(file.read_text().strip())
            break
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return ":".join(parts)


def this_owner() -> str:
    """machine/pid/start time of this process."""
    return f"{this_machine()}/{os.getpid()}/{_started(os.getpid())}"


def labels(run: str, seconds: float | None = None) -> dict[str, str]:
    """Of a container of this process that `run` made, and that ends within `seconds` of its start; None: ends when it ends."""
    result = {RUN: run, OWNER: this_owner()}
    return result if seconds is None else {**result, DEADLINE: f"{time.time() + seconds + _GRACE:.0f}"}


def is_dead(owner: str) -> bool:
    """True when `owner` was a process of this machine and runs no more. Other machines' are never judged."""
    machine, _, process = owner.partition("/")
    pid, _, started = process.partition("/")
    if machine != this_machine() or not pid.isdigit():
        return False
    now = _started(int(pid))
    return now == "gone" or (now != "" and started not in ("", now))


def send(container: Any, name: str) -> None:
    """Send a signal (SIGTERM); one that runs no more needs none."""
    try:
        container.kill(signal=name)
    except docker_errors.APIError as error:
        if "is not running" not in str(error):
            raise


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
    return sum(_removed(container) for container in found)


def sweep(client: Any) -> list[str]:
    """Remove the containers of dead runs, but no training that still runs; returns their names."""
    found = client.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True)
    return [container.name for container in found if _is_left(container) and _removed(container)]


def _is_left(container: Any) -> bool:
    labels, deadline = container.labels, container.labels.get(DEADLINE)
    if deadline is None and container.status in AT_WORK:
        return False
    if DETACHED in labels and container.status != "created":
        return False
    return is_dead(labels.get(OWNER, "")) or _is_past(deadline)


def _removed(container: Any) -> bool:
    """Remove it; one that the engine cannot remove is told and left, for it must not stop everything else."""
    try:
        remove(container)
    except docker_errors.APIError as error:
        what = " ".join(str(error.explanation or error).split())
        print(f"warning: the engine cannot remove container {container.name}: {what}", file=sys.stderr)
        return False
    return True


def orphans(client: Any) -> list[str]:
    """Names of the trainings that go on without the process that began them."""
    found = client.containers.list(filters={"label": OWNER}, ignore_removed=True)
    return [one.name for one in found if not {DEADLINE, DETACHED} & one.labels.keys() and is_dead(one.labels.get(OWNER, ""))]


def _is_past(deadline: str | None) -> bool:
    return deadline is not None and deadline.isdigit() and int(deadline) < time.time()
