"""Official checkpoints to our parameters and back, by a table.

A model's `official.py` only lists where each official entry lives. Here are the two directions of that table, strict: every
official entry is used or named as unused, and every entry of ours is filled. Because a lean model joins several official
entries in one parameter, a row may point at a part of ours. The way back works on weights, gradients or anything else that has
one tensor per parameter of ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import WeightsError
from engine.parity.limits import Allowance
from shared_data.errors import UsageError, nearest, require, require_known
from shared_data.skeletons import skeleton

SHOWN = 8  # names shown of each kind of mismatch


@dataclass(frozen=True)
class Entry:
    """One official entry: ``official value == ours[rows].permute(order).reshape(shape)``.

    official  key in the official state dict
    ours      key in our state dict
    rows      part of ours along the leading axis (an index, or a slice such as ``slice(2, None, 3)``); None for all of it
    shape     official shape where it differs from that part's, e.g. the trailing (1, 1) of a 1x1 convolution
    order     permutation of the part's dimensions where the official layout is another one
    """

    official: str
    ours: str
    rows: int | slice | None = None
    shape: tuple[int, ...] | None = None
    order: tuple[int, ...] | None = None

    def part(self, tensor: Tensor) -> Tensor:
        """The place of this entry in our `tensor`: a view, its dimensions in official order."""
        part = tensor if self.rows is None else tensor[self.rows]
        return part if self.order is None else part.permute(self.order)

    @property
    def is_counter(self) -> bool:
        """BatchNorm's count of batches, without influence on any number when its momentum is fixed."""
        return self.official.endswith("num_batches_tracked")


def affine(official: str, ours: str, rows: int | slice | None = None, shape: tuple[int, ...] | None = None) -> Iterator[Entry]:
    """The weight (of official `shape`) and the bias of a linear layer, a convolution or a normalisation."""
    yield Entry(f"{official}.weight", f"{ours}.weight", rows, shape)
    yield Entry(f"{official}.bias", f"{ours}.bias", rows)


