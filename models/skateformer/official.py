"""Where each entry of an official SkateFormer checkpoint lives in `network.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from engine.official import Entry, affine, batch_norm, known_words
from models.skateformer.network import Block, SkateFormer
from models.skateformer.sizes import DEPTH

LAYOUTS = {24: "ntu25", 25: "ntu25", 20: "ucla20"}  # joints -> the layout they are of
SAME = (  # in both vocabularies
    "num_classes",
    "in_channels",
    "kernel_size",
    "num_heads",
    "type_1_size",
    "type_2_size",
    "type_3_size",
    "type_4_size",
    "attn_drop",
    "head_drop",
    "drop_path",
    "rel",
    "mlp_ratio",
    "index_t",
)
KNOWN = {**{word: word for word in SAME}, "num_people": "people", "num_points": "points", "num_frames": "frames"}


def constructor(official: Mapping[str, Any]) -> dict[str, Any]:
    """Official ``SkateFormer_(num_classes, num_people, num_points, num_frames, kernel_size, num_heads, ...)`` -> ours."""
    ours = {"num_classes": 60, "people": 2, "points": 24, **known_words(official, KNOWN)}
    return {**ours, "skeleton": LAYOUTS.get(ours["points"], "ntu25")}


def table(model: nn.Module) -> list[Entry]:
    """Every entry of the official state dict, in its order."""
    assert isinstance(model, SkateFormer)
    if model.index_t:
        rows = [Entry("joint_person_embedding", "embedding", order=(1, 0))]
    else:
        frames, points, channels = model.embedding.shape
        rows = [Entry("joint_person_temporal_embedding", "embedding", None, (1, channels, frames, points), (2, 0, 1))]
    for i, layer in enumerate(model.stem):
        rows += affine(f"stem.{2 * i}", f"stem.{i}", shape=(*layer.weight.shape, 1, 1))
    for i, block in enumerate(model.blocks):
        official = f"stages.{i // DEPTH}.blocks.{i % DEPTH}"
        if str(i) in model.downsamples:
            rows += affine(f"{official}.downsample.reduction", f"downsamples.{i}.reduce")
            rows += batch_norm(f"{official}.downsample.bn", f"downsamples.{i}.bn")
        rows += _block(f"{official}.transformer", f"blocks.{i}", block)
    return [*rows, *affine("head", "head")]


def _block(official: str, ours: str, block: Block) -> Iterator[Entry]:
    yield Entry(f"{official}.gconv", f"{ours}.graph")
    yield from affine(f"{official}.norm_1", f"{ours}.norm_1")
    yield from affine(f"{official}.mapping", f"{ours}.mapping")
    yield from affine(f"{official}.tconv", f"{ours}.temporal")
    for kind in range(len(block.attention.bias)):
        name = f"{official}.attention.{kind}.relative_position"
        yield Entry(f"{name}_bias_table", f"{ours}.attention.bias.{kind}.table")
        yield Entry(f"{name}_index", f"{ours}.attention.bias.{kind}.index")
    yield from affine(f"{official}.proj", f"{ours}.proj")
    yield from affine(f"{official}.norm_2", f"{ours}.norm_2")
    yield from affine(f"{official}.mlp.fc1", f"{ours}.fc1")
    yield from affine(f"{official}.mlp.fc2", f"{ours}.fc2")
