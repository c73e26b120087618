"""The file of a sweep: its runs, and the GPUs of Docker hosts on which they may run. Read whole, or refused whole."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrator import run_command
from orchestrator.command import Command, read_command
from orchestrator.connection import named
from orchestrator.discovery import choose
from orchestrator.errors import EXIT_NO_INPUT, EXIT_USAGE, OrchestratorError

CPU = "cpu"
"""As a slot's GPU: none."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
_SWEEP = ("slots", "runs", "retries", "back_off", "shared")
_SLOT = ("context", "gpu", "at_once")
_RUN = ("name", "model", "command", "data", "options", "each")
_OF_THE_SWEEP = ("gpus", "work_dir", "detach", "interactive", "dry_run")
"""Options of `orchestrator run` that a run of a sweep cannot have: the sweep decides them."""


@dataclass(frozen=True)
class Slot:
    """Room for `at_once` runs.

    context   docker context of the engine; "" for the one that the docker command would talk to
    gpus      as --gpus of `orchestrator run`: "none", or numbers and UUIDs with commas between them
    """

    context: str
    gpus: str
    at_once: int = 1


@dataclass(frozen=True)
class Run:
    """One run. `options`: what stands before `--` in `orchestrator run`, without --gpus; `digest`: of all that defines it."""

    name: str
    model: str
    options: tuple[str, ...]
    command: Command
    digest: str

    def given(self, gpus: str) -> argparse.Namespace:
        """As `orchestrator run` has it from its command line."""
        return run_command.parser().parse_args([self.model, *self.options, "--gpus", gpus])


@dataclass(frozen=True)
class Sweep:
    """A file that was read.

    retries    how often a run is started again that ended otherwise than it should
    back_off   seconds before the first of these, twice as many before each further one
    shared     whether all contexts see the same files at the same paths, so that a run may go on elsewhere
    """

    slots: Sequence[Slot]
    runs: Sequence[Run]
    retries: int = 5
    back_off: float = 30.0
    shared: bool = False


