"""A Docker host of a sweep: a thread of its own does what is asked of its engine, so that one that hangs holds up no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from docker import errors as docker_errors
from requests import exceptions as http_errors

from orchestrator import leftovers
from orchestrator.cage import sdk_arguments
from orchestrator.connection import connect
from orchestrator.discovery import image_of
from orchestrator.errors import EXIT_NO_ENGINE, EXIT_NO_PERMISSION, OrchestratorError, explain
from orchestrator.files import write
from orchestrator.foreground import say
from orchestrator.run_command import cage_of, make_folder
from orchestrator.sweep_file import Run

_LOG = "10m"
"""What an engine keeps of a run's output."""
_LAST = 400
"""Characters of a last line that is shown."""


@dataclass(frozen=True)
class Answer:
    """What came of something that was asked: a value, or an error. `about`: which container, "" for none."""

    host: Host
    kind: str
    about: str
    value: Any = None
    error: Exception | None = None


@dataclass(eq=False)
class Host:
    """An engine, by its docker context.

    up           whether it answered the last time; None before it was asked
    troubles     how often in a row it did not answer
    refusals     how often in a row it would not start a run
    look_at      when it is asked next what it runs, on the monotonic clock
    start_at     when it may be given runs again
    asked        what is under way: the kinds of question and the containers that they are about
    since        when the oldest of these was asked, or the last answer came
    strangers    its containers of this sweep that no run has any more
    left         whether nobody wants anything of it any more
    """

    context: str
    answers: SimpleQueue[Answer]
    up: bool | None = None
    troubles: int = 0
    refusals: int = 0
    look_at: float = 0.0
    start_at: float = 0.0
    asked: list[tuple[str, str]] = field(default_factory=list)
    since: float = 0.0
    strangers: int = 0
    left: bool = False
    _wanted: SimpleQueue[tuple[str, str, Callable[[Any], Any]] | None] = field(default_factory=SimpleQueue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._work, name=f"host {self.context}", daemon=True).start()

    def __str__(self) -> str:
        return f"context {self.context}" if self.context else "this engine"

    def ask(self, kind: str, about: str, work: Callable[[Any], Any]) -> None:
        """Have `work` done with a client of the engine; the answer comes in its turn."""
        if not self.asked:
            self.since = time.monotonic()
        self.asked.append((kind, about))
        self._wanted.put((kind, about, work))

    def leave(self) -> None:
        """The thread ends when it has done what it is at, should that ever be; what else was asked is not done."""
        self.left = True
        self._wanted.put(None)

    def _work(self) -> None:
        client = None
        while (wanted := self._wanted.get()) is not None and not self.left:
            kind, about, work = wanted
            try:
                client = client or connect(self.context)
                self.answers.put(Answer(self, kind, about, work(client)))
            except Exception as error:
                if client is not None and is_silence(error):
                    with suppress(Exception):  # what is broken may not even close
                        client.close()
                    client = None
                self.answers.put(Answer(self, kind, about, error=error))
        if client is not None:
            client.close()


def is_silence(error: Exception) -> bool:
    """Whether the engine gave no answer. The SDK raises anything where a connection breaks, ssh's among them."""
    if isinstance(error, OrchestratorError):
        return error.exit_code in (EXIT_NO_ENGINE, EXIT_NO_PERMISSION)
    return not isinstance(error, docker_errors.APIError)


def told(error: Exception) -> OrchestratorError:
    """The error in words."""
    known = (OrchestratorError, docker_errors.DockerException, http_errors.RequestException)
    return explain(error) if isinstance(error, known) else OrchestratorError(f"{type(error).__name__}: {error}")


def missing_images(client: Any, models: Collection[str]) -> list[OrchestratorError]:
    """What is to be said of those images that the engine does not have."""
    result = []
    for model in models:
        try:
            client.images.get(image_of(model))
        except docker_errors.ImageNotFound as error:
            result.append(explain(error, image=image_of(model)))
    return result


def containers(client: Any, label: str) -> dict[str, str]:
    """Name -> status of the containers of a sweep."""
    found = client.containers.list(all=True, filters={"label": f"{leftovers.RUN}={label}"}, sparse=True)
    return {one.attrs["Names"][0].lstrip("/"): one.status for one in found}


def start(client: Any, run: Run, gpus: str, name: str, label: str) -> None:
    """Make the work folder and the container, and start it. It outlives this process, and is kept when it has ended."""
    cage = cage_of(run.given(gpus), run.command, client)
    make_folder(run.command.work_dir, cage.user)
    labels = {**leftovers.labels(label), leftovers.DETACHED: "1"}
    container = client.containers.create(**sdk_arguments(replace(cage, name=name, labels=labels, log=_LOG, tty=False)))
    try:
        container.start()
    except docker_errors.APIError:
        leftovers.remove(container)
        raise


def collect(client: Any, name: str, log: Path) -> tuple[int, str]:
    """Exit code of a container that has ended, and why: its error, or its last line. Its output is written to `log`."""
    container = client.containers.get(name)
    state, text = container.attrs["State"], container.logs().decode(errors="replace")
    try:
        log.parent.mkdir(exist_ok=True)
        write(log, text)
    except OSError as error:
        say(f"could not write {log}: {error.strerror}")
    code, lines = int(state["ExitCode"]), _lines(text)
    if state["OOMKilled"]:
        return code, "killed for memory: lower --num-worker or --test-batch-size, or give more"
    errors = [line for line in lines if line.startswith("error: ")]
    return code, (errors if code and errors else lines or [""])[-1][:_LAST]


def last_line(client: Any, name: str) -> str:
    """What a container wrote last, without blank lines."""
    lines = _lines(client.containers.get(name).logs(tail=20).decode(errors="replace"))
    return lines[-1][:_LAST] if lines else ""


def _lines(text: str) -> list[str]:
    """Those that hold something; a progress bar's \\r ends a line, too."""
    return [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]


def send(client: Any, name: str, signal: str) -> None:
    """Send it a signal; one that is gone, or has ended, needs none."""
    with suppress(docker_errors.NotFound):
        leftovers.send(client.containers.get(name), signal)


def remove(client: Any, name: str) -> None:
    """Remove a container; one that is gone is fine."""
    with suppress(docker_errors.NotFound):
        leftovers.remove(client.containers.get(name))
