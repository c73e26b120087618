"""Where each entry of an official CTR-GCN checkpoint lives in `network.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from engine.official import Entry, affine, batch_norm
from models.ctrgcn.network import CTRGCN, SUBSETS, MultiScaleTemporalConv, RefinedGraphConv
from shared_data.errors import LabError

GRAPHS = {"graph.ntu_rgb_d.Graph": "ntu25", "graph.ucla.Graph": "ucla20"}

UNUSED: tuple[str, ...] = ()


def constructor(official: Mapping[str, Any]) -> dict[str, Any]:
    """Official ``Model(num_class, num_point, num_person, graph, graph_args, in_channels, drop_out, adaptive)`` -> ours."""
    known = {"num_class", "num_point", "num_person", "graph", "graph_args", "in_channels", "drop_out", "adaptive"}
    if unknown := sorted(set(official) - known):
        raise LabError(f"unknown constructor argument {', '.join(unknown)}", expected=", ".join(sorted(known)))
    graph = official.get("graph", "graph.ntu_rgb_d.Graph")
    if graph not in GRAPHS:
        raise LabError(f"unknown graph {graph!r}", where="constructor argument graph", expected=", ".join(GRAPHS))
    labeling = (official.get("graph_args") or {}).get("labeling_mode", "spatial")
    if labeling != "spatial":
        raise LabError(f"unknown labeling mode {labeling!r}", where="constructor argument graph_args", expected="spatial")
    joints = int(GRAPHS[graph][-2:])
    if int(official.get("num_point", joints)) != joints:
        raise LabError(f"num_point is {official['num_point']}, but {graph} has {joints} joints")
    return {
        "num_classes": int(official.get("num_class", 60)),
        "skeleton": GRAPHS[graph],
        "people": int(official.get("num_person", 2)),
        "in_channels": int(official.get("in_channels", 3)),
        "dropout": float(official.get("drop_out", 0.0)),
        "adaptive": bool(official.get("adaptive", True)),
    }


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
            yield from _temporal_kernel(f"{name}.3.conv", f"{ours}.{('near', 'far')[i]}", c)
        yield from batch_norm(f"{name}.{'3.bn' if i < 2 else '4'}", f"{ours}.bn", rows)
    yield from affine(f"{official}.branches.3.0", f"{ours}.skip")
    yield from batch_norm(f"{official}.branches.3.1", f"{ours}.bn", branch[3])


def _temporal_kernel(official: str, ours: str, c: int) -> Iterator[Entry]:
    """Kernels over time: (c, c, 5, 1) officially, (c, c, 1, 5) here where time is innermost."""
    yield Entry(f"{official}.weight", f"{ours}.weight", None, (c, c, 5, 1))
    yield Entry(f"{official}.bias", f"{ours}.bias")
