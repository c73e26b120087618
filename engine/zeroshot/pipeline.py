"""The stages of a zero-shot run, each a function over a work folder.

train (stage 1) and val (stage 2) train on the test's and the validation's split, gate (stage 3) learns to tell seen from
unseen, evaluate (stage 4) counts. Each takes what it needs from the stage before, which is skipped where its record says that
nothing changed. Source: the zero-shot specification, section 5.

In the work folder: ``checkpoints/seed-5/test`` and ``.../val`` as in `cycles`; ``seed-5/gate.json`` and
``seed-5/evaluation.json`` with the probabilities of unseen classes that they looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine import records
from engine.zeroshot import cycles, metrics, training
from engine.zeroshot.arrays import write_array
from engine.zeroshot.classifier import probabilities
from engine.zeroshot.cycles import Kept
from engine.zeroshot.gate import Gate, predicted, train_gate
from engine.zeroshot.metrics import Generalised
from engine.zeroshot.selection import selected
from engine.zeroshot.work import FORMAT, Work
from shared_data.zeroshot_splits import Phase


@dataclass(frozen=True)
class Outcome:
    """What one seed came to; accuracies are fractions.

    cycle       the one that counts, from 0
    curves      of each phase, the accuracies on unseen classes after each cycle
    zero_shot   accuracy on clips of unseen classes among these
    confusions  "zsl" and "gzsl": what clips of unseen classes are taken for, see `metrics.confusion`
    """

    seed: int
    cycle: int
    curves: Mapping[Phase, Sequence[float]]
    zero_shot: float
    generalised: Generalised
    confusions: Mapping[str, list[list[int]]]
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
    curves: dict[Phase, list[float]] = {"test": cycles.accuracies(test), "val": cycles.accuracies(val)}
    kept = test[selected(work.plan.selection, curves["test"], curves["val"])]
    used = gate(work, seed)
    made_from = _made_from(work, "test", stage="evaluation", seed=seed, cycle=kept.sha256, gate=asdict(used))
    folder = _seed_folder(work, seed)
    features = work.data("test").features

    def outcome(found: Mapping[str, Any]) -> Outcome:
        both = Generalised(found["seen"], found["unseen"])
        return Outcome(seed, kept.number, curves, found["zero_shot"], both, found["confusions"], used)

    if recorded := records.read_record(folder / "evaluation.json", made_from):
        return outcome(recorded)
    unseen, everything = features.unseen.rows, features.rest
    judged = {
        "ztest_zs.npy": _judged(work, seed, "test", kept, unseen.features),
        "gzsl_zs.npy": _judged(work, seed, "test", kept, everything.rows.features),
    }
    zero_shot = metrics.zero_shot(judged["ztest_zs.npy"], unseen.labels, features.split.unseen)
    among_unseen = np.asarray(features.split.unseen, np.int64)[judged["ztest_zs.npy"].argmax(1)]
    classes = predicted(used, everything.evidence(judged["gzsl_zs.npy"]), features.split)
    both = metrics.generalised(classes, everything.rows.labels, features.split)
    confusions = {
        "zsl": metrics.confusion(among_unseen, unseen.labels, features.split.unseen),
        "gzsl": metrics.confusion(classes, everything.rows.labels, features.split.unseen),
    }
    _write_arrays(folder, judged)
    found = {"zero_shot": zero_shot, "seen": both.seen, "unseen": both.unseen, "confusions": confusions}
    records.write_record(folder / "evaluation.json", made_from, list(judged), found)
    return outcome(found)


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
