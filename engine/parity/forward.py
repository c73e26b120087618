"""Judging one forward and backward pass: outputs, loss, gradients and BatchNorm statistics, in float64 and float32.

The float64 run decides: a difference there is a bug, not rounding. Limits are in `engine.parity.limits`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from engine.official import OfficialNames
from engine.parity.fixture import Fixture, FixtureError, weights
from engine.parity.limits import FLOAT32, FLOAT32_BATCH_NORM, FLOAT64, Allowance, Limits
from engine.parity.lines import NORM_FLOOR, Line, norm_error, relative_error
from engine.parity.network import build, clips_of, constants, has_batch_norm, norm, official_gradients
from engine.step import forward

PENALTY = "divergence"  # the one extra loss among the fixtures, Hyper-GCN's


def judge(fixture: Fixture) -> list[Line]:
    """All lines of a forward fixture; raises `FixtureError` if its outputs or its loss are of a kind not known here."""
    _require_classifier(fixture)
    official = weights(fixture, constants=constants(fixture))
    network, names = build(fixture, official)
    allowed = names.allowance(fixture.need("constructor_args")) or Allowance("")
    counted = entries(fixture, network, names, official)
    loose = FLOAT32_BATCH_NORM if has_batch_norm(network) else FLOAT32
    lines = _pass(fixture, copy.deepcopy(network).double(), names, allowed.float64 or FLOAT64, "float64")
    lines += _pass(fixture, network.float(), names, allowed.float32 or loose, "float32")
    reason = allowed.reason if allowed.float64 or allowed.float32 else ""
    return [*counted, *(replace(line, reason=reason) for line in lines)]


def _require_classifier(fixture: Fixture) -> None:
    outputs, loss = set(fixture.need("outputs")), str(fixture.need("loss"))
    known = "logits" in outputs and outputs <= {"logits", PENALTY} and loss.startswith("cross_entropy(logits, input_labels)")
    if not known or (_penalised(fixture) and PENALTY not in outputs):
        raise FixtureError(
            "this fixture has outputs or a loss that the judge does not know",
            where=f"{fixture.path}: outputs {sorted(outputs)}, loss {loss!r}",
            expected=f"logits with the cross-entropy of input_labels, with or without {PENALTY}",
        )


def _penalised(fixture: Fixture) -> bool:
    """Whether the recorded loss has the penalty in it; without virtual joints it is undefined and left out."""
    return f"+ {PENALTY}" in str(fixture.need("loss"))


def entries(fixture: Fixture, network: nn.Module, names: OfficialNames, official: Mapping[str, Tensor]) -> list[Line]:
    """Counts of what must be equal: parameters, and official entries after the way there and back."""
    parameters = list(network.parameters())
    count = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    back = names.to_official(network.state_dict(), network)
    shared = [name for name in official if name in back and torch.equal(back[name].float(), official[name].float())]
    lost = len(official) + len(back) - 2 * len(shared)
    return [
        Line(f"parameters: {count}", abs(count - int(fixture.need("num_params"))), 0.0),
        Line(f"trained parameters: {trained}", abs(trained - int(fixture.need("num_trainable"))), 0.0),
        Line(f"official entries there and back: {len(shared)}", lost, 0.0),
    ]


def _pass(fixture: Fixture, network: nn.Module, names: OfficialNames, limits: Limits, precision: str) -> list[Line]:
    """Evaluation mode, then one training pass, both compared with the official float64 numbers."""
    dtype = getattr(torch, precision)
    clips = clips_of(fixture, network).to(dtype)
    labels = torch.from_numpy(fixture["input_labels"])
    positions = torch.from_numpy(fixture["input_index_t"]).to(dtype) if "input_index_t" in fixture.arrays else None

    def line(quantity: str, error: float, limit: float) -> Line:
        return Line(f"{precision} {quantity}", error, limit)

    with torch.no_grad():
        evaluated = forward(network.eval(), clips, positions)
    logits = forward(network.train(), clips, positions)
    loss = cross_entropy(logits, labels)
    penalties = []
    if _penalised(fixture):
        penalty: Tensor = network.penalty()  # type: ignore[operator]
        loss = loss + penalty
        penalties = [line(PENALTY, relative_error(penalty.reshape(1), fixture[f"{PENALTY}_train_f64"]), limits.loss)]
    torch.autograd.backward(loss)
    lines = [
        line("logits, evaluation", relative_error(evaluated, fixture["logits_eval_f64"]), limits.output),
        line("logits, training", relative_error(logits, fixture["logits_train_f64"]), limits.output),
        line("loss", relative_error(loss.reshape(fixture["loss_train_f64"].shape), fixture["loss_train_f64"]), limits.loss),
        *penalties,
    ]
    return lines + after_backward(fixture, network, names, limits, precision)


def after_backward(fixture: Fixture, network: nn.Module, names: OfficialNames, limits: Limits, precision: str) -> list[Line]:
    """Gradients, and the statistics of BatchNorm, that a training pass left."""

    def line(quantity: str, error: float, limit: float) -> Line:
        return Line(f"{precision} {quantity}", error, limit)

    gradients = official_gradients(network, names)
    norms = [norm(gradients[name]) if name in gradients else math.nan for name in fixture.need("param_names")]
    lines = [line(f"gradient norms ({len(norms)})", norm_error(norms, fixture["grad_norms_f64"]), limits.gradient)]
    noise = NORM_FLOOR * float(np.nanmax(fixture["grad_norms_f64"]))
    for name, reference in fixture.named("grad_f64").items():
        error = relative_error(gradients[name], reference, noise=noise) if name in gradients else math.inf
        lines.append(line(f"gradient of {name}", error, limits.gradient))
    state = names.to_official(network.state_dict(), network)
    for name, reference in fixture.named("bn_after").items():
        error = relative_error(state[name], reference) if name in state else math.inf
        lines.append(line(f"{name} after one pass", error, limits.statistics))
    return lines
