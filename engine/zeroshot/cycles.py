"""Stage 1 on disk: the networks of every cycle, and the state to go on from after a run was cut off.

``cycle-N.safetensors`` holds the networks and the classifier after cycle N. ``state.safetensors`` is renamed into place after
it and names all cycles so far; what was begun after it is done again, with the same bits. It is removed at the end, when
``record.json`` says what was trained from what.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes

from engine import checkpoint, records
from engine.errors import WeightsError, WorkDirError
from engine.storage import sweep_temporaries, write_atomically
from engine.zeroshot.network import AlignedVAE, LatentClassifier
from engine.zeroshot.training import Cycle, Run, restored, train_cycle
from shared_data.errors import MissingInputError
from shared_data.store import sha256

RECORD, STATE = "record.json", "state.safetensors"
PARTS = ("network", "classifier")


@dataclass(frozen=True)
class Kept:
    """One cycle: as in `training.Cycle`, with the SHA-256 of its file in place of the networks."""

    number: int
    loss: float
    accuracy: float
    sha256: str


def make_folder(folder: Path) -> None:
    """`folder`, without what a killed writer left in it. Raises `WorkDirError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkDirError(
            f"cannot make a folder: {error.strerror}", where=str(folder), next_step="give another --work-dir"
        ) from error
    sweep_temporaries(folder)


def cycle_file(folder: Path, number: int) -> Path:
    """That of cycle `number`."""
    return folder / f"cycle-{number}.safetensors"


def trained(
    folder: Path, begin: Callable[[], Run], made_from: Mapping[str, Any], after: Callable[[Cycle], None] = lambda cycle: None
) -> list[Kept]:
    """All cycles of the run that `begin` makes, trained as far as they are not in `folder` yet.

    made_from  whatever the networks depend on; what the folder holds of anything else is replaced
    after      sees each new cycle once it is saved; what it raises ends the run, which can be gone on with
    """
    if found := records.read_record(folder / RECORD, made_from):
        return [Kept(**cycle) for cycle in found["cycles"]]
    make_folder(folder)
    run = begin()
    made = records.fingerprint(made_from)
    done = _so_far(folder, run, made)
    for number in range(len(done), run.settings.cycles):
        cycle = train_cycle(run, number)
        file = cycle_file(folder, number)
        tensors = {f"{part}/{key}": value for part in PARTS for key, value in getattr(cycle, part).items()}
        write_atomically(file, to_bytes(tensors))
        done.append(Kept(number, cycle.loss, cycle.accuracy, sha256(file)))
        position = {"epoch": number, "step": 0, "data": made, "log_size": 0, "cycles": [asdict(kept) for kept in done]}
        checkpoint.save_state(folder / STATE, run.network, run.optimizer, _no_scaler(), position)
        after(cycle)
    names = [cycle_file(folder, kept.number).name for kept in done]
    records.write_record(folder / RECORD, made_from, names, {"cycles": [asdict(kept) for kept in done]})
    (folder / STATE).unlink(missing_ok=True)
    return done


def networks(folder: Path, kept: Kept, run: Run) -> tuple[AlignedVAE, LatentClassifier]:
    """Those of one cycle, in evaluation mode. Raises `WeightsError` for a damaged file."""
    tensors, _ = checkpoint.read(cycle_file(folder, kept.number))
    parts = {part: {k.removeprefix(f"{part}/"): v for k, v in tensors.items() if k.startswith(f"{part}/")} for part in PARTS}
    return restored(run, Cycle(kept.number, kept.loss, kept.accuracy, parts["network"], parts["classifier"]))


def accuracies(cycles: Sequence[Kept]) -> list[float]:
    """Those after each cycle."""
    return [kept.accuracy for kept in cycles]


def _so_far(folder: Path, run: Run, made: str) -> list[Kept]:
    """The cycles that are done, with `run` as it was after them; none if the state is of another run or a file is damaged."""
    file = folder / STATE
    try:
        position = json.loads(checkpoint.read(file)[1].get("position", "{}"))
    except (MissingInputError, WeightsError):
        return []
    if position.get("data") != made:
        return []
    done = [Kept(**cycle) for cycle in position["cycles"]]
    if not all(records.is_as_left(cycle_file(folder, kept.number), kept.sha256) for kept in done):
        return []
    checkpoint.load_state(file, run.network, run.optimizer, _no_scaler())
    return done


def _no_scaler() -> torch.amp.GradScaler:
    """Training is in float32; a state has a place for one."""
    return torch.amp.GradScaler("cpu", enabled=False)
