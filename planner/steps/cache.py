"""What was found out about a network's steps, kept in a file, so that the same question need not be traced again.

One file for each network, clip shape and recipe's step under $XDG_CACHE_HOME/skeleton-action-lab/plan (~/.cache by default). Its
name has a hash of all code that a trace runs through, of every file in the model's folder, of torch's version and of what the
network is built from: what changed is another file. A file that is damaged, or a folder that cannot be written, is no file: never
an error, and never another answer.
SAL_PLAN_CACHE=off turns it off.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from planner.steps.affine import Envelope, Fit, Line
from planner.steps.tracing import Kind, Task, TooFewValues
from planner.steps.work import StepWork
from shared_data.errors import LabError

Key = TypeVar("Key", Task, Kind)
SWITCH = "SAL_PLAN_CACHE"
PACKAGES = ("layers", "engine", "planner/steps", "shared_data")
LARGE = 4 * 2**20
"""Bytes above which a file in a model's folder is not read."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Findings:
    """What is known of the steps of one network.

    peaks      MiB of steps that were traced
    fits       laws
    works      what steps ask of the device
    refusals   why a step cannot be run
    facts      of the network itself
    """

    peaks: dict[Task, float] = field(default_factory=dict)
    fits: dict[Kind, Fit] = field(default_factory=dict)
    works: dict[Task, StepWork] = field(default_factory=dict)
    refusals: dict[Task, LabError] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "peaks": _listed(self.peaks, lambda mib: mib),
            "fits": _listed(self.fits, asdict),
            "works": _listed(self.works, StepWork.as_dict),
            "refusals": _listed(self.refusals, _told),
            "facts": self.facts,
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Findings:
        """What `as_dict` gave; raises `ValueError`, `TypeError`, `KeyError` or `AttributeError` for anything else."""
        return cls(
            {Task(*key): float(mib) for key, mib in told["peaks"]},
            {Kind(*key): _fit(fit) for key, fit in told["fits"]},
            {Task(*key): StepWork.from_dict(work) for key, work in told["works"]},
            {Task(*key): _refusal(refusal) for key, refusal in told["refusals"]},
            {str(name): float(fact) for name, fact in told["facts"].items()},
        )


@dataclass(frozen=True)
class Store:
    """The file of one network; `about` says in full what its name is a hash of."""

    file: Path
    about: str

    def read(self) -> Findings:
        """What it holds; nothing, if there is no such file or anything is wrong with it."""
        try:
            told = json.loads(self.file.read_text("utf-8"))
            if told["about"] != self.about or told["sha256"] != _sum(told["findings"]):
                return Findings()
            return Findings.from_dict(told["findings"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return Findings()

    def write(self, findings: Findings) -> None:
        """Replace it at once, or leave it as it is where that cannot be done."""
        told = findings.as_dict()
        text = json.dumps({"about": self.about, "sha256": _sum(told), "findings": told})
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(dir=self.file.parent, prefix=".plan-")
            try:
                with os.fdopen(number, "w", encoding="utf-8") as file:
                    file.write(text)
                Path(name).replace(self.file)
            except OSError:
                Path(name).unlink(missing_ok=True)


def store_of(model: str, folder: Path, *parts: object) -> Store | None:
    """The file for the steps of `model`, whose code is in `folder`, built from `parts`; None if the cache is off."""
    if os.environ.get(SWITCH) == "off":
        return None
    try:
        code = _code(folder)
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except (OSError, RuntimeError):  # unreadable, or no home
        return None
    about = "\n".join((model, code, torch.__version__, platform.python_version(), *map(repr, parts)))
    return Store(home / "skeleton-action-lab" / "plan" / f"{model}-{_hashed(about.encode())[:24]}.json", about)


@functools.cache
def _code(folder: Path) -> str:
    """Hash of the code that a trace of the model in `folder` runs through, and of all else in that folder: it may be read."""
    files = [(file.relative_to(ROOT), file) for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    files += [(file.relative_to(folder), file) for file in _files(folder, ())]
    return _hashed(repr([(name.as_posix(), _content(file)) for name, file in files]).encode())


def _files(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """All files below `folder`, also behind links, but not below one of `above` again."""
    here = folder.resolve()
    if here in above:
        return
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir():
            yield entry
        elif entry.name != "__pycache__":
            yield from _files(entry, (*above, here))


def _content(file: Path) -> str:
    """What tells the content of `file` from another; of a large file, its size and when it was written."""
    if not file.is_file():  # a link to nowhere, a pipe
        return ""
    about = file.stat()
    return f"{about.st_size} {about.st_mtime_ns}" if about.st_size > LARGE else _hashed(file.read_bytes())


def _hashed(what: bytes) -> str:
    return hashlib.sha256(what).hexdigest()


def _sum(findings: Any) -> str:
    return _hashed(json.dumps(findings, sort_keys=True).encode())


def _listed(entries: dict[Key, Any], told: Callable[[Any], Any]) -> list[Any]:
    return [[list(astuple(key)), told(value)] for key, value in entries.items()]


def _fit(told: dict[str, Any]) -> Fit:
    envelope = None if told["envelope"] is None else Envelope.from_dict(told["envelope"])
    return Fit(envelope, Line(float(told["line"]["intercept"]), float(told["line"]["slope"])), float(told["deviation"]))


def _told(refusal: LabError) -> dict[str, Any]:
    words = {name: getattr(refusal, name) for name in ("what", "where", "expected", "next_step")}
    return {**words, "exit_code": refusal.exit_code, "too_few": isinstance(refusal, TooFewValues)}


def _refusal(told: dict[str, Any]) -> LabError:
    refusal = (TooFewValues if told["too_few"] else LabError)(
        told["what"], where=told["where"], expected=told["expected"], next_step=told["next_step"]
    )
    refusal.exit_code = int(told["exit_code"])
    return refusal
