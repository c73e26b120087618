"""Judging twelve training steps: our optimizer, schedule, step and BatchNorm updates against the official trainer's.

The same `TrainStep`, optimizer and schedule as in `sal train`. The float64 run decides; float32 is a smoke test of the first
three steps (single ReLU decisions flip, and training amplifies them). Limits are those of the trajectories' README.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.assembly import new_optimizer
from engine.config import RunConfig
from engine.losses import build_loss
from engine.official import OfficialNames
from engine.optimizers import set_learning_rate
from engine.parity.batches import skeleton_batches
from engine.parity.fixture import Fixture, FixtureError, start_weights
from engine.parity.limits import Allowance
from engine.parity.lines import Line, norm_error, relative_error, value_error
from engine.parity.network import build, norm, official_parameters
from engine.schedules import epoch_learning_rate, fraction_learning_rate, iteration_learning_rate
from engine.step import TrainStep

EXACT = 1e-9  # float64, relative
SPREAD = 100.0  # times the spread of the official run under a change of the last bit
SINGLE = 10.0  # tensors and change norms may be this much further off than the loss
FLOAT32 = 10.0  # times the error of the official float32 run
FLOAT32_FLOOR = 1e-6  # a few units in the last place
EARLY = 3  # steps before training has amplified anything
STORED = 8  # data_bn of the wide networks: one value of so many
KNOWN = {
    "optimizer", "momentum", "nesterov", "weight_decay", "betas", "eps", "base_lr", "min_lr", "warmup_lr", "lr_decay_rate",
    "gamma", "warm_up_epoch", "step", "iterations_per_epoch", "epochs", "label_smoothing", "clip_norm", "divergence_weight",
    "batch_size", "forward_batch_size", "layer_decay", "warmup_epochs",
}  # fmt: skip
LOSSES = (
    "cross_entropy(logits, labels", "per piece cross_entropy(logits, labels", "0.9 * negative log-likelihood + 0.1 * mean",
    "cross entropy with label smoothing",
)  # fmt: skip
ADAM = {"betas": [0.9, 0.999], "eps": 1e-8}  # torch's own, which the official trainers leave as they are


@dataclass
class Run:
    """What twelve steps of ours left behind; series have one number a step."""

    loss: list[float] = field(default_factory=list)
    lr: list[float | list[float]] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    param_norm: list[float] = field(default_factory=list)
    change_norms_first: list[float] = field(default_factory=list)
    change_norms_end: list[float] = field(default_factory=list)
    end: dict[str, Tensor] = field(default_factory=dict)


def judge(fixture: Fixture) -> list[Line]:
    """All lines of a trajectory; raises `FixtureError` if its settings, batches or loss are not known here."""
    hyper = _settings(fixture)
    network, names = build(fixture, start_weights(fixture))
    exact = train(fixture, hyper, copy.deepcopy(network).double(), names, int(fixture.need("steps")))
    smoke = train(fixture, hyper, network.float(), names, min(EARLY, int(fixture.need("steps"))))
    allowed = names.allowance(fixture.need("constructor_args")) or Allowance("")
    lines = (replace(line, reason=allowed.reason) for line in _float64(fixture, exact, allowed))
    return [*lines, *_float32(fixture, smoke)]


def _settings(fixture: Fixture) -> dict[str, Any]:
    hyper = dict(fixture.need("hyper"))
    loss = str(fixture.need("loss"))
    unknown = sorted(set(hyper) - KNOWN)
    unknown += [key for key, usual in ADAM.items() if hyper.get(key, usual) != usual]
    if unknown or hyper.get("optimizer") not in ("SGD", "AdamW", "Adam") or not loss.startswith(LOSSES):
        raise FixtureError(
            "this trajectory has settings or a loss that the judge does not know",
            where=f"{fixture.path}: {', '.join(unknown) or hyper.get('optimizer')}, loss {loss!r}",
            expected=f"{', '.join(sorted(KNOWN))}; the cross-entropy of logits and labels",
        )
    return hyper


def train(fixture: Fixture, hyper: dict[str, Any], network: nn.Module, names: OfficialNames, steps: int) -> Run:
    """The first `steps` steps of the recorded run, with our trainer's parts, in the dtype of `network`."""
    dtype = next(network.parameters()).dtype
    config = RunConfig(
        optimizer=hyper["optimizer"], base_lr=hyper["base_lr"], weight_decay=hyper["weight_decay"],
        momentum=hyper.get("momentum", 0.0), nesterov=hyper.get("nesterov", False), layer_decay=hyper.get("layer_decay", 1.0),
        decay_vectors=all(group["weight_decay"] for group in fixture.meta.get("param_groups", ())),
    )  # fmt: skip
    optimizer = new_optimizer(config, network)
    loss = build_loss("CE", label_smoothing=hyper.get("label_smoothing", 0.0))
    step = TrainStep(
        network.train(), optimizer, loss, clip_grad=hyper.get("clip_norm"), micro_batch=hyper.get("forward_batch_size"),
        penalty=hyper.get("divergence_weight", 0.0),
    )  # fmt: skip
    start, run = official_parameters(network, names), Run()
    for i, batch in enumerate(skeleton_batches(fixture)[:steps]):
        lr = _learning_rate(hyper, i)
        set_learning_rate(optimizer, lr)
        positions = None if batch.positions is None else torch.from_numpy(batch.positions).to(dtype)
        result = step(torch.from_numpy(batch.clips).to(dtype), torch.from_numpy(batch.labels), positions)
        parameters = official_parameters(network, names)
        run.lr.append(_of_groups(fixture, optimizer, network, names) or lr)
        run.loss.append(float(result.loss))
        run.grad_norm.append(float(result.grad_norm))
        run.param_norm.append(math.sqrt(sum(norm(p) ** 2 for p in parameters.values())))
        run.change_norms_end = [
            norm(parameters[n] - start[n]) if n in parameters else math.nan for n in fixture.need("param_names")
        ]
        run.change_norms_first = run.change_norms_first or run.change_norms_end
    run.end = names.to_official(network.state_dict(), network)
    return run


