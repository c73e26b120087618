"""The work folder of a zero-shot run: whose it is, and what the run learns from.

``plan.json`` says what run the folder holds; another one is refused with what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engine import records
from engine.errors import WorkDirError
from engine.runfolder import RunFolder
from engine.zeroshot import PLAN, training
from engine.zeroshot.features import Features
from engine.zeroshot.plan import Plan, require_sound
from engine.zeroshot.system import System
from engine.zeroshot.task import Task
from engine.zeroshot.text.rows import TextRows
from shared_data.findings import Finding
from shared_data.zeroshot_splits import Phase

FORMAT = 1  # of the records: a newer one means that the stages compute something else
After = Callable[[int, Phase, training.Cycle], None]


@dataclass(frozen=True)
class Data:
    """What a phase learns from and is tried on."""

    features: Features
    text: TextRows

    def task(self) -> Task:
        """For training."""
        return Task(self.features.split, self.text.rows, self.features.train, self.features.unseen.rows)

    def findings(self) -> tuple[Finding, ...]:
        """What a person should know about the files."""
        return (*self.features.findings, *self.text.findings)

    def fingerprint(self) -> str:
        """Of all numbers, wherever they are from."""
        f = self.features
        parts = (f.unseen, f.rest)
        arrays = [array for part in parts for array in (part.rows.features, part.rows.labels, part.logits)]
        return records.array_fingerprint(self.text.rows, f.train.features, f.train.labels, *arrays)


@dataclass
class Work:
    """A run in its locked work folder.

    name     the model's, as its folder is called
    source   a phase -> its data; asked once for each
    device   networks live here
    after    sees every new cycle: seed, phase, cycle
    """

    folder: RunFolder
    name: str
    system: System
    plan: Plan
    source: Callable[[Phase], Data]
    device: torch.device | str = "cpu"
    force: bool = False
    after: After = lambda seed, phase, cycle: None
    _data: dict[Phase, tuple[Data, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `UsageError` for a plan that cannot be, `WorkDirError` if the folder holds another run."""
        require_sound(self.plan)
        _claim(self, {})

    def data(self, phase: Phase) -> Data:
        """That of a phase. Raises what the source raises, and `WorkDirError` if the folder's run had other data."""
        return self._read(phase)[0]

    def inputs(self, phase: Phase) -> str:
        """The fingerprint of a phase's data."""
        return self._read(phase)[1]

    def _read(self, phase: Phase) -> tuple[Data, str]:
        if phase not in self._data:
            data = self.source(phase)
            known = data.fingerprint()
            _claim(self, {**{read: of for read, (_, of) in self._data.items()}, phase: known})
            self._data[phase] = data, known
        return self._data[phase]


def _claim(work: Work, inputs: Mapping[Phase, str]) -> None:
    """Take the folder for this run, or refuse it with what differs. Nothing is written before there are `inputs`."""
    file = work.folder.path / PLAN
    asked: dict[str, Any] = {
        "format": FORMAT,
        "model": work.name,
        "device": torch.device(work.device).type,
        **records.plain(work.plan.as_json()),
        "seeds": list(work.plan.seeds),
        "inputs": dict(inputs),
    }
    saved = records.read_json(file)
    if saved is None and not work.force:
        _refuse_unknown(work.folder.path, file)
    if saved is not None and not work.force:
        if differences := _differences(saved, asked):
            raise WorkDirError(
                "the work folder holds another run; these differ (saved -> asked):\n    " + "\n    ".join(differences),
                where=str(work.folder.path),
                next_step="give another --work-dir, or --force to replace what is not of the new settings",
            )
        known = saved.get("inputs")
        asked["inputs"] = {**(known if isinstance(known, dict) else {}), **inputs}
    if inputs:
        records.write_json(file, asked)


def _refuse_unknown(folder: Path, plan: Path) -> None:
    """Raises `WorkDirError` for a run of another kind, and for a plan that cannot be read."""
    if plan.exists() or (folder / "config.yaml").exists():
        raise WorkDirError(
            "the plan of the run in this work folder cannot be read" if plan.exists() else "the work folder holds a training run",
            where=str(plan if plan.exists() else folder),
            next_step="give another --work-dir, or --force to write into it",
        )


def _differences(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Of two plans, one line each; seeds may be added, and inputs are compared where both have them."""
    left, right = records.flat(saved), records.flat(asked)
    seeds = right.pop("seeds"), left.pop("seeds", [])
    found = [
        f"{name}: {left.get(name)} -> {right.get(name)}"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name) and not (name.startswith("inputs.") and (name not in left or name not in right))
    ]
    if not isinstance(seeds[1], list) or not set(map(str, seeds[1])) <= set(map(str, seeds[0])):
        found.append(f"seeds: {seeds[1]} -> {seeds[0]}; they may be added to, not taken away")
    return found
