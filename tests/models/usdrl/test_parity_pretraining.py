"""Pretraining steps of the official code, which are recorded, with our objective, optimizer and schedule."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import models
from engine.official import from_official, to_official
from engine.optimizers import build_optimizer, set_learning_rate
from engine.parity.batches import FIRST_STREAM, skeletons
from engine.parity.fixture import Fixture, load, require_checksum, start_weights
from engine.parity.lines import norm_error, relative_error, value_error
from engine.parity.network import norm
from engine.schedules import epoch_learning_rate
from models.usdrl import official
from models.usdrl.pretraining import DenseDecorrelation

PARITY = Path(__file__).parents[2] / "parity" / "pretraining"
LIMIT = 1e-9  # relative, float64; ten times that for single tensors
STORED = 8  # of long vectors of BatchNorm every eighth value
TERMS = [f"{term}{name}" for name in ("_t", "_s", "_i", "") for term in ("sim", "vac", "xcorr")]


def drawn(trajectory: Fixture) -> list[np.ndarray]:
    """Of every step the views (N, K, C, T, V, M) float32, from the seed; held against the recorded checksum."""
    spec, steps = trajectory.need("batch"), []
    shape = tuple(spec[axis] for axis in "NCTVM")
    for step in range(trajectory.need("steps")):
        rng = np.random.default_rng([trajectory.need("seed"), FIRST_STREAM + step])
        steps.append(np.stack([skeletons(rng, shape, empty=spec.get("empty", True)) for _ in spec["views"]], 1))
    views = {f"{i} {k}": batch[:, k] for i, batch in enumerate(steps) for k in range(batch.shape[1])}
    require_checksum(trajectory, views, trajectory.need("batches_crc32"))
    return steps


def objective_of(trajectory: Fixture) -> DenseDecorrelation:
    """With the recorded start weights, in float64; nothing is dropped."""
    arguments, hyper = trajectory.need("constructor_args"), trajectory.need("hyper")
    _, variant = models.find_official(trajectory.need("model"))
    ours = DenseDecorrelation(**{**official.pretraining_arguments(arguments, hyper), **variant, "drop_path": 0.0}).double()
    weights = start_weights(trajectory, constants=official.constants(arguments, rounded=True))
    ours.load_state_dict(from_official(official.pretraining_table(ours), weights, ours))
    return ours.train()


def named(objective: DenseDecorrelation, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = to_official(official.pretraining_table(objective), tensors)
    return {name: value.detach().clone() for name, value in found.items()}


def run(trajectory: Fixture, steps: int) -> tuple[dict[str, list[Any]], DenseDecorrelation]:
    """The first `steps` of the recorded run: its series, and the objective after it."""
    hyper = trajectory.need("hyper")
    assert hyper["optimizer"] == "Adam" and (hyper["betas"], hyper["eps"]) == ([0.9, 0.999], 1e-8)
    objective = objective_of(trajectory)
    optimizer = build_optimizer(objective.parameters(), name="Adam", lr=hyper["base_lr"], weight_decay=hyper["weight_decay"])
    parameters = dict(objective.named_parameters())
    start = named(objective, parameters)
    series: dict[str, list[Any]] = {name: [] for name in ("loss", "grad_norm", "param_norm", "lr", "changes", *TERMS)}
    for step, batch in enumerate(drawn(trajectory)[:steps]):
        epoch, drops = step // hyper["iterations_per_epoch"], hyper["schedule"]
        lr = epoch_learning_rate(epoch, base_lr=hyper["base_lr"], warm_up_epoch=0, step=drops, lr_decay_rate=0.1)
        set_learning_rate(optimizer, lr)
        objective.begin()
        optimizer.zero_grad()
        embedded = objective.embed(torch.from_numpy(batch).double(), torch.arange(len(batch)))
        loss, terms = objective.loss(embedded)
        torch.autograd.backward(loss)
        series["grad_norm"].append(total(p.grad for p in parameters.values()))
        optimizer.step()
        objective.finish({name: value.detach() for name, value in embedded.items()})
        series["param_norm"].append(total(parameters.values()))
        now = named(objective, parameters)
        series["changes"].append([norm(now[name] - start[name]) for name in trajectory.need("param_names")])
        series["lr"].append(lr)
        for name, value in {"loss": loss, **terms}.items():
            series[name].append(float(value.detach()))
    return series, objective


def total(tensors: Any) -> float:
    return math.sqrt(sum(norm(tensor) ** 2 for tensor in tensors))


def assert_series(series: dict[str, list[Any]], trajectory: Fixture) -> None:
    for name in ("loss", "grad_norm", "param_norm", *TERMS):
        recorded = trajectory[f"{name}_f64"][: len(series[name])]
        assert value_error(series[name], recorded) < LIMIT, name
    assert value_error(series["lr"], trajectory["lr"][: len(series["lr"])]) < LIMIT
    assert norm_error(series["changes"][0], trajectory["change_norms_first"]) < 10 * LIMIT


CASES = sorted(PARITY.glob("usdrl_*.npz"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_first_losses(path: Path) -> None:
    trajectory = load(path)
    objective, batch = objective_of(trajectory), drawn(trajectory)[0]
    with torch.no_grad():
        loss, terms = objective.loss(objective.embed(torch.from_numpy(batch).double(), torch.arange(len(batch))))
    for name, value in {"loss": loss, **terms}.items():
        assert value_error(float(value), trajectory[f"{name}_f64"][0]) < LIMIT, name
    assert {int(part.norms[1].num_batches_tracked) for part in objective.projectors.values()} == {batch.shape[1]}


@pytest.mark.slow
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_all_steps(path: Path) -> None:
    trajectory = load(path)
    series, objective = run(trajectory, trajectory.need("steps"))
    assert_series(series, trajectory)
    assert norm_error(series["changes"][-1], trajectory["change_norms_end"]) < 10 * LIMIT
    state = named(objective, objective.state_dict())
    compared = {**trajectory.named("end"), **trajectory.named("bn_end")}
    assert len(compared) == len(trajectory.need("full_tensors")) + 2 * len(trajectory.need("bn_end"))
    for name, reference in compared.items():
        value = state[name]
        value = value[::STORED] if len(value) == STORED * len(reference) else value
        assert relative_error(value, reference) < 10 * LIMIT, name


def test_there_are_cases() -> None:
    assert CASES
