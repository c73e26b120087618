"""The recorded passes and training steps of the official pretraining code, in float64: branch, contrasts, momentum and queues."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.official import Entry, from_official, to_official
from engine.optimizers import build_optimizer, set_learning_rate
from engine.parity import fixture as fixtures
from engine.parity.batches import FIRST_STREAM, skeletons
from engine.parity.fixture import Fixture, require_checksum
from engine.parity.limits import FLOAT64
from engine.parity.lines import norm_error, relative_error, value_error
from engine.parity.network import norm
from engine.schedules import epoch_learning_rate
from models.scdnet import official
from models.scdnet.pretraining import Disentanglement

PARITY = Path(__file__).parent.parent.parent / "parity/pretraining"
EXACT = 1e-9
BRANCH = "encoder_q."


def built(fixture: Fixture, weights: Mapping[str, Tensor], queues: Mapping[str, Tensor]) -> Disentanglement:
    """Our objective with both branches of the given `weights`, in float64, without dropout."""
    objective = Disentanglement(**official.pretraining_arguments(fixture.need("constructor_args"), fixture.meta.get("hyper", {})))
    own = {name: value for name, value in objective.state_dict().items() if name.endswith(".ids")}
    blank = to_official(official.pretraining_table(objective), objective.state_dict())
    state = {name: value for name, value in blank.items() if "queue" in name} | dict(queues) | own
    state |= {f"encoder_{which}.{name}": value for which in "qk" for name, value in weights.items()}
    rows = [*official.pretraining_table(objective), *(Entry(name, name) for name in own)]
    objective.load_state_dict(from_official(rows, state, objective))
    for module in objective.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "drop_prob", None), float):
            vars(module)["drop_prob"] = 0.0
    return objective.double().train()


def named(objective: Disentanglement, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By official name; entries of the query branch also by their name in the branch."""
    found = to_official(official.pretraining_table(objective), tensors)
    return found | {name.removeprefix(BRANCH): value for name, value in found.items() if name.startswith(BRANCH)}


def gradients(objective: Disentanglement) -> dict[str, Tensor]:
    return named(objective, {name: p.grad for name, p in objective.named_parameters() if p.grad is not None})


def test_one_pass_of_a_branch() -> None:
    fixture = fixtures.load(PARITY / "scdnet_pretrain.npz")
    weights = fixtures.weights(fixture)
    objective = built(fixture, weights, {})
    back = named(objective, objective.state_dict())
    assert all(torch.equal(back[name].float(), value.float()) for name, value in weights.items())
    assert sum(p.numel() for p in objective.query.parameters()) == fixture.need("num_params")
    arrays = {
        "input": torch.from_numpy(fixture["input"].astype(np.float64)),
        "input_labels": torch.from_numpy(fixture["input_labels"]),
    }
    with torch.no_grad():
        evaluated = official.recorded(objective.eval(), arrays)
    trained = official.recorded(objective.train(), arrays)
    trained["loss"].backward()
    for name in fixture.need("outputs"):
        assert relative_error(evaluated[name], fixture[f"{name}_eval_f64"]) < FLOAT64.output
        assert relative_error(trained[name], fixture[f"{name}_train_f64"]) < FLOAT64.output
    assert relative_error(trained["loss"], fixture["loss_train_f64"]) < FLOAT64.loss
    found = gradients(objective)
    assert norm_error([norm(found[name]) for name in fixture.need("param_names")], fixture["grad_norms_f64"]) < FLOAT64.gradient
    for name, reference in fixture.named("grad_f64").items():
        assert relative_error(found[name], reference) < FLOAT64.gradient, name
    state = named(objective, objective.state_dict())
    for name, reference in fixture.named("bn_after").items():
        assert relative_error(state[name], reference) < FLOAT64.statistics, name


def batches(fixture: Fixture) -> Iterator[Tensor]:
    """Views (N, 2, C, T, V, M) of each step, drawn again; the checksum says that they are the recorded ones."""
    spec = fixture.need("batch")
    drawn: dict[str, Any] = {}
    for step in range(fixture.need("steps")):
        rng = np.random.default_rng([fixture.need("seed"), FIRST_STREAM + step])
        for view in spec["views"]:
            drawn[f"{step} {view}"] = skeletons(rng, tuple(spec[axis] for axis in "NCTVM"), empty=spec.get("empty", True))
    require_checksum(fixture, drawn, fixture.need("batches_crc32"))
    for step in range(fixture.need("steps")):
        yield torch.from_numpy(np.stack([drawn[f"{step} {view}"] for view in spec["views"]], 1)).double()


@pytest.mark.slow
def test_twelve_steps() -> None:
    fixture = fixtures.load(PARITY / "scdnet.npz")
    hyper, names = fixture.need("hyper"), fixture.need("param_names")
    queues = {name: torch.from_numpy(value) for name, value in fixture.named("start").items()}
    objective = built(fixture, fixtures.start_weights(fixture), queues)
    optimizer = build_optimizer(
        objective.parameters(), name=hyper["optimizer"], lr=hyper["base_lr"], weight_decay=hyper["weight_decay"],
        momentum=hyper["momentum"], nesterov=hyper["nesterov"],
    )  # fmt: skip
    start = {name: named(objective, objective.state_dict())[name].clone() for name in names}
    first: list[float] = []
    for step, views in enumerate(batches(fixture)):
        lr = epoch_learning_rate(
            step // hyper["iterations_per_epoch"],
            base_lr=hyper["base_lr"],
            warm_up_epoch=0,
            step=hyper["schedule"],
            lr_decay_rate=0.1,
        )
        set_learning_rate(optimizer, lr)
        optimizer.zero_grad()
        objective.begin()
        embedded = objective.embed(views, torch.arange(len(views)))
        loss, terms = objective.loss(embedded)
        loss.backward()
        grad_norm = math.sqrt(sum(norm(p.grad) ** 2 for p in objective.parameters() if p.grad is not None))
        optimizer.step()
        objective.finish({name: value.detach() for name, value in embedded.items()})
        state = named(objective, objective.state_dict())
        found = {
            "loss": float(loss.detach()), "grad_norm": grad_norm, **{name: float(term.detach()) for name, term in terms.items()},
            "param_norm": math.sqrt(sum(norm(p) ** 2 for p in objective.query.parameters())),
            "key_param_norm": math.sqrt(sum(norm(p) ** 2 for p in objective.key.parameters())),
        }  # fmt: skip
        assert lr == pytest.approx(float(fixture["lr"][step]), rel=EXACT)
        for name, value in found.items():
            assert value_error(value, fixture[f"{name}_f64"][step]) < EXACT, (step, name)
        assert all(int(state[f"{queue}_ptr"]) == fixture[f"{queue}_ptr"][step] for queue in fixture.need("queues"))
        changes = [norm(state[name] - start[name]) for name in names]
        first = first or changes
    assert norm_error(first, fixture["change_norms_first"]) < 10 * EXACT
    assert norm_error(changes, fixture["change_norms_end"]) < 10 * EXACT
    for prefix in ("end", "bn_end"):
        references = fixture.named(prefix)
        assert references
        for name, reference in references.items():
            assert relative_error(state[name], reference) < 10 * EXACT, name
