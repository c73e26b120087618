"""Judging what was recorded of learning without labels: one pass of an objective, and twelve steps with queues and followers.

The float64 run decides, as in `engine.parity.forward` and `engine.parity.trajectory`, whose limits these are. An official.py says
what an objective's arguments are (``pretraining_arguments``), where its entries live (``pretraining_table``), and what of a
recorded pass is which of ours (``recorded``).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from engine import models
from engine.official import Entry, from_official, to_official
from engine.optimizers import build_optimizer, set_learning_rate
from engine.parity.batches import view_batches
from engine.parity.fixture import Fixture, FixtureError, start_weights, weights
from engine.parity.limits import FLOAT64
from engine.parity.lines import NORM_FLOOR, Line, norm_error, relative_error, value_error
from engine.parity.network import constants, model_of, norm, without_dropout
from engine.parity.trajectory import EXACT, SINGLE, SPREAD, stored
from engine.pretraining.step import PretrainStep
from engine.schedules import epoch_learning_rate, fraction_learning_rate
from layers.recompute import still

QUERY = "encoder_q."
"""In front of the names of a query encoder's entries, which recorded runs leave away."""
KEY = "encoder_k."
KNOWN = {
    "optimizer", "momentum", "nesterov", "weight_decay", "betas", "eps", "base_lr", "min_lr", "schedule", "warmup_epochs",
    "iterations_per_epoch", "epochs", "queue_size", "key_momentum", "temperature", "mlp", "dim", "weights", "mask_ratio",
    "motion_stride", "motion_aware_tau",
}  # fmt: skip


def is_pretraining(fixture: Fixture) -> bool:
    """Whether a fixture is of learning without labels: its loss is of no labels, or its network makes no logits."""
    if "steps" in fixture.meta:
        batch = fixture.meta.get("batch", {})
        return batch.get("kind") == "skeleton" and not batch.get("classes")
    return "outputs" in fixture.meta and "logits" not in fixture.meta["outputs"]


def judge(fixture: Fixture, *, steps: int | None = None) -> list[Line]:
    """All lines of a fixture, or of the first `steps` of a training run; raises `FixtureError` for settings not known here."""
    return _trajectory(fixture, steps or int(fixture.meta["steps"])) if "steps" in fixture.meta else _pass(fixture)


# -- one pass ---------------------------------------------------------------------------------------------------------------


def _pass(fixture: Fixture) -> list[Line]:
    """Outputs, loss, gradients and BatchNorm statistics of one branch, or one objective, in float64."""
    official = _official(fixture)
    objective, rows = _built(fixture, official, weights(fixture, constants=constants(fixture)), _called_with(fixture))
    inputs = {name: _double(fixture[name]) for name in fixture.arrays if name.startswith("input")}
    with torch.no_grad(), still(objective):
        evaluated = official.recorded(objective.eval(), inputs)
    found = official.recorded(objective.train(), inputs)
    torch.autograd.backward(found["loss"])
    parameters = dict(objective.named_parameters())
    gradients = to_official(rows, {name: p.grad for name, p in parameters.items() if p.grad is not None})
    norms = [norm(_of(gradients, name)) if _has(gradients, name) else math.nan for name in fixture.need("param_names")]
    lines = [_entries(fixture, objective, rows)]
    for name in fixture.need("outputs"):
        for mode, ours in (("eval", evaluated), ("train", found)):
            if f"{name}_{mode}_f64" in fixture.arrays:
                error = relative_error(ours[name], fixture[f"{name}_{mode}_f64"])
                lines.append(Line(f"float64 {name}, {mode}", error, FLOAT64.output))
    reference = fixture["loss_train_f64"]
    lines.append(Line("float64 loss", relative_error(found["loss"].reshape(reference.shape), reference), FLOAT64.loss))
    lines.append(
        Line(f"float64 gradient norms ({len(norms)})", norm_error(norms, fixture["grad_norms_f64"]), FLOAT64.gradient)
    )  # fmt: skip
    noise = NORM_FLOOR * float(np.nanmax(fixture["grad_norms_f64"]))
    for name, reference in fixture.named("grad_f64").items():
        error = relative_error(_of(gradients, name), reference, noise=noise) if _has(gradients, name) else math.inf
        lines.append(Line(f"float64 gradient of {name}", error, FLOAT64.gradient))
    state = to_official(rows, objective.state_dict())
    for name, reference in fixture.named("bn_after").items():
        lines.append(Line(f"float64 {name} after one pass", relative_error(_of(state, name), reference), FLOAT64.statistics))
    return lines


def _called_with(fixture: Fixture) -> dict[str, float]:
    """The settings in the words of the recorded call, "loss = model(input, mask_ratio=0.9)", by name."""
    said = re.findall(r"(\w+)=(\d+(?:\.\d+)?)", str(fixture.need("forward")))
    return {name: float(value) if "." in value else int(value) for name, value in said}


