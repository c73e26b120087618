"""One hardened container from creation to removal.

Never `containers.run`: for a missing image it would try a registry. `auto_remove` is not used either: it races with
reading the log. Waiting is asking for the state a few times a second, so that a stop request is heard and a dead engine
is told from a slow model.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker import errors as docker_errors
from docker import types

from orchestrator import leftovers
from orchestrator.errors import EXIT_USAGE, OrchestratorError
from orchestrator.verdict import Finished

USER = "10001:10001"
WORK_DIR = "/workspace/work_dir"
_POLL_SECONDS = 0.2
_LOG_BYTES = "1m"


@dataclass(frozen=True)
class Limits:
    """What a container may use. `memory` and `shm` in Docker's notation (512m, 4g); swap is not given on top."""

    memory: str = "4g"
    shm: str = "256m"
    tmp: str = "512m"
    pids: int = 256
    timeout: float = 600.0


@dataclass(frozen=True)
class Job:
    """What to run: an image, a command, read-only files (path here -> path there), at most one GPU by its number."""

    model: str
    image: str
    command: Sequence[str]
    files: Mapping[Path, str]
    gpu: str | None = None


@dataclass(frozen=True)
class Session:
    """One call of the command: its engine, the label of its containers, and the signal that it is over."""

    client: Any
    run: str
    stop: threading.Event


class Stopped(Exception):
    """The whole run is ending; this container's verdict no longer matters."""


def memory_bytes(text: str) -> int:
    """Docker's notation -> bytes; raises on anything else."""
    match = re.fullmatch(r"(\d+)([kmg]?)b?", text.strip().lower())
    if not match:
        raise OrchestratorError(f"{text!r} is not an amount of memory", "write 512m or 4g", exit_code=EXIT_USAGE)
    return int(match[1]) * {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}[match[2]]


def settings(job: Job, limits: Limits, run: str) -> dict[str, Any]:
    """Arguments of `containers.create`: no network, read-only root, no capabilities, no new privileges, all bounded.

    Only /tmp and the work folder can be written, both in memory and gone with the container.
    """
    tmpfs = f"rw,nosuid,nodev,noexec,size={limits.tmp},mode=1777"
    devices = [] if job.gpu is None else [types.DeviceRequest(device_ids=[job.gpu], capabilities=[["gpu"]])]
    return {
        "image": job.image,
        "command": list(job.command),
        "labels": {leftovers.RUN: run, leftovers.OWNER: leftovers.this_owner(), leftovers.MODEL: job.model},
        "user": USER,
        "network_mode": "none",
        "read_only": True,
        "tmpfs": {"/tmp": tmpfs, WORK_DIR: tmpfs},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": limits.pids,
        "mem_limit": limits.memory,
        "memswap_limit": limits.memory,
        "shm_size": limits.shm,
        "init": True,
        "device_requests": devices,
        # types.Mount, not volumes: a missing source is an error, not a new folder owned by root.
        "mounts": [types.Mount(there, str(here), type="bind", read_only=True) for here, there in job.files.items()],
        "log_config": types.LogConfig(type="json-file", config={"max-size": _LOG_BYTES, "max-file": "1"}),
    }


def run(session: Session, job: Job, limits: Limits, told: Callable[[str], None] = lambda _: None) -> Finished:
    """Create, start, wait, read, remove. Raises what the docker SDK raises, and `Stopped` when the session stops.

    `told` hears the stages: "starting", "running", "removing".
    """
    if session.stop.is_set():
        raise Stopped
    told("starting")
    container = session.client.containers.create(**settings(job, limits, session.run))
    try:
        container.start()
        started = time.monotonic()
        told("running")
        timed_out = _wait(container, started + limits.timeout, session.stop)
        seconds = time.monotonic() - started
        state = container.attrs["State"]
        log = container.logs(stdout=True, stderr=True).decode(errors="replace")
        return Finished(int(state["ExitCode"]), bool(state["OOMKilled"]), timed_out, seconds, log)
    except docker_errors.NotFound as error:
        if session.stop.is_set():
            raise Stopped from error  # removed from under us by the clean-up of an interrupted run
        raise
    finally:
        told("removing")
        leftovers.remove(container)


def _wait(container: Any, deadline: float, stop: threading.Event) -> bool:
    """Wait for the end, at the deadline kill; returns whether that was needed. Leaves the final state in `attrs`."""
    timed_out = False
    while True:
        container.reload()
        if container.attrs["State"]["Status"] in ("exited", "dead"):
            return timed_out
        if stop.is_set():
            raise Stopped
        if not timed_out and time.monotonic() > deadline:
            timed_out = True
            try:
                container.kill()
            except docker_errors.APIError as error:
                if "is not running" not in str(error):
                    raise
        stop.wait(_POLL_SECONDS)
