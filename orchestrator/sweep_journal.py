"""The queue's memory: a folder with a file of events, one JSON line each, that are on the disk before anything follows from them.

It is only ever appended to. A process that is killed, or a machine that loses power, leaves at most a torn last line, which
counts as not written. One process at a time may append; the lock goes with it, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import leftovers
from orchestrator.errors import EXIT_DATA, EXIT_UNWRITABLE, EXIT_UNWRITTEN, OrchestratorError
from orchestrator.sweep_states import DONE, FAILED, RETRY, WAITING

_LOCK, _EVENTS = ".lock", "journal.jsonl"
_FORMAT = 1
_HOLDS: dict[str, dict[str, tuple[type, ...]]] = {
    "sweep": {"format": (int,), "id": (str,)},
    "start": dict.fromkeys(("run", "digest", "context", "gpus", "container"), (str,)) | {"attempt": (int,)},
    "begun": {"run": (str,)},
    "lost": {"run": (str,), "why": (str,)},
    "ended": {"run": (str,), "state": (str,), "code": (int, type(None)), "why": (str,), "counted": (bool,)},
    "again": {"run": (str,), "same": (bool,)},
}
"""Event -> what it holds at least, and of which types; those of later versions are not known."""


@dataclass(frozen=True)
class Journal:
    """An open journal. `label`: the label of all containers of this queue; `events`: what had been written when it was opened."""

    folder: Path
    label: str
    events: tuple[dict[str, Any], ...]
    _file: int

    def append(self, event: str, **values: Any) -> dict[str, Any]:
        """Write an event; when this returns it survives a loss of power. Raises `OrchestratorError` (exit 74)."""
        told = {"event": event, "at": round(time.time(), 3), **values}
        left = (json.dumps(told) + "\n").encode()
        try:
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError as error:
            raise OrchestratorError(
                f"could not write {self.folder / _EVENTS}: {error.strerror}",
                "make room, then give the same command again: what runs goes on meanwhile, and is found again",
                exit_code=EXIT_UNWRITTEN,
            ) from error
        return told


@contextmanager
def opened(folder: Path) -> Iterator[Journal]:
    """The journal in `folder`, locked; a new one where there is none.

    Raises `OrchestratorError`: exit 73 where another process has it or nothing can be made there, 65 where it is damaged.
    """
    with contextlib.ExitStack() as kept:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            kept.callback(os.close, lock)
            _lock(lock, folder)
            kept.callback(os.ftruncate, lock, 0)
            file = os.open(folder / _EVENTS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            kept.callback(os.close, file)
            events = _whole(folder)
            os.ftruncate(file, sum(len(line) for line, _ in events))  # a torn end, or the next line would be part of it
            _sync(folder)
        except OSError as error:
            raise OrchestratorError(
                f"the folder of the sweep {folder} cannot be used: {error.strerror}", "give another --folder",
                exit_code=EXIT_UNWRITABLE,
            ) from error  # fmt: skip
        label = events[0][1]["id"] if events else uuid.uuid4().hex
        journal = Journal(folder, label, tuple(event for _, event in events), file)
        if not events:
            journal.append("sweep", format=_FORMAT, id=label)
        yield journal


def looked_at(folder: Path) -> tuple[tuple[dict[str, Any], ...], bool]:
    """The events in `folder`, () where there is no journal, and whether a process of this machine is at work there."""
    owner = ""
    with contextlib.suppress(OSError):
        owner = (folder / _LOCK).read_text()
    events = tuple(event for _, event in _whole(folder)) if (folder / _EVENTS).exists() else ()
    return events, bool(owner) and not leftovers.is_dead(owner)


def _lock(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        machine, _, process = (folder / _LOCK).read_text().partition("/")
        holder = f"process {process.partition('/')[0]} on {machine.partition(':')[0]}" if process else "another process"
        raise OrchestratorError(
            f"the folder of the sweep {folder} is in use by {holder}", "look at it with --status, or give another --folder",
            exit_code=EXIT_UNWRITABLE,
        ) from None  # fmt: skip
    os.ftruncate(lock, 0)
    os.pwrite(lock, leftovers.this_owner().encode(), 0)


def _whole(folder: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The lines that were written whole, each with its event."""
    *lines, _ = (folder / _EVENTS).read_bytes().split(b"\n")
    result = []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            fits = _fits(event) and (number > 1 or (event["event"] == "sweep" and event["format"] == _FORMAT))
        except (ValueError, RecursionError):
            fits = False
        if not fits:
            raise OrchestratorError(
                f"{folder / _EVENTS}, line {number} is damaged, or of another version",
                "give another --folder; runs that have ended are taken up again from their own work folders, which stand",
                exit_code=EXIT_DATA,
            )
        result.append((line + b"\n", event))
    return result


def _fits(event: Any) -> bool:
    """Whether it is an event with all that it should hold; type, not isinstance: true is no number."""
    if not isinstance(event, dict) or type(event.get("event")) is not str:
        return False
    holds = _HOLDS.get(event["event"], {"run": (str,)} if "run" in event else {})
    if not all(type(event.get(key, ...)) in types for key, types in holds.items()):
        return False
    return event["event"] != "ended" or event["state"] in (WAITING, RETRY, DONE, FAILED)


def _sync(folder: Path) -> None:
    """The name of a new file is on the disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
