"""Where each entry of an official CTR-GCN checkpoint lives in `network.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from engine.official import Entry, affine, batch_norm, known_words, layout_of
from engine.official_ctr import entries
from models.ctrgcn.network import CTRGCN
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
    for i, block in enumerate(model.blocks, 1):
        rows += entries(f"l{i}", f"blocks.{i - 1}", block)
    return [*rows, *affine("fc", "fc")]
