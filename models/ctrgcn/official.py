"""Where each entry of an official CTR-GCN checkpoint lives in `network.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from engine.official import Entry, affine, batch_norm, known_words, layout_of
from models.ctrgcn.network import CTRGCN, SUBSETS, MultiScaleTemporalConv, RefinedGraphConv
from shared_data.errors import require

GRAPHS = {"graph.ntu_rgb_d.Graph": "ntu25", "graph.ucla.Graph": "ucla20"}

KNOWN = {
    "num_class": "num_classes",
    "num_point": None,
    "num_person": "people",
    "graph": "skeleton",
    "graph_args": None,
    "in_channels": "in_channels",
    "drop_out": "dropout",
    "adaptive": "adaptive",
}


def constructor(official: Mapping[str, Any]) -> dict[str, Any]:
    """Official ``Model(num_class, num_point, num_person, graph, graph_args, in_channels, drop_out, adaptive)`` -> ours."""
    said = known_words(official, KNOWN)
    labeling = (official.get("graph_args") or {}).get("labeling_mode", "spatial")
    require(labeling == "spatial", "graph_args", official.get("graph_args"), "labeling_mode spatial")
    return {"num_classes": 60, "people": 2, **said, "skeleton": layout_of(official, GRAPHS)}


def table(model: nn.Module) -> list[Entry]:
    """Every entry of the official state dict, in its order."""
    assert isinstance(model, CTRGCN)
    rows = list(batch_norm("data_bn", "data_bn"))
    for i, block in enumerate(model.blocks):
        official, ours = f"l{i + 1}", f"blocks.{i}"
        rows += _graph(f"{official}.gcn1", f"{ours}.gcn", block.gcn)
        rows += _temporal(f"{official}.tcn1", f"{ours}.tcn", block.tcn)
        if isinstance(block.residual, nn.Sequential):
            rows += affine(f"{official}.residual.conv", f"{ours}.residual.0")
            rows += batch_norm(f"{official}.residual.bn", f"{ours}.residual.1")
    return [*rows, *affine("fc", "fc")]


def _graph(official: str, ours: str, gcn: RefinedGraphConv) -> Iterator[Entry]:
    _, c_out, r = gcn.refine.shape
    if isinstance(gcn.graph, nn.Parameter):
        yield Entry(f"{official}.PA", f"{ours}.graph")
    yield Entry(f"{official}.alpha", f"{ours}.alpha")
    for s in range(SUBSETS):
        yield from affine(f"{official}.convs.{s}.conv1", f"{ours}.relate", slice(s * r, (s + 1) * r))
        yield from affine(f"{official}.convs.{s}.conv2", f"{ours}.relate", slice((SUBSETS + s) * r, (SUBSETS + s + 1) * r))
        yield from affine(f"{official}.convs.{s}.conv3", f"{ours}.value", slice(s, None, SUBSETS))
        yield Entry(f"{official}.convs.{s}.conv4.weight", f"{ours}.refine", s, (c_out, r, 1, 1))
        yield Entry(f"{official}.convs.{s}.conv4.bias", f"{ours}.refine_bias", s)
    if isinstance(gcn.down, nn.Sequential):
        yield from affine(f"{official}.down.0", f"{ours}.down.0")
        yield from batch_norm(f"{official}.down.1", f"{ours}.down.1")
    yield from batch_norm(f"{official}.bn", f"{ours}.bn")


def _temporal(official: str, ours: str, tcn: MultiScaleTemporalConv) -> Iterator[Entry]:
    c = tcn.near.out_channels
    branch = [slice(i * c, (i + 1) * c) for i in range(4)]
    for i, rows in enumerate(branch[:3]):
        name = f"{official}.branches.{i}"
        yield from affine(f"{name}.0", f"{ours}.enter", rows)
        yield from batch_norm(f"{name}.1", f"{ours}.enter_bn", rows)
        if i < 2:
            yield from affine(f"{name}.3.conv", f"{ours}.{('near', 'far')[i]}", shape=(c, c, 5, 1))  # here (c, c, 1, 5)
        yield from batch_norm(f"{name}.{'3.bn' if i < 2 else '4'}", f"{ours}.bn", rows)
    yield from affine(f"{official}.branches.3.0", f"{ours}.skip")
    yield from batch_norm(f"{official}.branches.3.1", f"{ours}.bn", branch[3])
