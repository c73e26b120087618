"""From skeletons to the harmonic mean: backbones, features, texts and the zero-shot run, in one work folder.

``backbone/test`` and ``backbone/val`` are training runs of the same backbone, one for each phase: neither is shown the classes
that are unseen in its phase, nor the clips held out for the gate (`withheld`). ``features`` is laid out as the official files
are (`sources`). The zero-shot run has the rest of the folder. Every step is skipped where it was done from the same, and goes on
where it was cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine import assembly, models
from engine.config import RunConfig, parse
from engine.errors import ConfigError
from engine.report.reading import RUN_FILES, read_run
from engine.runfolder import RunFolder
from engine.trained import Which, began_with, open_run
from engine.zeroshot import from_skeletons
from engine.zeroshot import run as zeroshot_run
from engine.zeroshot.plan import Plan, require_sound
from engine.zeroshot.sources import Source
from engine.zeroshot.system import System
from engine.zeroshot.text import source as text_source
from engine.zeroshot.text.source import TextSource
from engine.zeroshot.work import After, Work
from shared_data import withheld
from shared_data.datasets import DataSet
from shared_data.errors import DataError, MissingInputError
from shared_data.zeroshot_splits import PHASES, Phase

BACKBONES, FEATURES = "backbone", "features"
OURS = ("phase", "data", "leave_out", "hold_out", "work_dir", "device", "resume", "force")
"""Settings of a backbone that the chain gives."""

Train = Callable[[str, list[str]], object]
"""Trains a model, given its name and the flags of `sal train` behind it."""


@dataclass(frozen=True)
class Backbone:
    """What makes features of skeletons.

    model    a classifier of the lab
    data     file or folder of skeletons
    flags    as of `sal train MODEL`: ``("--recipe", "ntu60_xsub", "--stream", "b")``
    weights  of its last epoch, or of the best one on test clips of seen classes
    """

    model: str
    data: Path
    flags: tuple[str, ...] = ()
    weights: Which = "last"


def source(path: Path, backbone: Backbone, text: TextSource) -> Source:
    """Where the zero-shot run in the work folder `path` reads."""
    return Source(path / FEATURES, arch=text.arch, mode=text.mode, extractor=backbone.model)


def run(
    path: Path,
    name: str,
    system: System,
    plan: Plan,
    *,
    backbone: Backbone,
    text: TextSource,
    device: str = "auto",
    force: bool = False,
    official_log: bool = False,
    train: Train,
    note: Callable[[str], None] = print,
    after: After = lambda seed, phase, cycle: None,
) -> dict[str, Any]:
    """Do what is not done yet in the work folder `path`, and return the summary that its ``results.json`` holds.

    name     the zero-shot model's
    device   as of a training run; for the backbones and for the rest
    force    replace what the folder holds of another chain
    train    trains a backbone
    note     is told, in words for the user, which step begins
    after    sees every new cycle of the zero-shot run: seed, phase, cycle
    Raises what the steps raise, a `LabError` each; what was done before stands.
    """
    require_sound(plan)
    config = _backbone_config(backbone)
    if config.weights:
        note(f"note: the backbones begin with the weights {config.weights}; what these had seen, they have seen")
    where, place = source(path, backbone, text), assembly.choose_device(device)
    data = assembly.whole_data(config)
    counts = {"test": 0, "val": _count(data, plan)}
    with RunFolder(path, force=force) as work:  # whether it is free for this run is said before anything is trained
        Work(work, name, system, plan, lambda phase: where.data(plan, phase), device=place, force=force)
    text_source.write(where.root, text, plan.test.classes, force=force)
    for phase in PHASES:
        folder = path / BACKBONES / phase
        flags = _flags(backbone, plan, phase, folder, device=device, held_out=counts[phase])
        wished = parse(flags, model=backbone.model, phase="train")
        if _is_finished(folder, wished, data):
            note(f"backbone of the {_called(phase)}: done before")
        else:
            note(f"backbone of the {_called(phase)}: {backbone.model} without the classes {wished.leave_out}")
            train(
                backbone.model, [*flags, *(("--resume", "never", "--force") if force and _is_other(folder, wished, data) else ())]
            )
        note(f"features of the {_called(phase)}")
        trained = open_run(folder, data=backbone.data, weights=backbone.weights, device=device)
        _, made = from_skeletons.write(where.root, trained, plan.split(phase), extractor=where.extractor, force=force)
        note("  done before" if made is None else f"  clips: {', '.join(f'{part} {count:,}' for part, count in made.items())}")
    note(system.title)
    return zeroshot_run.run(
        path, name, system, plan, where, device=place, force=force, official_log=official_log, after=after
    )  # fmt: skip


def _backbone_config(backbone: Backbone) -> RunConfig:
    """What the flags say. Raises `ConfigError` where they say what the chain says."""
    models.find(backbone.model)
    usual = RunConfig()
    config = parse(backbone.flags, model=backbone.model, phase="train")
    for key in OURS:
        if key != "phase" and getattr(config, key) != getattr(usual, key):
            raise ConfigError(
                f"{key} of the backbone follows from the zero-shot run", where=f"--{key.replace('_', '-')}",
                next_step="leave it out; data, device and work folder are given once, for all",
            )  # fmt: skip
    return replace(config, data=str(backbone.data))


def _count(data: DataSet, plan: Plan) -> int:
    """Clips of each class to hold out of the validation's backbone. Raises `DataError` for data of another task."""
    if data.num_classes != plan.test.classes:
        raise DataError(
            f"the data has {data.num_classes} classes", where=str(data.path), expected=f"{plan.test.classes}, as the task",
        )  # fmt: skip
    return withheld.suitable_count(data, withheld.read(withheld.text_of(plan.test, plan.val, "val")))


def _flags(backbone: Backbone, plan: Plan, phase: Phase, folder: Path, *, device: str, held_out: int) -> list[str]:
    left = withheld.text_of(plan.test, plan.val, phase)
    ours = {"data": backbone.data, "leave-out": left, "hold-out": held_out, "work-dir": folder, "device": device}
    return [*backbone.flags, *(word for name, value in ours.items() for word in (f"--{name}", str(value)))]


def _is_finished(folder: Path, wished: RunConfig, data: DataSet) -> bool:
    """Of a run on other clips training itself says so, and of a state that cannot be read."""
    if not _is_run(folder):
        return False
    run = read_run(folder)
    done = bool(run.metrics) and run.ended and not _differences(wished, run.config)
    return done and _saw(folder, wished, data) is True


def _is_other(folder: Path, wished: RunConfig, data: DataSet) -> bool:
    """What a fit has changed is not known here; training itself compares then."""
    if not _is_run(folder):
        return False
    return (not wished.fit and bool(_differences(wished, read_run(folder).config))) or _saw(folder, wished, data) is False


def _saw(folder: Path, wished: RunConfig, data: DataSet) -> bool | None:
    """Whether the run in `folder` was begun with these clips; None where its last state cannot be read."""
    try:
        return began_with(folder, data, wished)
    except (DataError, MissingInputError):
        return None


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in RUN_FILES)


def _differences(wished: RunConfig, saved: dict[str, Any]) -> list[str]:
    """Settings that make it another run, those that it does not know among them."""
    return wished.differences({**dict.fromkeys(wished.identity()), **saved})


def _called(phase: Phase) -> str:
    return "test" if phase == "test" else "validation"
