"""Where each entry of an official SCD-Net checkpoint lives in `network.py` and `pretraining.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.official import Entry, affine, batch_norm, known_words, strip_prefix
from engine.official_ctr import entries
from engine.official_transformer import embedding, post_norm_layer
from models.scdnet.network import Classifier, CluePath, Encoder
from models.scdnet.pretraining import KINDS, Branch, Disentanglement
from shared_data.errors import require
from shared_data.skeletons import skeleton

KNOWN = {"hidden_size": "width", "num_head": "heads", "num_layer": "layers", "num_class": "num_classes"}

SIZE: dict[str, Any] = {"skeleton": "ntu25", "people": 2, "frames": 64}
"""What the official code has written into it."""

HYPER = ("dim", "queue_size", "key_momentum", "temperature")
"""Settings of a recorded training run that are arguments of the objective, by the same names."""

PRETRAINING_OURS = ("queues.*.ids",)
"""Entries of our objective (fnmatch patterns) that an official file has not."""


def constructor(official: Mapping[str, Any]) -> dict[str, Any]:
    """Official ``(hidden_size, num_head, num_layer, num_class)`` -> ours."""
    return {"num_classes": 60, **SIZE, **known_words(official, KNOWN)}


def pretraining_arguments(constructor_args: Mapping[str, Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Our objective's arguments for an official branch's, and for the settings of its run where they are recorded."""
    said = known_words(constructor_args, {**KNOWN, "num_class": "dim"})
    settings = {name: hyper[name] for name in HYPER if name in hyper}
    dim = said.get("dim", settings.get("dim"))
    require(settings.get("dim", dim) == dim, "dim", settings.get("dim"), f"{dim}, the numbers that a branch ends in")
    return {**SIZE, "skeleton": skeleton(SIZE["skeleton"]), **settings, **said}


def table(model: nn.Module) -> list[Entry]:
    """Every entry of the official state dict after pretraining, in its order."""
    assert isinstance(model, Classifier)
    return [*_encoder("encoder", "encoder", model.encoder), *affine("fc", "fc")]


def pretraining_table(objective: nn.Module) -> list[Entry]:
    """Every entry of the official state dict of pretraining."""
    assert isinstance(objective, Disentanglement)
    rows = [*_branch("encoder_q.", "query", objective.query), *_branch("encoder_k.", "key", objective.key)]
    for kind in KINDS:
        rows.append(Entry(f"{kind}_queue", f"queues.{kind}.features"))
        rows.append(Entry(f"{kind}_queue_ptr", f"queues.{kind}.pointer"))
    return rows


def encoder_entries(state: Mapping[str, Tensor], name: str = "") -> dict[str, Tensor]:
    """Those entries of an official pretraining checkpoint that the classifier after it starts from, by its official names."""
    require(name == "", "encoder", name, "none: there is but one")
    prefix = "encoder_q."
    given = {strip_prefix(key): value for key, value in state.items()}
    return {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(f"{prefix}encoder.")}


def recorded(objective: nn.Module, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is recorded of one branch: its three embeddings, not of unit length yet, and a stand-in for the contrastive loss."""
    assert isinstance(objective, Disentanglement)
    found = {f"z{kind}": value for kind, value in objective.query(arrays["input"]).items()}
    losses = [F.cross_entropy(value, arrays["input_labels"]) for value in found.values()]
    return {**found, "loss": torch.stack(losses).sum()}


def _branch(official: str, ours: str, branch: Branch) -> Iterator[Entry]:
    """`official` is "", or ends in a dot."""
    yield from _encoder(f"{official}encoder", f"{ours}.encoder", branch.encoder)
    for kind in KINDS:
        for i in (0, 2):
            yield from affine(f"{official}{kind}_proj.{i}", f"{ours}.projectors.{kind}.{i}")


def _encoder(official: str, ours: str, encoder: Encoder) -> Iterator[Entry]:
    paths = {"t": ("temporal", encoder.temporal), "s": ("spatial", encoder.spatial)}
    for kind, (name, path) in paths.items():
        yield from _stem(f"{official}.gcn_{kind}", f"{ours}.{name}", path)
    for kind, (name, _) in paths.items():
        yield from embedding(f"{official}.channel_{kind}", f"{ours}.{name}.embed")
    for kind, (name, path) in paths.items():
        for i in range(len(path.layers)):
            yield from post_norm_layer(f"{official}.{kind}_encoder.layers.{i}", f"{ours}.{name}.layers.{i}")


def _stem(official: str, ours: str, path: CluePath) -> Iterator[Entry]:
    yield from batch_norm(f"{official}.data_bn", f"{ours}.data_bn")
    for i, block in enumerate(path.blocks):
        yield from entries(f"{official}.l{i + 1}", f"{ours}.blocks.{i}", block)
