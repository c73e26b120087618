"""A command as it is typed on this machine, and what it becomes inside a container that sees other paths."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cage import WORK_DIR, WORKSPACE, Bind
from orchestrator.discovery import ROOT
from orchestrator.errors import EXIT_NO_INPUT, EXIT_USAGE, OrchestratorError

_MAIN = ("train", "test")
_READ = {"--data": "data", "--weights": "weights", "--config": "config"}


@dataclass(frozen=True)
class Command:
    """What runs in the container.

    work_dir   the folder of this machine that it writes to
    binds      what it reads of this machine
    is_main    whether it is the model's main.py
    """

    words: tuple[str, ...]
    work_dir: Path
    binds: tuple[Bind, ...] = ()
    is_main: bool = False


def read_command(words: Sequence[str], model: str, work_dir: Path, root: Path = ROOT) -> Command:
    """The command with paths of the container for those of this machine.

    train and test become the model's main.py; anything else stays as it is. Raises `OrchestratorError` (exit 66) for a file to
    read that is neither here nor in the image.
    """
    if not words or words[0] not in _MAIN:
        return Command(tuple(words), work_dir)
    given = _separate(words[1:])
    folders = [Path(value) for flag, value in itertools.pairwise(given) if flag == "--work-dir"]
    if folders:
        work_dir = folders[-1]
    binds: dict[str, Bind] = {}
    result = ["python3", "main.py", "--phase", words[0]]
    flag = ""
    for word in given:
        if flag == "--work-dir":
            result.append(WORK_DIR)
        elif flag in _READ:
            result.append(_seen(word, flag, work_dir, root / "models" / model, binds))
        else:
            result.append(word)
        flag = word if word.startswith("--") else ""
    return Command(tuple(result), work_dir, tuple(binds.values()), is_main=True)


def _separate(words: Sequence[str]) -> list[str]:
    """--flag=value as two words, for the flags whose value is a path."""
    result: list[str] = []
    for word in words:
        flag, equals, value = word.partition("=")
        result += [flag, value] if equals and flag in (*_READ, "--work-dir") else [word]
    return result


def _seen(text: str, flag: str, work_dir: Path, folder: Path, binds: dict[str, Bind]) -> str:
    """Where the container sees a path of this machine; `binds` gets what must be mounted for it."""
    here = Path(text).expanduser()
    if text.startswith(f"{WORKSPACE}/") or (not here.exists() and (folder / text).exists()):
        return text  # a path of the image: a mount of its own, or a recipe beside main.py
    if not here.exists():
        raise OrchestratorError(
            f"{flag}: no {text} on this machine", "give the path of an existing file", exit_code=EXIT_NO_INPUT
        )
    name, here, written = here.absolute().name, here.resolve(), work_dir.resolve()
    if here.is_relative_to(written):
        return f"{WORK_DIR}/{here.relative_to(written)}"
    there = f"{WORKSPACE}/{_READ[flag]}/{name}"
    if binds.setdefault(there, Bind(here, there)).here != here:
        raise OrchestratorError(f"{flag}: two different files are called {name}", "rename one of them", exit_code=EXIT_USAGE)
    return there