def read_sweep(file: Path, folder: Path) -> Sweep:
    """The sweep that `file` describes; runs that name no work folder of their own write below `folder`.

    Raises `OrchestratorError`: exit 66 for a file that is not there, 2 for one that means nothing. Nothing is made or started.
    """
    try:
        content = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise OrchestratorError(
            f"{file} cannot be read: {error.strerror}", "name a file of a sweep: docs/docker.md has one", exit_code=EXIT_NO_INPUT
        ) from error
    except yaml.YAMLError as error:
        raise _wrong(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    table = _table(content, _SWEEP, str(file))
    sweep = Sweep(
        slots=_slots(_list(table, "slots", str(file)), f"{file}: slots"),
        runs=_runs(_list(table, "runs", str(file)), f"{file}: runs", folder),
        retries=_number(table, "retries", Sweep.retries, str(file), whole=True),
        back_off=_number(table, "back_off", Sweep.back_off, str(file)),
        shared=_of_kind(table, "shared", bool, "true or false", str(file)) or False,
    )
    _refuse_twins([(slot.context, slot.gpus) for slot in sweep.slots], f"{file}: two slots are the same", "write at_once: 2")
    _refuse_twins([run.name for run in sweep.runs], f"{file}: two runs are called", "give each a name of its own")
    folders = [run.command.work_dir.resolve() for run in sweep.runs if run.command.writes]
    _refuse_twins(folders, f"{file}: two runs write to", "give each a --work-dir of its own, or none")
    return sweep


def _slots(entries: Sequence[Any], where: str) -> list[Slot]:
    slots = []
    for i, entry in enumerate(entries):
        at = f"{where}[{i}]"
        table = _table(entry, _SLOT, at)
        gpu = table.get("gpu")
        if not isinstance(gpu, str | int) or isinstance(gpu, bool):
            raise _wrong(f"{at}: gpu is {gpu!r}, and should be a number, a UUID, several with commas between them, or {CPU}")
        context = _of_kind(table, "context", str, "the name of a docker context", at) or ""
        if context not in ("", "default"):
            named(context)
        gpus = "none" if gpu == CPU else run_command.parser().parse_args([*choose([])[:1], "--gpus", str(gpu)]).gpus
        slots.append(Slot(context, gpus, _number(table, "at_once", 1, at, whole=True, least=1)))
    return slots


def _runs(entries: Sequence[Any], where: str, folder: Path) -> list[Run]:
    return [run for i, entry in enumerate(entries) for run in _product(entry, f"{where}[{i}]", folder)]


def _product(entry: Any, at: str, folder: Path) -> list[Run]:
    """The runs of one entry: one for each choice of the values in `each`, which become flags and parts of its name."""
    table = _table(entry, _RUN, at)
    for key in ("name", "model", "command"):
        if key not in table:
            raise _wrong(f"{at}: no {key}")
    name = _of_kind(table, "name", str, "a name in quotes", at) or ""
    [model] = choose([_of_kind(table, "model", str, "a model", at) or ""])
    words, options = (_words(table, key, at) for key in ("command", "options"))
    data = _of_kind(table, "data", str, "a path", at)
    words += [] if data is None else ["--data", data]
    each = _of_kind(table, "each", dict, "a table of flags with a list of values each", at) or {}
    for flag, values in each.items():
        if not isinstance(flag, str) or not isinstance(values, list) or not values:
            raise _wrong(f"{at}: each: {flag} should have a list of values")
        if wrong := [value for value in values if isinstance(value, bool) or not isinstance(value, str | int | float)]:
            raise _wrong(f"{at}: each: {flag}: {wrong[0]!r} is neither a number nor a word")
        if any(word.partition("=")[0] == _flag(flag) for word in words):
            raise _wrong(f"{at}: {_flag(flag)} stands in the command, and {flag} in each")
    result = []
    for choice in itertools.product(*each.values()):
        flags = [word for flag, value in zip(each, choice, strict=True) for word in (_flag(flag), str(value))]
        called = "-".join([name, *map(str, choice)])
        if not _NAME.fullmatch(called):
            raise _wrong(f"{at}: {called!r} is no name: letters, digits, and . _ - after the first, 80 at most")
        result.append(_run(called, model, options, [*words, *flags], folder / "runs" / called, at=at, with_data=data is not None))
    return result


def _run(name: str, model: str, options: list[str], words: list[str], folder: Path, *, at: str, with_data: bool) -> Run:
    try:
        command = read_command(words, model, folder)
        if command.writes and not any(word.partition("=")[0] == "--work-dir" for word in words):
            command = read_command([*words, "--work-dir", str(folder)], model, folder)
        given = run_command.parser().parse_args([model, *options])
        usual = run_command.parser().parse_args([model])
        for option in _OF_THE_SWEEP:
            if getattr(given, option) != getattr(usual, option):
                raise _wrong(f"options: --{option.replace('_', '-')} is the sweep's to choose")
        run_command.cage_of(given, command, None)
    except OrchestratorError as error:
        raise OrchestratorError(f"{at}: {name}: {error.what}", error.next_step, exit_code=error.exit_code) from error
    if with_data and not command.writes:
        raise _wrong(f"{at}: {name}: data is for train and test; write --mount HERE:THERE in options for another command")
    paths = [str(path) for path in (command.work_dir.resolve(), *(bind.here for bind in command.binds))]
    told = json.dumps([model, options, command.words, paths])
    return Run(name, model, tuple(options), command, hashlib.sha256(told.encode()).hexdigest()[:16])


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _table(value: Any, known: Sequence[str], at: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{at} should be a table with {', '.join(known)}")
    for key in value:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise _wrong(f"{at}: nothing is called {key!r}{hint}", f"there are {', '.join(known)}")
    return value


def _list(table: Mapping[str, Any], key: str, at: str) -> list[Any]:
    value = table.get(key)
    if not isinstance(value, list) or not value:
        raise _wrong(f"{at}: {key} should be a list with something in it")
    return value


def _words(table: Mapping[str, Any], key: str, at: str) -> list[str]:
    """A line as it is typed, or a list of words."""
    value = table.get(key, [])
    if isinstance(value, list) and all(isinstance(word, str | int | float) and not isinstance(word, bool) for word in value):
        return [str(word) for word in value]
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise _wrong(f"{at}: {key}: {error}: {value}") from error
    raise _wrong(f"{at}: {key} should be a line as it is typed, or a list of words")


def _of_kind(table: Mapping[str, Any], key: str, kind: type, expected: str, at: str) -> Any:
    value = table.get(key)
    if value is not None and not isinstance(value, kind):
        raise _wrong(f"{at}: {key} is {value!r}, and should be {expected}")
    return value


def _number(table: Mapping[str, Any], key: str, usual: Any, at: str, *, whole: bool = False, least: float = 0) -> Any:
    value = table.get(key, usual)
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not fits or not least <= value < float("inf"):
        raise _wrong(f"{at}: {key} is {value!r}, and should be a {'whole ' if whole else ''}number of {least:g} or more")
    return value


def _refuse_twins(values: Sequence[Any], what: str, next_step: str) -> None:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise _wrong(f"{what} {value}", next_step)


def _wrong(what: str, next_step: str = "docs/docker.md, Sweeps, says what a sweep's file holds") -> OrchestratorError:
    return OrchestratorError(what, next_step, exit_code=EXIT_USAGE)
