"""The step that is traced is made as the trainer makes its own."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import nn

from engine.assembly import StepConfig, train_step
from engine.config import RunConfig
from planner.steps import tracing
from planner.steps.tracing import Bench, StepSettings, Task, TracedStep


def names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def test_all_that_a_step_reads_is_filled_in_or_a_recipes() -> None:
    """A setting that the trainer's step learns to read must be given here, too."""
    read = {name for name, value in vars(StepConfig).items() if isinstance(value, property)}
    assert read == names(TracedStep)
    assert read <= names(RunConfig)
    free = {"base_lr", "cuda_graphs", "compile", "clip_each", "decay_vectors", "betas", "layer_decay", "encoder_lr_factor"}
    left_to_a_lever_or_free = {"precision", "forward_batch_size", "recompute"} | free
    assert read - names(StepSettings) == left_to_a_lever_or_free


def test_a_traced_step_has_the_settings_of_its_recipe_and_task(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    made = []

    def noted(*args, **kwargs):  # type: ignore[no-untyped-def]
        made.append(train_step(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(tracing, "train_step", noted)
    settings = StepSettings(optimizer="AdamW", weight_decay=0.3, clip_grad=2.0, label_smoothing=0.1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    bench = Bench(network, (1, 1, 16, 1), 4, settings, fake=True)
    bench.trace(Task("train", 8, "fp16", "blocks", 4))
    step = made[-1]
    assert (step.clip_grad, step.micro_batch, step.recompute, step.precision) == (2.0, 4, "blocks", "bf16")  # its scaler aside
    assert step.optimizer is bench.optimizer and isinstance(step.optimizer, torch.optim.AdamW)
    assert step.optimizer.param_groups[0]["weight_decay"] == 0.3