def _entries(fixture: Fixture, objective: nn.Module, rows: list[Entry]) -> Line:
    """Of the official entries those that do not come back as they went."""
    recorded = {name: tuple(shape) for name, shape, *_ in fixture.need("entries")}
    back = to_official(rows, objective.state_dict())
    lost = [name for name, shape in recorded.items() if not _has(back, name) or tuple(_of(back, name).shape) != shape]
    return Line(f"official entries: {len(recorded)}", len(lost), 0.0)


# -- a training run ---------------------------------------------------------------------------------------------------------


def _trajectory(fixture: Fixture, steps: int) -> list[Line]:
    hyper, official = _settings(fixture), _official(fixture)
    start = _start(fixture, official)
    objective, rows = _built(fixture, official, start, hyper)
    run = _train(fixture, hyper, objective.train(), rows, steps)
    return _lines(fixture, run)


def _settings(fixture: Fixture) -> dict[str, Any]:
    hyper = dict(fixture.need("hyper"))
    unknown = sorted(set(hyper) - KNOWN)
    if unknown or hyper.get("optimizer") not in ("SGD", "AdamW", "Adam"):
        raise FixtureError(
            "this trajectory has settings that the judge does not know",
            where=f"{fixture.path}: {', '.join(unknown) or hyper.get('optimizer')}", expected=", ".join(sorted(KNOWN)),
        )  # fmt: skip
    return hyper


def _start(fixture: Fixture, official: ModuleType) -> dict[str, Tensor]:
    """The state before the first step: a momentum encoder is a copy of its query, queues are recorded."""
    own = getattr(official, "constants", None)
    computed = own(fixture.need("constructor_args"), rounded=True) if own else None
    state: dict[str, Tensor] = start_weights(fixture, constants=computed)
    queues: list[str] = fixture.meta.get("queues") or []
    if not queues:
        return state
    state = {f"{role}{name}": value for role in (QUERY, KEY) for name, value in state.items()}
    for name in queues:
        state[name] = torch.from_numpy(fixture[f"start/{name}"])
        state[f"{name}_ptr"] = torch.zeros(1, dtype=torch.int64)
    return state


def _train(fixture: Fixture, hyper: Mapping[str, Any], objective: nn.Module, rows: list[Entry], steps: int) -> dict[str, Any]:
    """Series by the names of the fixture, and the state at the end."""
    optimizer = build_optimizer(
        objective.parameters(), name=hyper["optimizer"], lr=hyper["base_lr"], weight_decay=hyper["weight_decay"],
        momentum=hyper.get("momentum", 0.0), nesterov=hyper.get("nesterov", False), betas=hyper.get("betas", (0.9, 0.999)),
        decay_vectors=hyper["optimizer"] != "AdamW",  # as all that use it
    )  # fmt: skip
    step = PretrainStep(objective, optimizer)
    names, queues = fixture.need("param_names"), fixture.meta.get("queues") or []
    start = {name: _of(_named(rows, objective), name).clone() for name in names}
    series: dict[str, list[Any]] = {}
    for number, batch in enumerate(view_batches(fixture)[:steps]):
        lr = _learning_rate(hyper, number)
        set_learning_rate(optimizer, lr)
        with _noise(batch.noise):
            result = step(torch.from_numpy(batch.views).double(), torch.arange(len(batch.views)))
        now, state = _named(rows, objective), to_official(rows, objective.state_dict())
        said = {
            "lr": lr, "loss": float(result.loss), "grad_norm": float(result.grad_norm),
            "param_norm": _whole(_of(now, name) for name in names),
            "key_param_norm": _whole(value for name, value in now.items() if name.startswith(KEY)),
            **{name: float(value) for name, value in result.terms.items()},
        }  # fmt: skip
        for queue in queues:
            said[f"{queue}_ptr"], said[f"{queue}_checksum"] = int(state[f"{queue}_ptr"]), _checksum(state[queue])
        for name, value in said.items():
            series.setdefault(name, []).append(value)
        changes = [norm(_of(now, name) - start[name]) for name in names]
        series.setdefault("changes", []).append(changes)
    return {"series": series, "end": to_official(rows, objective.state_dict())}


