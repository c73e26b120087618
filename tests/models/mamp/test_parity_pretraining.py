"""What tests/contract/test_parity.py does not ask of the recorded numbers: float32, pieces of a batch, groups of parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine import models
from engine.assembly import new_optimizer
from engine.config import RunConfig
from engine.official import from_official, to_official
from engine.parity import fixture as fixtures
from engine.parity.fixture import Fixture
from engine.parity.limits import FLOAT32, FLOAT64
from engine.parity.lines import norm_error, relative_error
from engine.parity.network import norm
from models.mamp import official
from models.mamp.pretraining import MaskedMotion

PARITY = Path(__file__).parents[2] / "parity"


def objective_of(fixture: Fixture) -> MaskedMotion:
    """Ours, with the recorded weights."""
    objective = MaskedMotion(**official.pretraining_arguments(fixture.need("constructor_args"), {}))
    values = fixtures.weights(fixture)
    objective.load_state_dict(from_official(official.pretraining_table(objective), values, objective))
    assert sum(p.numel() for p in objective.parameters()) == fixture.need("num_params")
    return objective


def recorded(fixture: Fixture, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: torch.from_numpy(fixture[name]).to(dtype) for name in ("input", "input_noise")}


def test_one_pass_in_float32():
    fixture = fixtures.load(PARITY / "mamp_pretrain.npz")
    objective = objective_of(fixture).train()
    found = official.recorded(objective, recorded(fixture, torch.float32))
    for name in fixture.need("outputs"):
        assert relative_error(found[name], fixture[f"{name}_train_f64"]) < FLOAT32.output, name
    found["loss"].backward()
    gradients = to_official(official.pretraining_table(objective), {name: p.grad for name, p in objective.named_parameters()})
    norms = [norm(gradients[name]) for name in fixture.need("param_names")]
    assert norm_error(norms, fixture["grad_norms_f64"]) < FLOAT32.gradient


def test_what_is_recorded_is_what_trains():
    """`embed` and `loss`, by which the engine trains, give the recorded loss; in pieces, too."""
    fixture = fixtures.load(PARITY / "mamp_pretrain.npz")
    objective, arrays = objective_of(fixture).double(), recorded(fixture, torch.float64)
    views, noise, ids = arrays["input"].unsqueeze(1), arrays["input_noise"], torch.arange(2)
    with torch.no_grad():
        pieces = [objective.embed(views[i : i + 1], ids[i : i + 1], noise[2 * i : 2 * i + 2]) for i in range(2)]
        loss, terms = objective.loss({name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]})
    assert relative_error(loss, fixture["loss_train_f64"]) < FLOAT64.loss and terms == {"masked_error": loss}


def test_layers_are_the_official_groups():
    """Each parameter's factor of the learning rate and its weight decay are those of the group that it is in officially."""
    fixture = fixtures.load(PARITY / "trajectories" / "mamp_finetune.npz")
    hyper = fixture.need("hyper")
    network = models.build(models.find("mamp"), **official.constructor(fixture.need("constructor_args")))
    config = RunConfig(
        optimizer="AdamW", weight_decay=hyper["weight_decay"], decay_vectors=False, layer_decay=hyper["layer_decay"]
    )
    groups = new_optimizer(config, network).param_groups
    ours = {p: (group["scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    theirs = {name: (g["lr_scale"], g["weight_decay"]) for g in fixture.need("param_groups") for name in g["params"]}
    parameters = dict(network.named_parameters())
    rows = [row for row in official.table(network) if row.ours in parameters]
    assert len(rows) == len(theirs) == len(ours) and len(groups) == len(fixture.need("param_groups"))
    for row in rows:
        assert ours[parameters[row.ours]] == pytest.approx(theirs[row.official], rel=1e-12), row
