"""The recorded training runs of the official objective: twelve steps, with queues and key encoders, in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.official import from_official, to_official
from engine.optimizers import build_optimizer, set_learning_rate
from engine.parity.batches import FIRST_STREAM, skeletons
from engine.parity.fixture import Fixture, load, require_checksum, start_weights
from engine.parity.lines import norm_error, relative_error, value_error
from engine.parity.network import norm
from engine.schedules import epoch_learning_rate
from models.isc import official
from models.isc.pretraining import MoCo

PARITY = Path(__file__).resolve().parents[2] / "parity"
LIMIT = 1e-9
SINGLE = 10.0  # single tensors, and norms of changes, may be so much further off


def views(fixture: Fixture) -> list[Tensor]:
    """(N, 2, C, T, V, M) float64 of each step, as recorded."""
    spec, drawn = fixture.need("batch"), {}
    for step in range(fixture.need("steps")):
        rng = np.random.default_rng([fixture.need("seed"), FIRST_STREAM + step])
        shape = (spec["N"], spec["C"], spec["T"], spec["V"], spec["M"])
        drawn |= {f"{step} {view}": skeletons(rng, shape, empty=spec.get("empty", True)) for view in spec["views"]}
    require_checksum(fixture, drawn, fixture.meta["batches_crc32"])
    arrays = list(drawn.values())
    return [torch.from_numpy(np.stack(pair, 1)).double() for pair in zip(arrays[::2], arrays[1::2], strict=True)]


def official_start(fixture: Fixture) -> dict[str, Tensor]:
    """The official state dict before the first step."""
    encoder = start_weights(fixture)
    state = {f"{role}.{name}": value for role in official.ROLES[0] for name, value in encoder.items()}
    queue = torch.from_numpy(fixture["start/queue"])
    return {**state, "queue": queue, "queue_ptr": torch.zeros(1, dtype=torch.int64)}


def objective_of(fixture: Fixture) -> MoCo:
    """Ours, with the official weights, dropout off."""
    objective = MoCo(**official.pretraining_arguments(fixture.need("constructor_args"), fixture.need("hyper"))).double()
    table = official.pretraining_table(objective)
    ours = [key for key in objective.state_dict() if key.endswith(".ids")]
    state = {**official_start(fixture), **{key: objective.state_dict()[key] for key in ours}}
    rows = [*table, *(official.Entry(key, key) for key in ours)]
    objective.load_state_dict(from_official(rows, state, objective))
    for module in objective.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return objective.train()


def query_parameters(objective: MoCo) -> dict[str, Tensor]:
    table = official.pretraining_table(objective)
    found = to_official(table, dict(objective.named_parameters()))
    return {k.removeprefix("encoder_q."): v.detach().clone() for k, v in found.items() if k.startswith("encoder_q.")}


def whole(values: dict[str, Tensor]) -> float:
    return math.sqrt(sum(norm(value) ** 2 for value in values.values()))


@pytest.mark.parametrize("steps", [2, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["isc_hcn", "isc_agcn"])
def test_recorded_steps(name: str, steps: int) -> None:
    fixture = load(PARITY / "pretraining" / f"{name}.npz")
    hyper, objective = fixture.need("hyper"), objective_of(fixture)
    table = official.pretraining_table(objective)
    optimizer = build_optimizer(
        objective.parameters(), lr=hyper["base_lr"], weight_decay=hyper["weight_decay"], momentum=hyper["momentum"],
        nesterov=hyper["nesterov"],
    )  # fmt: skip
    start, series = query_parameters(objective), {key: [] for key in ("lr", "loss", "grad_norm", "param_norm", "key_param_norm")}
    changes: list[list[float]] = []
    checksums: list[float] = []
    pointers: list[int] = []
    for step, batch in enumerate(views(fixture)[:steps]):
        lr = epoch_learning_rate(step // hyper["iterations_per_epoch"], base_lr=hyper["base_lr"], step=hyper["schedule"])
        set_learning_rate(optimizer, lr)
        optimizer.zero_grad()
        objective.begin()
        embedded = objective.embed(batch, torch.arange(len(batch)))
        loss, _ = objective.loss(embedded)
        loss.backward()
        gradients = to_official(table, {k: p.grad for k, p in objective.named_parameters() if p.grad is not None})
        optimizer.step()
        objective.finish(embedded)
        parameters = query_parameters(objective)
        queue = objective.queue[objective.representations[0]].features
        d, k = (torch.arange(n, dtype=torch.float64) for n in queue.shape)
        keys = to_official(table, dict(objective.named_parameters()))
        series["lr"].append(lr)
        series["loss"].append(loss.item())
        series["grad_norm"].append(whole(gradients))
        series["param_norm"].append(whole(parameters))
        series["key_param_norm"].append(whole({n: v for n, v in keys.items() if n.startswith("encoder_k.")}))
        checksums.append(float((queue * ((31 * d[:, None] + 17 * k) % 101) / 101).sum()))
        pointers.append(int(objective.queue[objective.representations[0]].pointer))
        changes.append([norm(parameters[n] - start[n]) for n in fixture.need("param_names")])

    for quantity, values in series.items():
        assert value_error(values, fixture[quantity if quantity == "lr" else f"{quantity}_f64"][:steps]) < LIMIT, quantity
    assert pointers == fixture["queue_ptr"][:steps].tolist()
    assert relative_error(checksums, fixture["queue_checksum_f64"][:steps]) < LIMIT
    assert norm_error(changes[0], fixture["change_norms_first"]) < SINGLE * LIMIT
    assert not any(p.requires_grad for p in objective.key.parameters())
    if steps < fixture.need("steps"):
        return
    assert norm_error(changes[-1], fixture["change_norms_end"]) < SINGLE * LIMIT
    end = to_official(table, objective.state_dict())
    recorded = fixture.named("end") | fixture.named("bn_end")
    assert len(recorded) >= 5
    for key, reference in recorded.items():
        value = end[key] if key in end else end[f"encoder_q.{key}"]
        assert relative_error(value, reference) < SINGLE * LIMIT, key


def arguments(case: str) -> dict[str, Any]:
    return dict(load(PARITY / f"{case}_ntu60.npz").need("constructor_args"))


@pytest.mark.parametrize("case", ["hcn", "agcn", "bigru"])
def test_recorded_sizes_are_understood(case: str) -> None:
    """What the objective is for a recorded encoder: its query holds that encoder's parameters, but its head."""
    fixture = load(PARITY / f"{case}_ntu60.npz")
    with torch.device("meta"):
        objective = MoCo(**official.pretraining_arguments(arguments(case), {"queue_size": 8, "mlp": True, "dim": 16}))
    found = to_official(official.pretraining_table(objective), objective.state_dict())
    recorded = {f"encoder_q.{n}": tuple(shape) for n, shape, *_ in fixture.need("entries") if not n.startswith("fc.")}
    assert {n: tuple(v.shape) for n, v in found.items() if n.startswith("encoder_q.") and ".fc." not in n} == recorded
    width = next(v.shape[0] for n, v in found.items() if n == "encoder_q.fc.0.weight")
    assert found["encoder_q.fc.2.weight"].shape == (16, width) and found["queue"].shape == (16, 8)
