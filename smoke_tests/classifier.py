"""The smoke test of a classifier of clips: its network, and one epoch through its own main.py on a small synthetic file."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoke_tests import assertions

if TYPE_CHECKING:
    from torch import nn

    from engine.models import ModelCard

_UNSUITABLE = {2: "it is not of the kind that the recipe is set for", 65: "it cannot be used"}
"""Exit codes with which main.py refuses a data file."""


@dataclass(frozen=True)
class Smoke:
    """The [smoke] table of a model.toml. `loss` and `loss_tolerance`: mean cross entropy in eval mode, float32, on CPU or GPU."""

    classes: int
    skeleton: str
    people: int
    window: int
    batch: int
    parameters: int
    loss: float
    loss_tolerance: float
    recipe: str
    model_args: dict[str, Any]


def table(card: ModelCard) -> Smoke:
    """The model's [smoke] table; raises `ModelError` (exit 78)."""
    return assertions.table(card, Smoke, model_args={})


def built(card: ModelCard, spec: Smoke, device: str) -> nn.Module:
    """A new model of the table on `device`."""
    from engine import models
    from shared_data.skeletons import skeleton

    model = models.build(card, num_classes=spec.classes, skeleton=skeleton(spec.skeleton), people=spec.people, **spec.model_args)
    return model.to(device)


def check_network(card: ModelCard, spec: Smoke, device: str, folder: Path) -> tuple[dict[str, bool], dict[str, Any]]:
    """Assertions by name, and the figures behind them."""
    import torch
    from torch.nn.functional import cross_entropy

    from engine.assembly import clip_shape
    from engine.config import parse
    from shared_data.skeletons import skeleton
    from smoke_tests import fingerprint

    recipe = dataclasses.replace(
        parse(["--config", str(card.recipe(spec.recipe))], model=card.name), train_window_size=spec.window
    )
    _, window, joints, _ = clip_shape(recipe, skeleton(spec.skeleton), spec.people, train=True)  # a pipeline may drop joints
    clips = fingerprint.clips(spec.batch, window, joints, spec.people).to(device)
    labels = fingerprint.labels(spec.batch, spec.classes).to(device)
    subject = assertions.Subject(
        build=lambda: built(card, spec, device),
        shape=(spec.batch, spec.classes),
        settle=lambda model: fingerprint.settle(model, clips),
        output=lambda model: model(clips),
        loss=lambda model, logits: cross_entropy(logits.double(), labels).item(),
        step_loss=lambda model: cross_entropy(model(clips), labels),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True),
        unused=card.unused_parameters,
    )
    return assertions.check(subject, spec, folder)


def train(card: ModelCard, recipe: str, device: str, data: Path, work_dir: Path) -> int:
    """One epoch through the model's own main.py on at most 100 clips of each split; returns its exit code."""
    return assertions.run_main(
        card, "--recipe", recipe, "--data", str(data), "--work-dir", str(work_dir), "--device", device,
        "--num-epoch", "1", "--batch-size", "4", "--test-batch-size", "4", "--num-worker", "0", "--debug",
    )  # fmt: skip


def trained(card: ModelCard, work_dir: Path) -> bool:
    """Whether a run left finite losses, metrics and weights."""
    events = [json.loads(line) for line in (work_dir / "log.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] in ("step", "epoch", "eval")]
    metrics = json.loads((work_dir / "metrics.json").read_text())
    weights = work_dir / "checkpoints" / "last.safetensors"
    return bool(losses) and all(map(math.isfinite, losses)) and metrics["model"] == card.name and weights.stat().st_size > 0


def check_training(card: ModelCard, spec: Smoke, device: str, data: Path | None, folder: Path) -> dict[str, bool]:
    """Training on a synthetic file, and on the mounted one."""
    from shared_data.synthetic import write_synthetic

    small = write_synthetic(folder / "synthetic.npz", classes=4, train_per_class=4, test_per_class=2, frames=64, seed=0)
    run = folder / "run"
    holds = {"trains": train(card, spec.recipe, device, small, run) == 0 and trained(card, run)}
    if data is not None:
        run = folder / "run_on_data"
        code = train(card, spec.recipe, device, data, run)
        holds["trains_on_data"] = code == 0 and trained(card, run)
        if holds["trains"] and code in _UNSUITABLE:  # the same command did on the synthetic file
            print(f"{data} does not suit {card.name}'s recipe {spec.recipe!r}: {_UNSUITABLE[code]}; main.py says above why",
                  flush=True)  # fmt: skip
    return holds