def batch_norm(official: str, ours: str, rows: slice | None = None) -> Iterator[Entry]:
    """The five entries of a BatchNorm, which may be some `rows` of a joined one of ours."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield Entry(f"{official}.{name}", f"{ours}.{name}", rows)
    yield Entry(f"{official}.num_batches_tracked", f"{ours}.num_batches_tracked")


@dataclass(frozen=True)
class OfficialNames:
    """How one model's official checkpoints and constructor arguments translate (what its `official.py` holds).

    table        our model -> its rows, in official order
    constructor  official constructor arguments -> ours, with the keywords of `engine.models.build`
    known        official constructor argument -> the argument of ours that it sets, or None if it only has to fit the others
    unused       official entries (fnmatch patterns) that the official model carries but never uses
    encoder_entries   of an official checkpoint of pretraining the entries of the encoder called so, under their names in `table`
    allowance    official constructor arguments -> how far the recorded numbers are off by themselves, or None
    """

    title: str
    table: Callable[[nn.Module], Sequence[Entry]]
    constructor: Callable[[Mapping[str, Any]], dict[str, Any]]
    known: Mapping[str, str | None] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    allowance: Callable[[Mapping[str, Any]], Allowance | None] = lambda arguments: None
    encoder_entries: Callable[[Mapping[str, Tensor], str], dict[str, Tensor]] | None = None

    def encoder_from_official(self, state: Mapping[str, Tensor], model: nn.Module, which: str = "") -> dict[str, Tensor]:
        """The ``encoder.*`` of our classifier's state dict, from an official one, of it or of pretraining.

        Raises `WeightsError` for what does not fit.
        """
        given = {strip_prefix(key): value for key, value in state.items()}
        rows = [row for row in self.table(model) if row.ours.startswith("encoder.")]
        if not all(row.official in given or row.is_counter for row in rows):
            given = self.encoder_entries(given, which) if self.encoder_entries else given
        else:
            given = {row.official: given[row.official] for row in rows if row.official in given}
        return from_official(rows, given, model, title=f"the encoder of {self.title}", part="encoder.")

    def from_official(self, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Our complete state dict from an official one; raises `WeightsError` with what does not fit."""
        return from_official(self.table(model), state, model, title=self.title, unused=self.unused)

    def to_official(self, tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Official names and shapes of `tensors`, which hold one tensor per key of ours (a state dict, gradients, ...)."""
        return to_official(self.table(model), tensors)


def known_words(official: Mapping[str, Any], known: Mapping[str, str | None]) -> dict[str, Any]:
    """The values of `official` constructor arguments under the names of ours that they set (see `OfficialNames.known`).

    Raises `UsageError` for an argument that is not `known`.
    """
    if unknown := [word for word in official if word not in known]:
        raise UsageError(
            f"unknown official constructor argument {', '.join(unknown)}{nearest(unknown[0], known)}",
            where="model_args",
            expected=", ".join(known),
        )
    return {ours: official[word] for word, ours in known.items() if ours is not None and word in official}


def layout_of(official: Mapping[str, Any], graphs: Mapping[str, str]) -> str:
    """The joint layout that the official argument `graph` stands for in `graphs`, whose first is meant where none is named.

    Raises `UsageError` for another graph, and unless `num_point`, where it is given, is the layout's number of joints.
    """
    graph = official.get("graph") or next(iter(graphs))
    require_known("graph", graph, graphs)
    joints = skeleton(graphs[graph]).joints
    points = official.get("num_point", joints)
    require(points == joints, "num_point", points, f"{joints}, the joints of {graph}")
    return graphs[graph]


def strip_prefix(key: str) -> str:
    """Drop everything up to the last ``module.``, which wrappers for several GPUs put in front of official keys."""
    return re.sub(r"^(?:.*\.)?module\.", "", key)


def to_official(table: Iterable[Entry], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official key -> value in official shape, in table order; keys of ours that are not in `tensors` are left out."""
    found = {}
    for row in table:
        if row.ours in tensors:
            part = row.part(tensors[row.ours])
            found[row.official] = part if row.shape is None else part.reshape(row.shape)
    return found


def from_official(
    table: Sequence[Entry],
    state: Mapping[str, Tensor],
    model: nn.Module,
    *,
    title: str = "the model",
    unused: Sequence[str] = (),
    part: str = "",
) -> dict[str, Tensor]:
    """Our state dict, or the entries of it that begin with `part`, filled from the official `state`.

    In the dtypes and on the devices of `model`. Raises `WeightsError` if an entry is missing, unexpected or of another shape;
    BatchNorm's batch counters alone may be absent (files from before PyTorch 0.4.1 lack them).
    """
    given = {strip_prefix(key): value for key, value in state.items()}
    target = {key: value.detach().clone() for key, value in model.state_dict().items() if key.startswith(part)}
    _require_complete(table, target)
    missing, misshapen = [], []
    for row in table:
        value = given.pop(row.official, None)
        if value is None:
            if not row.is_counter:
                missing.append(row.official)
            continue
        place = row.part(target[row.ours])
        shape = tuple(place.shape) if row.shape is None else row.shape
        if tuple(value.shape) != shape:
            misshapen.append(f"{row.official}: {_size(value.shape)} in the file, {_size(shape)} in the model")
            continue
        if row.is_counter:
            place.copy_(torch.maximum(place, value.to(place)))
        else:
            place.copy_(value.reshape(place.shape))
    unexpected = [key for key in given if not any(fnmatch(key, pattern) for pattern in unused)]
    if missing or unexpected or misshapen:
        raise WeightsError(
            f"the weights do not fit {title}",
            where="; ".join(
                f"{len(names)} {what}: {_listed(names)}"
                for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
                if names
            ),
            expected=f"the {len(table)} entries of the official state dict of {title}",
            next_step="check that the checkpoint is of this model, and the class count, people and skeleton it was trained with",
        )
    return target


def _require_complete(table: Sequence[Entry], target: Mapping[str, Tensor]) -> None:
    """The table itself must fill every element of every entry of ours; a gap is a bug in the model's `official.py`."""
    filled = {key: torch.zeros(value.shape, dtype=torch.bool) for key, value in target.items()}
    for row in table:
        mask = filled[row.ours]
        if row.rows is None:
            mask.fill_(True)
        else:
            mask[row.rows] = True
    gaps = [key for key, mask in filled.items() if not bool(mask.all())]
    if gaps:
        raise WeightsError(f"the table of official names leaves {_listed(gaps)} unfilled", next_step="complete official.py")


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
