"""Judging one forward and backward pass: outputs, loss, gradients and BatchNorm statistics, in float64 and float32.

The float64 run decides: a difference there is a bug, not rounding. Limits are those of the fixtures' README.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from engine.official import OfficialNames
from engine.parity.fixture import Fixture, FixtureError, weights
from engine.parity.lines import Line, norm_error, relative_error
from engine.parity.network import build, has_batch_norm, norm, official_gradients


@dataclass(frozen=True)
class Limits:
    """Largest errors allowed in one precision."""

    output: float
    loss: float
    gradient: float
    statistics: float


FLOAT64 = Limits(output=1e-8, loss=1e-8, gradient=1e-6, statistics=1e-5)  # statistics are stored from a float32 run
FLOAT32 = Limits(output=1e-5, loss=1e-5, gradient=1e-4, statistics=1e-4)
FLOAT32_BATCH_NORM = Limits(output=1e-5, loss=1e-5, gradient=3e-2, statistics=1e-4)  # single ReLU decisions flip


def judge(fixture: Fixture) -> list[Line]:
    """All lines of a forward fixture; raises `FixtureError` if its outputs or its loss are of a kind not known here."""
    _require_classifier(fixture)
    official = weights(fixture)
    network, names = build(fixture, official)
    lines = [*_entries(fixture, network, names, official)]
    lines += _pass(fixture, copy.deepcopy(network).double(), names, FLOAT64, "float64")
    loose = FLOAT32_BATCH_NORM if has_batch_norm(network) else FLOAT32
    return lines + _pass(fixture, network.float(), names, loose, "float32")


def _require_classifier(fixture: Fixture) -> None:
    outputs, loss = list(fixture.need("outputs")), str(fixture.need("loss"))
    if outputs != ["logits"] or not loss.startswith("cross_entropy(logits, input_labels)"):
        raise FixtureError(
            "this fixture has outputs or a loss that the judge does not know",
            where=f"{fixture.path}: outputs {outputs}, loss {loss!r}",
            expected="logits with the cross-entropy of input_labels",
        )


def _entries(fixture: Fixture, network: nn.Module, names: OfficialNames, official: Mapping[str, Tensor]) -> list[Line]:
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
    clips = torch.from_numpy(fixture["input"]).to(dtype)
    labels = torch.from_numpy(fixture["input_labels"])

    def line(quantity: str, error: float, limit: float) -> Line:
        return Line(f"{precision} {quantity}", error, limit)

    with torch.no_grad():
        evaluated = network.eval()(clips)
    logits = network.train()(clips)
    loss = cross_entropy(logits, labels)
    torch.autograd.backward(loss)
    gradients = official_gradients(network, names)
    norms = [norm(gradients[name]) if name in gradients else math.nan for name in fixture.need("param_names")]
    lines = [
        line("logits, evaluation", relative_error(evaluated, fixture["logits_eval_f64"]), limits.output),
        line("logits, training", relative_error(logits, fixture["logits_train_f64"]), limits.output),
        line("loss", relative_error(loss, fixture["loss_train_f64"]), limits.loss),
        line(f"gradient norms ({len(norms)})", norm_error(norms, fixture["grad_norms_f64"]), limits.gradient),
    ]
    for name, reference in fixture.named("grad_f64").items():
        error = relative_error(gradients[name], reference) if name in gradients else math.inf
        lines.append(line(f"gradient of {name}", error, limits.gradient))
    state = names.to_official(network.state_dict(), network)
    for name, reference in fixture.named("bn_after").items():
        error = relative_error(state[name], reference) if name in state else math.inf
        lines.append(line(f"{name} after one pass", error, limits.statistics))
    return lines