def _of_groups(fixture: Fixture, optimizer: torch.optim.Optimizer, network: nn.Module, names: OfficialNames) -> list[float]:
    """Our learning rate for each of the official groups of parameters; none where all are one."""
    rate_of = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    ours = {name: rate_of[p] for name, p in network.named_parameters() if p in rate_of}  # some are not trained
    rates = {row.official: ours[row.ours] for row in names.table(network) if row.ours in ours}
    groups = [{rates[name] for name in group["params"]} for group in fixture.meta.get("param_groups", ())]
    return [found.pop() if len(found) == 1 else math.nan for found in groups]


def _learning_rate(hyper: dict[str, Any], step: int) -> float:
    """That of `step`, by the rule whose settings the trajectory has."""
    warm_up, per_epoch = hyper.get("warm_up_epoch", 0), hyper["iterations_per_epoch"]
    if "warmup_epochs" in hyper:
        return fraction_learning_rate(
            step / per_epoch, base_lr=hyper["base_lr"], num_epoch=hyper["epochs"], warm_up_epoch=hyper["warmup_epochs"],
            min_lr=hyper["min_lr"],
        )  # fmt: skip
    if "min_lr" in hyper:
        return iteration_learning_rate(
            step, base_lr=hyper["base_lr"], iterations=hyper["epochs"] * per_epoch, warm_up_iterations=warm_up * per_epoch,
            warm_up_lr=hyper["warmup_lr"], min_lr=hyper["min_lr"],
        )  # fmt: skip
    return epoch_learning_rate(
        step // per_epoch, base_lr=hyper["base_lr"], warm_up_epoch=warm_up, step=hyper.get("step", ()),
        lr_decay_rate=hyper.get("lr_decay_rate", hyper.get("gamma", 1.0)),
    )  # fmt: skip


def _float64(fixture: Fixture, run: Run, allowed: Allowance) -> list[Line]:
    measured = fixture.meta.get("measured", {}).get("f64_permuted_last_bit", {})
    spread, changed = measured.get("loss", [0.0]), SPREAD * float(measured.get("change_norms_end", 0.0))
    first, later = max(EXACT, allowed.early), max(EXACT, SPREAD * max(spread))
    lines = [Line("float64 learning rate", value_error(run.lr, fixture["lr"]), EXACT)]
    for name in ("loss", "grad_norm", "param_norm"):
        ours, official = getattr(run, name), fixture[f"{name}_f64"]
        lines.append(Line(f"float64 {name}, step 1", value_error(ours[:1], official[:1]), first))
        if allowed.early:
            n = min(EARLY, len(ours))
            lines.append(Line(f"float64 {name}, {n} steps", value_error(ours[:n], official[:n]), first))
        limit = max(later, allowed.late.get(name, 0.0))
        lines.append(Line(f"float64 {name}, all {len(ours)} steps", value_error(ours, official), limit))
    changes = norm_error(run.change_norms_first, fixture["change_norms_first"])
    lines.append(Line("float64 change_norms_first", changes, SINGLE * max(first, later)))
    changes = norm_error(run.change_norms_end, fixture["change_norms_end"])
    limit = max(SINGLE * later, changed, allowed.late.get("change_norms_end", 0.0))
    lines.append(Line("float64 change_norms_end", changes, limit))
    for prefix in ("end", "bn_end"):
        for name, reference in fixture.named(prefix).items():
            error = relative_error(stored(run.end[name], reference), reference) if name in run.end else math.inf
            limit = max(SINGLE * later, allowed.late.get(prefix, 0.0))
            lines.append(Line(f"float64 {name} at the end", error, limit))
    return lines


def stored(value: Tensor, reference: NDArray[Any]) -> Tensor:
    """Of long vectors a trajectory stores every eighth value; anything else is compared as it is."""
    return value[::STORED] if value.dim() == 1 and len(value) == STORED * len(reference) else value


def _float32(fixture: Fixture, run: Run) -> list[Line]:
    measured = fixture.meta.get("measured", {}).get("f32", {})
    lines = []
    for name in ("loss", "param_norm"):
        spread, ours, official = measured.get(name, [0.0]), getattr(run, name), fixture[f"{name}_f64"]
        for what, n in (("step 1", 1), (f"steps 1 to {len(ours)}", len(ours))):
            limit = max(FLOAT32 * max(spread[:n]), FLOAT32_FLOOR)
            lines.append(Line(f"float32 {name}, {what}", value_error(ours[:n], official[:n]), limit))
    return lines
