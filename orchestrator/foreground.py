"""A command in a container, before the user's eyes: its output here, our signals there, its exit code ours. Or left to itself."""

from __future__ import annotations

import itertools
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, BinaryIO

from docker import errors as docker_errors
from requests import exceptions as http_errors

from orchestrator import leftovers
from orchestrator.cage import Cage, sdk_arguments
from orchestrator.errors import EXIT_NO_ENGINE, OrchestratorError, explain, lost
from orchestrator.signals import told_of_signals

_PATIENCE = 2  # signals that are passed on as they are
_SECONDS_TO_END = 60
_SECONDS_TO_SAVE = 60  # for `docker stop`, whose own 10 may be less than a step


def say(text: str) -> None:
    """A remark beside the command's own output."""
    with suppress(OSError):  # nobody reads it
        print(text, file=sys.stderr, flush=True)


def detached(client: Any, cage: Cage) -> int:
    """Start and leave: once it runs, nobody removes it but the user."""
    labels = {**leftovers.labels(uuid.uuid4().hex), leftovers.DETACHED: "1"}
    container = client.containers.create(**sdk_arguments(replace(cage, labels=labels)))
    try:
        container.start()
    except BaseException:
        leftovers.remove(container)
        raise
    name = cage.name
    print(f"{name} runs: docker logs -f {name}; docker stop -t {_SECONDS_TO_SAVE} {name} saves its state; then docker rm {name}")
    return 0


def attached(client: Any, cage: Cage) -> int:
    """Run to the end with its output here and our signals there; returns its exit code. What has ended is removed."""
    labels = leftovers.labels(uuid.uuid4().hex)
    container = client.containers.create(**sdk_arguments(replace(cage, labels=labels)))
    try:
        stream = container.attach(stream=True, demux=True)  # before the start: nothing is missed
        with _signals_to(container) as running:
            container.start()
            running.set()
            if cage.tty:
                _fit_terminal(container)
            _copy(stream, container)
            code = int(container.wait(timeout=_SECONDS_TO_END)["StatusCode"])
        container.reload()
        if container.attrs["State"]["OOMKilled"]:
            limit = f"its limit of {cage.memory}" if cage.memory else "this machine's memory"
            say(f"killed for memory at {limit}: lower --num-worker or --test-batch-size, or give more")
        return code
    except docker_errors.APIError as error:  # is also a RequestException
        raise explain(error, image=cage.image) from error
    except http_errors.RequestException as error:
        next_step = f"when it answers again: docker logs -f {cage.name} shows whether the command still runs"
        raise OrchestratorError(lost().what, next_step, exit_code=EXIT_NO_ENGINE) from error
    finally:
        _remove_ended(container)


def _fit_terminal(container: Any) -> None:
    columns, rows = shutil.get_terminal_size()
    with suppress(docker_errors.APIError):  # a short command has ended by now
        container.resize(height=rows, width=columns)


def _remove_ended(container: Any) -> None:
    try:
        container.reload()
        if container.status not in leftovers.AT_WORK:
            leftovers.remove(container)
    except (docker_errors.DockerException, http_errors.RequestException):
        pass  # the engine is gone; the next start removes it


def _copy(stream: Any, container: Any) -> None:
    """The container's output to ours, until it ends. Where ours cannot be written any more, the command is asked to end."""
    ours: list[BinaryIO | None] = [sys.stdout.buffer, sys.stderr.buffer]
    for pieces in stream:
        for i, piece in enumerate(pieces):
            out = ours[i]
            if not piece or out is None:
                continue
            try:
                out.write(piece)
                out.flush()
            except OSError:
                ours[i] = None
                leftovers.send(container, "SIGTERM")


@contextmanager
def _signals_to(container: Any) -> Iterator[threading.Event]:
    """What asks for an end goes to the command (SIGHUP as SIGTERM), which then saves its state; a third one kills it.

    Yields the event that it runs: what was heard before is sent then. A thread of its own sends, for the client has locks.
    """
    running = threading.Event()
    heard: SimpleQueue[signal.Signals | None] = SimpleQueue()

    def deliver() -> None:
        for count in itertools.count():
            number = heard.get()
            running.wait()
            if number is None:
                return
            asked = signal.SIGTERM if number == signal.SIGHUP else number
            with suppress(docker_errors.DockerException, http_errors.RequestException):  # the reader of its output is told, too
                leftovers.send(container, (asked if count < _PATIENCE else signal.SIGKILL).name)

    threading.Thread(target=deliver, name="signals", daemon=True).start()
    try:
        with told_of_signals(heard.put):
            yield running
    finally:
        running.set()
        heard.put(None)
