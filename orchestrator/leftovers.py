"""Every container made here carries labels that name its run and its owner, so that none outlives both.

A run removes its own containers whatever ends it; what a killed run could not remove, the next start does. A container
belongs to a dead run when its owner was a process of this machine that is gone. Process numbers are used again, so the
start time of the process is part of its name where the system tells it (Linux).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from docker import errors as docker_errors

RUN = "org.skeleton-lab.run"
OWNER = "org.skeleton-lab.owner"
MODEL = "org.skeleton-lab.container-of"


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


def this_owner() -> str:
    """host/pid/start time of this process."""
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}"


def is_dead(owner: str) -> bool:
    """True when `owner` was a process of this machine and runs no more. Other machines' are never judged."""
    host, _, process = owner.partition("/")
    pid, _, started = process.partition("/")
    if host != socket.gethostname() or not pid.isdigit():
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
    """Remove the containers of dead runs; returns their names."""
    swept = []
    for container in client.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True):
        if is_dead(container.labels.get(OWNER, "")):
            remove(container)
            swept.append(container.name)
    return swept
