"""Where each entry of an official Hyper-GCN checkpoint lives in `network.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from engine.official import Entry, affine, batch_norm, known_words, layout_of
from engine.parity.limits import Allowance, Limits
from models.hypergcn.network import HyperGCN, HyperGraphConv, MultiScaleTemporalConv
from shared_data.errors import require, require_known
from shared_data.skeletons import skeleton

GRAPHS = {"graph.ntu_rgb_d.Graph": "ntu25", "graph.ucla.Graph": "ucla20"}
LABELINGS = ("virtual_ensemble", "spatial_ensemble")  # the second knows no virtual joints and is the same graph without them
KNOWN = {
    "num_class": "num_classes",
    "num_point": None,
    "num_person": "people",
    "hyper_joints": "hyper_joints",
    "graph": "skeleton",
    "graph_args": None,
    "in_channels": "in_channels",
    "drop_out": "dropout",
    "adaptive": None,
}


def constructor(official: Mapping[str, Any]) -> dict[str, Any]:
    """Official ``Model(num_class, num_point, num_person, hyper_joints, graph, graph_args, in_channels, drop_out)`` -> ours.

    The official base and large networks are two classes with the same arguments; `[official_variants]` of `model.toml` says
    which one a name stands for.
    """
    ours = {"num_classes": 60, "people": 2, "hyper_joints": 0, **known_words(official, KNOWN)}  # 0: four configurations say none
    adaptive = official.get("adaptive", True)
    require(bool(adaptive), "adaptive", adaptive, "True: the graph is always learned")
    options = dict(official.get("graph_args") or {})
    labeling = options.pop("labeling_mode", LABELINGS[0])
    require_known("graph_args.labeling_mode", labeling, LABELINGS)
    count = ours["hyper_joints"]
    require(
        options in ({}, {"hyper_joints": count}),
        "graph_args",
        official.get("graph_args"),
        f"a labeling_mode, and no other count of virtual joints than hyper_joints ({count})",
    )
    require(labeling != "spatial_ensemble" or count == 0, "hyper_joints", count, "0: spatial_ensemble has room for none")
    return {**ours, "skeleton": layout_of(official, GRAPHS)}


def allowance(official: Mapping[str, Any]) -> Allowance | None:
    """How far the recorded numbers are off by themselves: with more than 25 nodes the official distances are inexact.

    The recorded training run used exact distances, so only what a near-tie can change later gets another limit.
    """
    arguments = constructor(official)
    if skeleton(arguments["skeleton"]).joints + arguments["hyper_joints"] <= 25:
        return None
    return Allowance(
        "with more than 25 nodes the official code takes distances by a matrix product, which leaves a joint away from itself",
        float64=Limits(output=1e-7, loss=1e-7, gradient=1e-4, statistics=1e-4),
        float32=Limits(output=3e-4, loss=3e-4, gradient=3e-1, statistics=3e-4),
        late={"grad_norm": 1e-6, "change_norms_end": 1e-6},
    )


def table(model: nn.Module) -> list[Entry]:
    """Every entry of the official state dict, in its order."""
    assert isinstance(model, HyperGCN)
    rows = [Entry("pos_embedding", "joint_code", None, (1, *model.joint_code.shape)), *batch_norm("data_bn", "data_bn")]
    rows += affine("to_joint_embedding", "embed")
    for i, block in enumerate(model.blocks):
        official, ours = f"l{i + 1}", f"stages.{i // 3}.{i % 3}"
        rows += _graph(f"{official}.gcn1", f"{ours}.gcn", block.gcn)
        rows += _temporal(f"{official}.tcn1", f"{ours}.tcn", block.tcn)
        if isinstance(block.residual, nn.Sequential):
            rows += affine(f"{official}.residual.conv", f"{ours}.residual.0")
            rows += batch_norm(f"{official}.residual.bn", f"{ours}.residual.1")
    return [*rows, *affine("fc", "fc")]


def _graph(official: str, ours: str, gcn: HyperGraphConv) -> Iterator[Entry]:
    _, groups, hidden, c_in = gcn.relate.shape
    c_out = gcn.value.shape[1]
    yield Entry(f"{official}.hyper_joint", f"{ours}.virtual")
    yield Entry(f"{official}.alpha", f"{ours}.alpha")
    yield Entry(f"{official}.PA", f"{ours}.adjacency")
    yield Entry(f"{official}.edge_importance", f"{ours}.importance")
    for rows, name in enumerate(("to_V", "to_W.0")):
        yield Entry(f"{official}.{name}.weight", f"{ours}.relate", rows, (groups * hidden, c_in, 1))
        yield Entry(f"{official}.{name}.bias", f"{ours}.relate_bias", rows, (groups * hidden,))
    yield Entry(f"{official}.to_W.2.weight", f"{ours}.weigh", None, (groups, groups * hidden, 1))
    yield Entry(f"{official}.to_W.2.bias", f"{ours}.weigh_bias")
    yield Entry(f"{official}.conv_d.weight", f"{ours}.value", None, (groups * c_out, c_in, 1, 1))
    yield Entry(f"{official}.conv_d.bias", f"{ours}.value_bias", None, (groups * c_out,))
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
            yield from affine(f"{name}.3.conv", f"{ours}.{('near', 'far')[i]}")
        yield from batch_norm(f"{name}.{'3.bn' if i < 2 else '4'}", f"{ours}.bn", rows)
    yield from affine(f"{official}.branches.3.0", f"{ours}.skip")
    yield from batch_norm(f"{official}.branches.3.1", f"{ours}.bn", branch[3])
