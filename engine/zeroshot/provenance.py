"""What made a folder of skeleton features, as far as the record beside them says: for the results, without a path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine import records
from engine.zeroshot.plan import Deviation

UNKNOWN = "files without a record"
CHANGED = "files that are not as their record says"
SETTINGS = ("model", "recipe", "stream", "leave_out", "hold_out", "num_epoch", "seed", "debug", "max_clips")  # of the run
NONE = "none"


def of_folder(folder: Path) -> dict[str, Any] | str:
    """The settings of the backbone, which weights it began and ended with; or words where that is not known."""
    record = records.read_json(folder / records.MADE)
    if record is None:
        return UNKNOWN
    made_from, files = record.get("made_from"), record.get("files")
    run = made_from.get("run") if isinstance(made_from, dict) else None
    if not (records.is_sealed(record) and isinstance(made_from, dict) and isinstance(run, dict) and isinstance(files, dict)):
        return CHANGED
    if not all(records.is_as_left(folder / name, known) for name, known in files.items()):
        return CHANGED
    began = run.get("weights")
    return {
        **{name: run.get(name) for name in SETTINGS},
        "began_with": Path(str(began)).name if began else NONE,
        "weights": made_from.get("weights"),
        "weights_sha256": made_from.get("weights_sha256"),
    }


def words(made: Mapping[str, Any] | str) -> str:
    """The same for people, in one line; the weights' hash is for programs."""
    if isinstance(made, str):
        return made
    return ", ".join(f"{name} {value}" for name, value in made.items() if name != "weights_sha256" and value not in (None, "", 0))


def deviations(backbones: Mapping[str, Any]) -> list[Deviation]:
    """What of the backbone of each phase, as `of_folder` tells, is not how features are made for a comparison."""
    found = []
    for phase, made in backbones.items():
        if made == CHANGED:
            found.append(Deviation(f"features ({phase})", made, "as they were made"))
        if not isinstance(made, Mapping):
            continue
        if made["began_with"] != NONE:
            what = f"{made['began_with']}: what these weights had seen, it has seen"
            found.append(Deviation(f"backbone ({phase}) began with", what, "no weights"))
        if made["weights"] != "last":
            found.append(Deviation(f"backbone's weights ({phase})", f"{made['weights']}, chosen by its test clips", "last"))
        if made["debug"] or made["max_clips"]:
            clips = "--debug" if made["debug"] else f"at most {made['max_clips']} clips of a part"
            found.append(Deviation(f"backbone ({phase}) was shown", clips, "all clips"))
    return found
