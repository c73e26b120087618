"""One smoke test's container from creation to removal.

Never `containers.run`: for a missing image it would try a registry. `auto_remove` is not used either: it races with the end of
the log. Waiting is asking for the state a few times a second, so that a stop request is heard and a dead engine is told from a
slow model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker import errors as docker_errors
from requests import exceptions as http_errors

from orchestrator import leftovers, log
from orchestrator.cage import WORK_DIR, Bind, Cage, sdk_arguments
from orchestrator.verdict import Finished

_POLL_SECONDS = 0.2
_LOG_SECONDS = 30.0  # for the end of the log to arrive, once the container has ended


@dataclass(frozen=True)
class Limits:
    """What a container may use. `memory`, `shm` and `tmp` in Docker's notation (512m, 4g)."""

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


def cage_of(job: Job, limits: Limits, run: str) -> Cage:
    """The container of a smoke test: only /tmp and the work folder can be written, both in memory."""
    return Cage(
        image=job.image, command=tuple(job.command), labels=leftovers.labels(run, limits.timeout),
        binds=tuple(Bind(here, there) for here, there in job.files.items()), gpus=job.gpu or "",
        scratch={"/tmp": limits.tmp, WORK_DIR: limits.tmp},
        memory=limits.memory, shm=limits.shm, pids=limits.pids, log="1m",
    )  # fmt: skip


def run(session: Session, job: Job, limits: Limits, told: Callable[[str], None] = lambda _: None) -> Finished:
    """Create, start, read, wait, remove. Raises what the docker SDK raises, and `Stopped` when the session stops.

    `told` hears the stages: "starting", "running", "removing".
    """
    if session.stop.is_set():
        raise Stopped
    told("starting")
    container = session.client.containers.create(**sdk_arguments(cage_of(job, limits, session.run)))
    try:
        reader = log.Reader(container.attach(stream=True, demux=True))  # before the start: nothing of the log is missed
        container.start()
        started = time.monotonic()
        told("running")
        timed_out = _wait(container, started + limits.timeout, session.stop, reader.log)
        seconds = time.monotonic() - started
        if not reader.finish(_LOG_SECONDS):
            raise http_errors.ConnectionError("the log of an ended container did not end")
        state = container.attrs["State"]
        return Finished(int(state["ExitCode"]), bool(state["OOMKilled"]), timed_out, seconds, reader.log)
    except docker_errors.NotFound as error:
        if session.stop.is_set():
            raise Stopped from error  # removed from under us by the clean-up of an interrupted run
        raise
    finally:
        told("removing")
        leftovers.remove(container)


def _wait(container: Any, deadline: float, stop: threading.Event, written: log.Log) -> bool:
    """Wait for the end; kill at the deadline, and for an endless log. Whether it was late; the state is in `attrs`."""
    timed_out = killed = False
    while True:
        container.reload()
        if container.attrs["State"]["Status"] in ("exited", "dead"):
            return timed_out
        if stop.is_set():
            raise Stopped
        late = time.monotonic() > deadline
        if not killed and (late or written.size > log.LIMIT):
            timed_out, killed = late, True
            leftovers.send(container, "SIGKILL")
        stop.wait(_POLL_SECONDS)
