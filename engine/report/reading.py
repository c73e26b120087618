"""What is in a run folder, as far as it is there: every file is optional, the last log line may be torn."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from shared_data.errors import MissingInputError

RUN_FILES = ("config.yaml", "log.jsonl", "metrics.json")
UNLABELLED = ("pretrain", "tune")
"""Stages without labels."""
SEGMENT = "segment"
"""The stage of frame-wise segmentation."""


@dataclass(frozen=True)
class Examples:
    """clips (n, T, M, V, 3) float32, ids (n,), labels (n,), predictions (n,), skeleton: name of the layout."""

    clips: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    skeleton: str


@dataclass(frozen=True)
class Run:
    """A run folder as read.

    epochs, evals   last log entry of each epoch, in order of epochs
    steps           last log entry of each step that was logged, in order
    ended           whether the log says that the run came to its end
    notes           what was missing or unreadable, for people
    """

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    metrics: dict[str, Any]
    epochs: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    ended: bool
    examples: Examples | None
    notes: list[str] = field(default_factory=list)

    @property
    def stage(self) -> str:
        """What was trained; "" where no file says it."""
        return str(self.config.get("stage") or self.metrics.get("stage") or "")

    @property
    def unlabelled(self) -> bool:
        """Whether an encoder was trained without labels, instead of a classifier."""
        return self.stage in UNLABELLED


def read_run(folder: Path) -> Run:
    """Read `folder`; raises `MissingInputError` if it is none of ours."""
    if not any((folder / name).exists() for name in RUN_FILES):
        raise MissingInputError(
            "this is not a run folder",
            where=str(folder),
            expected=f"at least one of {', '.join(RUN_FILES)}",
            next_step="give the --work-dir of a training or test run",
        )
    notes: list[str] = []
    events = _events(folder / "log.jsonl", notes)
    metrics = _mapping(folder / "metrics.json", notes)
    config = _mapping(folder / "config.yaml", notes)
    ended = any(event.get("event") == "end" for event in events)
    if not ended and events:
        notes.insert(0, _how_far(events))
    run = Run(
        folder=folder,
        config=config,
        environment=_mapping(folder / "env.json", notes),
        metrics=metrics,
        epochs=_last_of_each(events, "epoch", "epoch"),
        evals=_last_of_each(events, "eval", "epoch"),
        steps=_last_of_each(events, "step", "step"),
        ended=ended or not events,
        examples=None,
        notes=notes,
    )
    return run if run.unlabelled or run.stage == SEGMENT else replace(run, examples=_examples(folder / "examples.npz", notes))


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _how_far(events: list[dict[str, Any]]) -> str:
    epochs = [event["epoch"] for event in events if event.get("event") == "epoch" and isinstance(event.get("epoch"), int)]
    done = f"after epoch {max(epochs) + 1}" if epochs else "before the end of the first epoch"
    return f"This run has not come to its end: the log stops {done}. Run the same command again to go on."


def _mapping(path: Path, notes: list[str]) -> dict[str, Any]:
    """A JSON or YAML file that holds one object; {} and a note otherwise."""
    if not path.exists():
        notes.append(f"There is no {path.name}.")
        return {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, OSError):
        value = None
    if not isinstance(value, dict):
        notes.append(f"{path.name} cannot be read.")
        return {}
    return {str(key): entry for key, entry in value.items()}


def _events(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Log entries; lines that are torn or no objects are left out and counted."""
    if not path.exists():
        notes.append("There is no log.jsonl, so there are no curves.")
        return []
    events, torn = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if isinstance(event, dict):
            events.append(event)
        else:
            torn += 1
    if torn:
        notes.append(
            f"{torn} line{'s' if torn > 1 else ''} of log.jsonl could not be read and {'were' if torn > 1 else 'was'} left out."
        )
    return events


def _last_of_each(events: list[dict[str, Any]], kind: str, unit: str) -> list[dict[str, Any]]:
    """A resumed run may have logged an epoch or a step twice; the later entry counts."""
    latest = {e[unit]: e for e in events if e.get("event") == kind and isinstance(e.get(unit), int)}
    return [latest[place] for place in sorted(latest)]


def _examples(path: Path, notes: list[str]) -> Examples | None:
    if not path.exists():
        notes.append("There is no examples.npz, so no clips are drawn.")
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            found = Examples(
                np.asarray(file["clips"], np.float32), file["ids"], file["labels"], file["predictions"], str(file["skeleton"])
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        notes.append("examples.npz cannot be read, so no clips are drawn.")
        return None
    n = len(found.ids)
    if (
        found.clips.ndim != 5
        or found.clips.shape[-1] != 3
        or not n == len(found.clips) == len(found.labels) == len(found.predictions)
    ):
        notes.append("examples.npz does not hold clips of (n, T, M, V, 3) with a label and a prediction each.")
        return None
    return found
