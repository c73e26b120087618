"""The stages of a zero-shot run, each a function over a work folder.

train (stage 1) and val (stage 2) train on the test's and the validation's split, gate (stage 3) learns to tell seen from
unseen, evaluate (stage 4) counts. Each takes what it needs from the stage before, which is skipped where its record says that
nothing changed. Source: the zero-shot specification, section 5.

Of a work folder: ``plan.json``; ``checkpoints/seed-5/test`` and ``.../val`` as in `cycles`; ``seed-5/gate.json`` and
``seed-5/evaluation.json`` with the probabilities of unseen classes that they looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import WorkDirError
from engine.runfolder import RunFolder
from engine.zeroshot import cycles, metrics, records, training
from engine.zeroshot.arrays import write_array
from engine.zeroshot.classifier import probabilities
from engine.zeroshot.cycles import Kept
from engine.zeroshot.features import Features
from engine.zeroshot.gate import Gate, predicted, train_gate
from engine.zeroshot.metrics import Generalised
from engine.zeroshot.plan import Plan, require_sound
from engine.zeroshot.selection import selected
from engine.zeroshot.splits import Phase
from engine.zeroshot.system import System
from engine.zeroshot.task import Task
from engine.zeroshot.text_rows import TextRows
from shared_data.findings import Finding

FORMAT = 1  # of the records: a newer one means that the stages compute something else
PLAN = "plan.json"
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


@dataclass(frozen=True)
class Outcome:
    """What one seed came to; accuracies are fractions.

    cycle       the one that counts, from 0
    zero_shot   accuracy on clips of unseen classes among these
    """

    seed: int
    cycle: int
    zero_shot: float
    generalised: Generalised
    gate: Gate


def train(work: Work, seed: int, phase: Phase = "test") -> list[Kept]:
    """Stage 1, or 2 for the phase "val": the cycles of a seed. Goes on after the last cycle that is in the folder."""
    return cycles.trained(
        _networks_folder(work, seed, phase),
        lambda: _run(work, seed, phase),
        _made_from(work, phase, stage="train", seed=seed, settings=asdict(work.plan.settings)),
        lambda cycle: work.after(seed, phase, cycle),
    )


def gate(work: Work, seed: int) -> Gate:
    """Stage 3: the gate, from the clips of the validation split; trains that split first where it has to."""
    kept = _tuned(work, train(work, seed, "val"))
    plan = work.plan
    made_from = _made_from(
        work, "val", stage="gate", seed=seed, cycle=kept.sha256, temperature=plan.temperature, threshold=plan.threshold
    )
    folder = _seed_folder(work, seed)
    if found := records.read_record(folder / "gate.json", made_from):
        return Gate(**{**found, "weights": tuple(found["weights"])})
    features = work.data("val").features
    pair = {"unseen_zs.npy": features.unseen, "seen_zs.npy": features.rest}
    judged = {name: _judged(work, seed, "val", kept, part.rows.features) for name, part in pair.items()}
    evidence = [part.evidence(judged[name]) for name, part in pair.items()]
    made = train_gate(*evidence, seed=seed, temperature=plan.temperature, threshold=plan.threshold)
    _write_arrays(folder, judged)
    records.write_record(folder / "gate.json", made_from, list(judged), asdict(made))
    return made


def evaluate(work: Work, seed: int) -> Outcome:
    """Stage 4: both accuracies of the cycle that counts; does the stages before first where it has to."""
    test, val = train(work, seed), train(work, seed, "val")
    kept = test[selected(work.plan.selection, cycles.accuracies(test), cycles.accuracies(val))]
    used = gate(work, seed)
    made_from = _made_from(work, "test", stage="evaluate", seed=seed, cycle=kept.sha256, gate=asdict(used))
    folder = _seed_folder(work, seed)
    features = work.data("test").features
    if found := records.read_record(folder / "evaluation.json", made_from):
        return Outcome(seed, kept.number, found["zero_shot"], Generalised(found["seen"], found["unseen"]), used)
    unseen, everything = features.unseen.rows, features.rest
    judged = {
        "ztest_zs.npy": _judged(work, seed, "test", kept, unseen.features),
        "gzsl_zs.npy": _judged(work, seed, "test", kept, everything.rows.features),
    }
    zero_shot = metrics.zero_shot(judged["ztest_zs.npy"], unseen.labels, features.split.unseen)
    classes = predicted(used, everything.evidence(judged["gzsl_zs.npy"]), features.split)
    both = metrics.generalised(classes, everything.rows.labels, features.split)
    _write_arrays(folder, judged)
    found = {"zero_shot": zero_shot, "seen": both.seen, "unseen": both.unseen}
    records.write_record(folder / "evaluation.json", made_from, list(judged), found)
    return Outcome(seed, kept.number, zero_shot, both, used)


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
                next_step="give another --work-dir, or --force to go on with the new settings",
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
    left, right = _flat(saved), _flat(asked)
    seeds = right.pop("seeds"), left.pop("seeds", [])
    found = [
        f"{name}: {left.get(name)} -> {right.get(name)}"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name) and not (name.startswith("inputs.") and (name not in left or name not in right))
    ]
    if not isinstance(seeds[1], list) or not set(map(str, seeds[1])) <= set(map(str, seeds[0])):
        found.append(f"seeds: {seeds[1]} -> {seeds[0]}; they may be added to, not taken away")
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted names."""
    rows: dict[str, Any] = {}
    for name, value in table.items():
        rows.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return rows


def _made_from(work: Work, phase: Phase, **settings: Any) -> dict[str, Any]:
    """What a stage depends on besides its `settings`: the model, the kind of device, and the data of a phase."""
    device = torch.device(work.device).type
    return {"format": FORMAT, "model": work.name, "device": device, "phase": phase, "inputs": work.inputs(phase), **settings}


def _run(work: Work, seed: int, phase: Phase) -> training.Run:
    return training.start(work.system, work.data(phase).task(), work.plan.settings, seed=seed, device=work.device)


def _tuned(work: Work, val: list[Kept]) -> Kept:
    """The cycle of the validation run that trains the gate: its last, or its best, whose unseen classes are no test's."""
    accuracies = cycles.accuracies(val)
    return val[selected("last" if work.plan.selection == "last" else "val", accuracies, accuracies)]


def _judged(work: Work, seed: int, phase: Phase, kept: Kept, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, U) probabilities of the unseen classes, by the networks of one cycle."""
    return probabilities(*cycles.networks(_networks_folder(work, seed, phase), kept, _run(work, seed, phase)), features)


def _networks_folder(work: Work, seed: int, phase: Phase) -> Path:
    return work.folder.checkpoints / f"seed-{seed}" / phase


def _seed_folder(work: Work, seed: int) -> Path:
    return work.folder.path / f"seed-{seed}"


def _write_arrays(folder: Path, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    cycles.make_folder(folder)
    for name, values in arrays.items():
        write_array(folder / name, values)
