"""A command as it is typed on this machine, and what it becomes inside a container that sees other paths."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cage import WORK_DIR, WORKSPACE, Bind
from orchestrator.discovery import ROOT
from orchestrator.errors import EXIT_NO_INPUT, EXIT_USAGE, OrchestratorError
from orchestrator.paths import exists

_READ = {  # flag -> folder of the container in which its file is seen
    "--data": "data",
    "--weights": "weights",
    "--config": "config",
    "--root": "data",  # of zero-shot systems: the folder that holds their features
}


@dataclass(frozen=True)
class Command:
    """What runs in the container.

    work_dir   the folder of this machine that it writes to
    binds      what it reads of this machine
    writes     whether it is known to write runs there
    """

    words: tuple[str, ...]
    work_dir: Path
    binds: tuple[Bind, ...] = ()
    writes: bool = False


def read_command(words: Sequence[str], model: str, work_dir: Path, root: Path = ROOT) -> Command:
    """The command with paths of the container for those of this machine.

    train and test become the model's main.py. In main.py's arguments the values of --data, --weights, --config, --root and
    --work-dir are paths of this machine; so is, after another `sal` verb, every word that names a file or folder here or in the
    work folder.
    Any other command stays as it is. Raises `OrchestratorError` (exit 66) for a file that is neither here nor in the image.
    """
    match list(words):
        case [("train" | "test") as phase, *given]:
            return _of_main(["python3", "main.py", "--phase", phase], given, model, work_dir, root)
        case ["sal", ("train" | "test") as phase, str(named), *given] if not named.startswith("-"):
            return _of_main(["sal", phase, named], given, model, work_dir, root)
        case [("python3" | "python") as program, "main.py", *given]:
            return _of_main([program, "main.py"], given, model, work_dir, root)
        case ["sal", verb, *given]:
            return _of_sal(["sal", verb], given, work_dir)
    return Command(tuple(words), work_dir)


def _of_main(before: list[str], words: Sequence[str], model: str, work_dir: Path, root: Path) -> Command:
    given = _separate(words)
    folders = [Path(value).expanduser() for flag, value in itertools.pairwise(given) if flag == "--work-dir"]
    work_dir = folders[-1] if folders else work_dir
    binds: dict[str, Bind] = {}
    result, flag = before, ""
    for word in given:
        if flag == "--work-dir":
            result.append(WORK_DIR)
        elif flag in _READ:
            result.append(_read(word, flag, work_dir, root / "models" / model, binds))
        else:
            result.append(word)
        flag = word if word.startswith("--") else ""
    return Command(tuple(result), work_dir, tuple(binds.values()), writes=True)


def _of_sal(before: list[str], words: Sequence[str], work_dir: Path) -> Command:
    binds: dict[str, Bind] = {}
    result = before
    for word in words:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        here = Path(value).expanduser()
        if value and ("/" in value or exists(here, "the command")) and (exists(here, "the command") or _is_below(here, work_dir)):
            value = _seen(here, _READ["--data"], "the command", work_dir, binds)
        result.append(f"{flag}{equals}{value}")
    return Command(tuple(result), work_dir, tuple(binds.values()))


def _separate(words: Sequence[str]) -> list[str]:
    """--flag=value as two words, for the flags whose value is a path."""
    result: list[str] = []
    for word in words:
        flag, equals, value = word.partition("=")
        result += [flag, value] if equals and flag in (*_READ, "--work-dir") else [word]
    return result


def _read(text: str, flag: str, work_dir: Path, folder: Path, binds: dict[str, Bind]) -> str:
    """Where the container sees what a flag reads; `folder` is the model's, whose files are in the image."""
    here = Path(text).expanduser()
    if exists(here, flag):
        return _seen(here, _READ[flag], flag, work_dir, binds)
    if text.startswith(f"{WORKSPACE}/") or exists(folder / text, flag):
        return text  # of the image, or of a mount: a recipe beside main.py
    raise OrchestratorError(f"{flag}: no {text} on this machine", "give the path of an existing file", exit_code=EXIT_NO_INPUT)


def _seen(here: Path, kind: str, flag: str, work_dir: Path, binds: dict[str, Bind]) -> str:
    """Where the container sees a path of this machine; `binds` gets what must be mounted for it."""
    if _is_below(here, work_dir):
        return f"{WORK_DIR}/{here.resolve().relative_to(work_dir.resolve())}"
    name, here = here.absolute().name, here.resolve()
    name = here.name if name in ("", ".", "..") else name
    if not name:
        raise OrchestratorError(f"{flag}: / as a whole is not mounted", "name what is needed of it", exit_code=EXIT_USAGE)
    there = f"{WORKSPACE}/{kind}/{name}"
    if binds.setdefault(there, Bind(here, there)).here != here:
        raise OrchestratorError(f"{flag}: two different files are called {name}", "rename one of them", exit_code=EXIT_USAGE)
    return there


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