def _learning_rate(hyper: Mapping[str, Any], step: int) -> float:
    per_epoch = hyper["iterations_per_epoch"]
    if "min_lr" in hyper:
        return fraction_learning_rate(
            step / per_epoch, base_lr=hyper["base_lr"], num_epoch=hyper["epochs"], warm_up_epoch=hyper.get("warmup_epochs", 0),
            min_lr=hyper["min_lr"],
        )  # fmt: skip
    return epoch_learning_rate(step // per_epoch, base_lr=hyper["base_lr"], step=hyper.get("schedule", ()))


def _lines(fixture: Fixture, run: Mapping[str, Any]) -> list[Line]:
    series = run["series"]
    spread = fixture.meta.get("measured", {}).get("f64_permuted_last_bit", {}).get("loss", [0.0])
    later = max(EXACT, SPREAD * max(spread))
    lines = []
    for name, values in series.items():
        recorded = f"{name}_f64" if f"{name}_f64" in fixture.arrays else name
        if recorded not in fixture.arrays or name == "changes":
            continue
        reference = fixture[recorded][: len(values)]
        lines.append(Line(f"float64 {name}, step 1", value_error(values[:1], reference[:1]), EXACT))
        lines.append(Line(f"float64 {name}, all {len(values)} steps", value_error(values, reference), later))
    known = {line.quantity.split()[1].rstrip(",") for line in lines}
    missing = [name for name in fixture.need("series") if name not in known]
    lines.append(Line("recorded series: " + (", ".join(missing) + " not computed" if missing else "all"), len(missing), 0.0))
    if len(series["loss"]) < int(fixture.meta["steps"]):
        return lines
    lines += [
        Line(
            f"float64 change_norms_{when}", norm_error(series["changes"][place], fixture[f"change_norms_{when}"]), SINGLE * later
        )
        for when, place in (("first", 0), ("end", -1))
    ]
    for prefix in ("end", "bn_end"):
        for name, reference in fixture.named(prefix).items():
            value = stored(_of(run["end"], name), reference) if _has(run["end"], name) else None
            error = math.inf if value is None else relative_error(value, reference)
            lines.append(Line(f"float64 {name} at the end", error, SINGLE * later))
    return lines


# -- pieces -----------------------------------------------------------------------------------------------------------------


def _official(fixture: Fixture) -> ModuleType:
    card, _ = model_of(fixture)
    official = models.import_module(card, "official")
    if not hasattr(official, "pretraining_table"):
        raise FixtureError(f"{card.name} has no objective whose official names are known", where=str(fixture.path))
    return official


def _built(
    fixture: Fixture, official: ModuleType, state: Mapping[str, Tensor], hyper: Mapping[str, Any]
) -> tuple[nn.Module, list[Entry]]:
    """The objective with the recorded weights, nothing dropped, and the rows of its table that the recording is about."""
    card, variant = model_of(fixture)
    spec = fixture.meta.get("batch") or dict(zip("NCTVM", fixture["input"].shape, strict=True))
    taken = models.arguments(card, "pretrain")
    measured = {name: value for name, value in {**variant, "frames": spec["T"], "people": spec["M"]}.items() if name in taken}
    arguments = {**official.pretraining_arguments(fixture.need("constructor_args"), hyper), **measured}
    objective = without_dropout(models.build_objective(card, "pretrain", **arguments)).double()
    rows, own = list(official.pretraining_table(objective)), objective.state_dict()
    given = {row.official: value for row in rows if (value := _given(state, row.official)) is not None}
    wanted = [row for row in rows if row.official in given]
    filled = {row.ours for row in wanted}
    ours = {key: value for key, value in own.items() if key not in filled}  # ids of queues, a branch that was not recorded
    objective.load_state_dict(from_official([*wanted, *(Entry(key, key) for key in ours)], {**given, **ours}, objective))
    names = {name for row in rows for name in (row.official, row.official.removeprefix(QUERY))}
    if unused := [name for name in state if name not in names]:
        raise FixtureError(f"{len(unused)} recorded entries have no place in ours: {unused[0]}", where=str(fixture.path))
    return objective, rows


def _given(state: Mapping[str, Tensor], name: str) -> Tensor | None:
    """The entry called `name`, or so but for the query's prefix."""
    return state.get(name, state.get(name.removeprefix(QUERY)) if name.startswith(QUERY) else None)


def _has(tensors: Mapping[str, Tensor], name: str) -> bool:
    return name in tensors or f"{QUERY}{name}" in tensors


def _of(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The tensor called `name`, or so with the query's prefix, which recordings leave away."""
    return tensors[name] if name in tensors else tensors[f"{QUERY}{name}"]


def _named(rows: list[Entry], objective: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in to_official(rows, dict(objective.named_parameters())).items()}


def _whole(tensors: Any) -> float:
    return math.sqrt(sum(norm(tensor) ** 2 for tensor in tensors))


def _checksum(queue: Tensor) -> float:
    d, k = (torch.arange(n, dtype=torch.float64) for n in queue.shape)
    return float((queue.double() * ((31 * d[:, None] + 17 * k) % 101) / 101).sum())


def _double(value: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(value)
    return tensor.double() if value.dtype.kind == "f" else tensor


@contextlib.contextmanager
def _noise(recorded: np.ndarray | None) -> Iterator[None]:
    """Inside, ``torch.rand`` of the recorded shape gives the recorded numbers."""
    if recorded is None:
        yield
        return

    def given(*size: Any, **kind: Any) -> Tensor:
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
        if shape != recorded.shape:
            raise FixtureError(f"random numbers of shape {shape} are asked for, {recorded.shape} are recorded")
        return torch.from_numpy(recorded).to(kind.get("dtype") or torch.float64)

    with mock.patch.object(torch, "rand", given):
        yield
