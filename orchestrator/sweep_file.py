"""The file of a sweep: its runs, and the GPUs of Docker hosts on which they may run. Read whole, or refused whole."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import itertools
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import run_command
from orchestrator.cage import ALL_GPUS
from orchestrator.command import Command, read_command
from orchestrator.connection import address, named
from orchestrator.discovery import choose
from orchestrator.errors import EXIT_USAGE, OrchestratorError
from orchestrator.sweep_yaml import read_yaml

CPU = "cpu"
"""As a slot's GPU: none."""
_MOST = 10_000
"""Runs of a sweep; more are a slip in `each`."""
_INDEX = re.compile(r"0|[1-9][0-9]{0,3}")
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Fa-f][0-9A-Fa-f-]*")
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,8}")
_DECIMAL = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
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
    gpus      as --gpus of `orchestrator run`: "none", "all", or numbers or UUIDs with commas between them, sorted, each once
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
    table = _table(read_yaml(file), _SWEEP, str(file))
    sweep = Sweep(
        slots=_slots(_list(table, "slots", str(file)), f"{file}: slots"),
        runs=_runs(_list(table, "runs", str(file)), f"{file}: runs", folder),
        retries=_number(table, "retries", Sweep.retries, str(file), whole=True),
        back_off=_number(table, "back_off", Sweep.back_off, str(file)),
        shared=_of_kind(table, "shared", bool, "true or false", str(file)) or False,
    )
    _refuse_overlaps(sweep.slots, f"{file}: slots")
    _refuse_one_folder(sweep.runs, str(file))
    return sweep


def _slots(entries: Sequence[Any], where: str) -> list[Slot]:
    slots = []
    for i, entry in enumerate(entries):
        at = f"{where}[{i}]"
        table = _table(entry, _SLOT, at)
        context = _of_kind(table, "context", str, "the name of a docker context", at) or ""
        if context not in ("", "default"):
            named(context)
        slots.append(Slot(context, _gpus(table.get("gpu"), at), _number(table, "at_once", 1, at, whole=True, least=1)))
    return slots


def _gpus(gpu: Any, at: str) -> str:
    """As a slot has it: "1,0,1" is "0,1"."""
    if gpu in (CPU, "none"):
        return "none"
    if gpu == ALL_GPUS:
        return ALL_GPUS
    words = [word.strip() for word in gpu.split(",")] if isinstance(gpu, str) else []
    if words and all(_INDEX.fullmatch(word) for word in words):
        return ",".join(map(str, sorted(map(int, set(words)))))
    if words and all(_UUID.fullmatch(word) for word in words):
        return ",".join(word for _, word in sorted({word.lower(): word for word in words}.items()))
    raise _wrong(
        f"{at}: gpu is {gpu!r}, and should be a number, a UUID, several of one kind with commas between them, "
        f"{ALL_GPUS}, or {CPU}"
    )


def _refuse_overlaps(slots: Sequence[Slot], where: str) -> None:
    """No two slots have a GPU in common, as far as their words tell; the processor counts as one."""
    _refuse_two_names([slot.context for slot in slots], where)
    for (i, one), (j, other) in itertools.combinations(enumerate(slots), 2):
        if one.context != other.context:
            continue
        at = f"{where}[{i}] and slots[{j}]"
        if one.gpus == other.gpus:
            raise _wrong(f"{at} are the same: {_told(one.gpus)}", "keep one of them; at_once: 2 is for two runs at once there")
        if "none" in (one.gpus, other.gpus):
            continue
        here, there = (set(slot.gpus.lower().split(",")) for slot in (one, other))
        if ALL_GPUS in here | there or here & there:
            raise _wrong(f"{at} have a GPU in common: {one.gpus} and {other.gpus}", "give each GPU to one slot")
        if one.gpus[0].isdigit() != other.gpus[0].isdigit():
            raise _wrong(
                f"{at} may be the same GPU: {one.gpus} and {other.gpus}",
                "name all GPUs of an engine by number, or all by UUID: nvidia-smi -L lists both",
            )


def _refuse_two_names(contexts: Sequence[str], where: str) -> None:
    first: dict[str, str] = {}
    if len(set(contexts)) == 1:
        return
    for context in contexts:
        other = first.setdefault(address(context), context)
        if other != context:
            names = " and ".join(f"context {name}" if name else "no context" for name in (other, context))
            raise _wrong(f"{where}: {names} are the same engine", "write the same in all slots of one engine")


def _told(gpus: str) -> str:
    return CPU if gpus == "none" else f"GPU {gpus}"


def _runs(entries: Sequence[Any], where: str, folder: Path) -> list[Run]:
    result: list[Run] = []
    for i, entry in enumerate(entries):
        result += _product(entry, f"{where}[{i}]", folder, _MOST - len(result))
    return result


def _product(entry: Any, at: str, folder: Path, room: int) -> list[Run]:
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
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise _wrong(f"{at}: each: {flag}: {wrong[0]!r} is neither a number nor a word")
        if any(word.partition("=")[0] == _flag(flag) for word in words):
            raise _wrong(f"{at}: {_flag(flag)} stands in the command, and {flag} in each")
    if (count := math.prod(len(values) for values in each.values())) > room:
        raise _wrong(f"{at}: {count} runs, {_MOST - room} before them: a sweep has {_MOST} at most", "make several files of it")
    result = []
    for choice in itertools.product(*each.values()):
        flags = [word for flag, value in zip(each, choice, strict=True) for word in (_flag(flag), value)]
        called = "-".join([name, *choice])
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
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return value
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
    if key not in table:
        return usual
    text = table[key]
    value = float(text) if isinstance(text, str) and (_WHOLE if whole else _DECIMAL).fullmatch(text) else math.nan
    if not least <= value < math.inf:
        raise _wrong(f"{at}: {key} is {text}, and should be a {'whole ' if whole else ''}number of {least:g} or more")
    return int(value) if whole else value


def _refuse_one_folder(runs: Sequence[Run], where: str) -> None:
    """No two runs have one folder, not even where a file system does not tell a from A, and none is in another's."""
    called: dict[str, str] = {}
    for run in runs:
        if (other := called.setdefault(run.name.casefold(), run.name)) != run.name:
            raise _wrong(
                f"{where}: {other} and {run.name} are one folder on some file systems",
                "give each run a name that differs in more",
            )
    _refuse_twins([run.name for run in runs], f"{where}: two runs are called", "give each a name of its own")
    folders = [Path(str(run.command.work_dir.resolve()).casefold()) for run in runs]
    own = "give each a --work-dir of its own, or none"
    _refuse_twins(folders, f"{where}: two runs write to", own)
    there = dict(zip(folders, runs, strict=True))
    for folder, run in there.items():
        if outer := next((there[parent] for parent in folder.parents if parent in there), None):
            raise _wrong(f"{where}: the work folder of {run.name} is in that of {outer.name}, {outer.command.work_dir}", own)


def _refuse_twins(values: Sequence[Any], what: str, next_step: str) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise _wrong(f"{what} {value}", next_step)
        seen.add(value)


def _wrong(what: str, next_step: str = "docs/docker.md, Sweeps, says what a sweep's file holds") -> OrchestratorError:
    return OrchestratorError(what, next_step, exit_code=EXIT_USAGE)
