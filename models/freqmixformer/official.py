"""Where each entry of an official FreqMixFormer checkpoint lives in `network.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from engine.official import Entry, affine, batch_norm, known_words, layout_of
from models.freqmixformer.network import FreqMixFormer, SpatialMixing, TemporalMixing
from shared_data.errors import require

GRAPHS = {"graph.ntu_rgb_d.Graph": "ntu25", "graph.ucla.Graph": "ucla20"}
KNOWN = {
    "num_class": "num_classes",
    "num_point": None,
    "num_person": "people",
    "graph": "skeleton",
    "graph_args": None,
    "frame_size": "frames",  # of the low-memory presets
    "in_channels": "in_channels",
    "drop_out": "dropout",
    "adaptive": None,
}


def constructor(official: Mapping[str, Any]) -> dict[str, Any]:
    """Official ``Model(num_class, num_point, num_person, graph, graph_args, ...)`` -> ours.

    graph_args never reach the official graph, so any are accepted. hop and split are constants of the official code.
    """
    said = known_words(official, KNOWN)
    adaptive = official.get("adaptive", True)
    require(bool(adaptive), "adaptive", adaptive, "True: the graph is always learned")
    return {"num_classes": 60, "people": 2, **said, "skeleton": layout_of(official, GRAPHS)}


def table(model: nn.Module) -> list[Entry]:
    """Every entry of the official state dict, in its order."""
    assert isinstance(model, FreqMixFormer)
    joints, width, _ = model.position.shape
    rows = [Entry("pos_embedding", "position", shape=(1, joints, width)), *batch_norm("data_bn", "data_bn")]
    rows += affine("to_joint_embedding", "embedding", shape=(width, model.in_channels))
    for i, block in enumerate(model.blocks):
        official, ours = f"l{i + 1}", f"blocks.{i}"
        rows += _spatial(f"{official}.spa_mixf", f"{ours}.spatial", block.spatial)
        rows += _temporal(f"{official}.tem_mixf", f"{ours}.temporal", block.temporal)
        if isinstance(block.residual, nn.Sequential):
            rows += affine(f"{official}.residual.conv", f"{ours}.residual.0")
            rows += batch_norm(f"{official}.residual.bn", f"{ours}.residual.1")
    rows += affine("fc", "fc")
    for official, ours in (("first_tram", "early"), ("second_tram", "middle")):
        rows += [*affine(f"{official}.1", f"{ours}.0"), *batch_norm(f"{official}.2", f"{ours}.1")]
    return rows


def _spatial(official: str, ours: str, spatial: SpatialMixing) -> Iterator[Entry]:
    c_out, subsets, c_in = spatial.weight.shape
    yield Entry(f"{official}.alpha", f"{ours}.unused.alpha")
    yield Entry(f"{official}.A_GEME", f"{ours}.graph")
    yield from affine(f"{official}.linear", f"{ours}.attention.between")
    yield from batch_norm(f"{official}.Spa_Att.bn", f"{ours}.unused.bn")
    yield from affine(f"{official}.Spa_Att.linear", f"{ours}.attention.within")
    yield Entry(f"{official}.ChaRef_conv.weight", f"{ours}.gate.weight")
    yield Entry(f"{official}.conv.weight", f"{ours}.weight", shape=(subsets * c_out, c_in, 1, 1), order=(1, 0, 2))
    yield Entry(f"{official}.conv.bias", f"{ours}.bias", shape=(subsets * c_out,), order=(1, 0))
    if isinstance(spatial.down, nn.Sequential):
        yield from affine(f"{official}.down.0", f"{ours}.down.0")
        yield from batch_norm(f"{official}.down.1", f"{ours}.down.1")
    yield from affine(f"{official}.fc", f"{ours}.unused.fc")
    yield from batch_norm(f"{official}.bn", f"{ours}.bn")


def _temporal(official: str, ours: str, temporal: TemporalMixing) -> Iterator[Entry]:
    c = temporal.near.out_channels
    branch = [slice(i * c, (i + 1) * c) for i in range(5)]
    for i, rows in enumerate(branch[:3]):
        name = f"{official}.branches.{i}"
        yield from affine(f"{name}.0", f"{ours}.enter", rows)
        yield from batch_norm(f"{name}.1", f"{ours}.enter_bn", rows)
        if i < 2:
            yield from affine(f"{name}.3.conv", f"{ours}.{('near', 'far')[i]}", shape=(c, c, 5, 1))  # here (c, c, 1, 5)
        yield from batch_norm(f"{name}.{'3.bn' if i < 2 else '4'}", f"{ours}.bn", rows)
    name = f"{official}.branches.3"
    yield from affine(f"{name}.0.conv", f"{ours}.embed", branch[0])
    yield from batch_norm(f"{name}.0.bn", f"{ours}.attention_bn")
    yield from affine(f"{name}.0.linear", f"{ours}.attention.linear")
    yield from batch_norm(f"{name}.1", f"{ours}.bn", branch[3])
    name = f"{official}.branches.4"
    yield from affine(f"{name}.0.conv", f"{ours}.embed", branch[1])
    yield from batch_norm(f"{name}.0.bn", f"{ours}.unused_bn")
    yield from affine(f"{name}.0.combine_conv", f"{ours}.gate", shape=(1, 2, 1, 1))
    yield from batch_norm(f"{name}.1", f"{ours}.bn", branch[4])
