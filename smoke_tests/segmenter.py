"""The smoke test of a network that segments sequences: its scores, and one epoch through its own main.py on made-up sequences."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoke_tests import assertions

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from engine.models import ModelCard
    from engine.segmentation.scores import FrameScores

CHANNELS = 6  # of a joint of one person: its motion and its place
RATE = 1e-3
PADDED = 255


@dataclass(frozen=True)
class Smoke:
    """The [smoke] table of a model.toml: `frames` of the longest sequence of a batch; the others are shorter.

    `loss` and `loss_tolerance`: of `loss` below in eval mode, float32, on CPU or GPU.
    """

    classes: int
    skeleton: str
    people: int
    frames: int
    batch: int
    parameters: int
    loss: float
    loss_tolerance: float
    recipe: str
    model_args: dict[str, Any]


@dataclass(frozen=True)
class Made:
    """A batch of made-up sequences, as `shared_data.sequence_loader` makes them."""

    features: Tensor
    labels: Tensor
    boundary: Tensor
    mask: Tensor


def table(card: ModelCard) -> Smoke:
    """The model's [smoke] table; raises `ModelError` (exit 78)."""
    return assertions.table(card, Smoke, model_args={})


def built(card: ModelCard, spec: Smoke, device: str) -> nn.Module:
    """A new model of the table on `device`, without dropout: a few steps say something then."""
    from engine import models
    from engine.parity.network import without_dropout

    model = models.build(card, num_classes=spec.classes, skeleton=spec.skeleton, people=spec.people, **spec.model_args)
    return without_dropout(model).to(device)


def made_up(spec: Smoke, device: str) -> Made:
    """Sequences of three actions each; sequence i has i frames in twenty fewer than the longest."""
    import torch

    from shared_data.sequences import boundaries
    from shared_data.skeletons import skeleton
    from smoke_tests import fingerprint

    joints, people = skeleton(spec.skeleton).joints, spec.people
    clips = torch.cat([fingerprint.clips(spec.batch, spec.frames, joints, people) for _ in range(CHANNELS // 3)], 1)
    features = clips.permute(0, 4, 1, 3, 2).flatten(1, 2).contiguous()
    labels = torch.full((spec.batch, spec.frames), PADDED)
    boundary, mask = torch.zeros(spec.batch, 1, spec.frames), torch.zeros(spec.batch, 1, spec.frames, dtype=torch.bool)
    for i in range(spec.batch):
        length = spec.frames - i * spec.frames // 20
        for action, frames in enumerate(torch.arange(length).tensor_split(3)):
            labels[i, frames] = (7 * i + action) % spec.classes
        boundary[i, 0, :length] = torch.from_numpy(boundaries(labels[i, :length].numpy()))
        mask[i, :, :length] = True
    return Made((features * mask.unsqueeze(2)).to(device), labels.to(device), boundary.to(device), mask.to(device))


def loss(scores: FrameScores, made: Made) -> Tensor:
    """Mean cross entropy of the class stages, and a tenth of that of the boundary stages, over the frames that are there."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    classes = [cross_entropy(one, made.labels, ignore_index=PADDED) for one in scores.classes]
    bounds = [binary_cross_entropy_with_logits(one[made.mask], made.boundary[made.mask]) for one in scores.boundaries]
    return torch.stack(classes).mean() + (0.1 * torch.stack(bounds).mean() if bounds else 0.0)


def check_network(card: ModelCard, spec: Smoke, device: str, folder: Path) -> tuple[dict[str, bool], dict[str, Any]]:
    """Assertions by name, and the figures behind them."""
    import torch

    from smoke_tests import fingerprint

    made = made_up(spec, device)

    def fixed_loss(model: nn.Module, _: Tensor) -> float:
        with torch.no_grad():
            return loss(model(made.features, made.mask), made).item()

    subject = assertions.Subject(
        build=lambda: built(card, spec, device),
        shape=(spec.batch, spec.classes, spec.frames),
        settle=lambda model: fingerprint.settle(model, made.features, made.mask),
        output=lambda model: model(made.features, made.mask).classes[-1],
        loss=fixed_loss,
        step_loss=lambda model: loss(model(made.features, made.mask), made),
        optimizer=adam,
        unused=card.unused_parameters,
    )
    return assertions.check(subject, spec, folder)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of LaSA and DeST."""
    import torch

    return torch.optim.Adam(model.parameters(), lr=RATE)


def check_training(card: ModelCard, spec: Smoke, device: str, data: Path | None, folder: Path) -> dict[str, bool]:
    """One epoch through the model's own main.py on made-up sequences. `data` is clips: that is said, not tried."""
    from shared_data.sequence_store import write_sequences
    from shared_data.synthetic_sequences import synthetic_sequences

    made = synthetic_sequences(classes=3, train=4, test=2, actions=3, lengths=(20, 30), pauses=(5, 10))
    file, run = write_sequences(made, folder / "synthetic.h5"), folder / "run"
    if data is not None:
        print(f"{data} holds clips: {card.name} learns from untrimmed sequences, and was not tried on it", flush=True)
    code = assertions.run_main(
        card, "--recipe", spec.recipe, "--data", str(file), "--work-dir", str(run), "--device", device, "--num-epoch", "1",
        "--batch-size", "2", "--num-worker", "0",
    )  # fmt: skip
    return {"trains": code == 0 and trained(card, run)}


def trained(card: ModelCard, work_dir: Path) -> bool:
    """Whether a run left finite losses, metrics, weights and a prediction of every frame."""
    events = [json.loads(line) for line in (work_dir / "log.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if "loss" in event]
    metrics = json.loads((work_dir / "metrics.json").read_text())
    left = [work_dir / "checkpoints" / "last.safetensors", work_dir / "predictions_last.npz"]
    sound = bool(losses) and all(map(math.isfinite, losses)) and 0 <= metrics["last"]["raw"]["accuracy"] <= 100
    return sound and metrics["model"] == card.name and all(file.is_file() and file.stat().st_size for file in left)
