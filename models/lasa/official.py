"""Where each entry of an official LaSA checkpoint lives in `network.py`. DeST's are not known here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from engine.errors import WeightsError
from engine.official import Entry, affine, batch_norm, known_words
from layers.dilated import Stage
from models.lasa.layouts import LARA19
from models.lasa.network import HEADS, AttentionLayer, Decoder, Focus, LaSA
from shared_data.errors import require_known
from shared_data.skeletons import NTU25

DATASETS = {"PKU-subject": (NTU25, 2), "PKU-view": (NTU25, 2), "LARA": (LARA19, 1)}  # layout and people

KNOWN = {
    "in_channel": "in_channels",
    "n_features": "width",
    "n_classes": "num_classes",
    "n_stages": None,  # nothing reads it
    "n_layers": "layers",
    "n_refine_layers": "refine_layers",
    "n_stages_asb": "action_stages",
    "n_stages_brb": "boundary_stages",
    "SFI_layer": "focus",
    "dataset": "skeleton",
}


def constructor(official: Mapping[str, Any]) -> dict[str, Any]:
    """Official arguments of the model -> ours. What is left out is taken as in the official configuration for PKU-MMD."""
    dataset = official.get("dataset", "PKU-subject")
    require_known("dataset", dataset, DATASETS)
    layout, people = DATASETS[dataset]
    ours = {"num_classes": 52, **known_words(official, KNOWN), "skeleton": layout, "people": people}
    ours["in_channels"] = official.get("in_channel", 12) // people  # ours are those of one person
    return ours


def sizes(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The arguments of ours that the official constructor has no word for, from the shapes of a checkpoint's entries."""
    return {"head_width": shapes["joint_att.query_conv.weight"][0] // HEADS}


def table(model: nn.Module) -> list[Entry]:
    """Every entry of the official state dict.

    Raises `WeightsError` for a network that no official checkpoint is of: DeST, and LaSA with texts that it learns.
    """
    assert isinstance(model, LaSA)
    if not model.with_attention:
        raise WeightsError("the names of official DeST checkpoints are not known here", expected="architecture lasa")
    if "text" in dict(model.named_parameters()):
        raise WeightsError(
            "official LaSA weights go with the texts of the joints that they were trained with, and these are not part of them",
            expected="the model argument joint_text",
            next_step="write CLIP's embeddings of the joints' descriptions to a .npy file: --model-args.joint_text FILE",
        )
    rows = [Entry("logit_scale", "logit_scale"), *_spatial(model)]
    rows += [*_fusion(model), *_joint_attention(model)]
    for official, ours in (("cls", "class_head"), ("bound", "boundary_head"), ("feature", "text_heads.0")):
        rows += affine(f"conv_{official}", ours)
    rows += affine("conv_feature_split", "split_head")
    for s, decoder in enumerate(model.action_stages):
        assert isinstance(decoder, Decoder)
        rows += _around(f"asb.{s}", f"action_stages.{s}")
        for i, layer in enumerate(decoder.layers):
            assert isinstance(layer, AttentionLayer)
            rows += _layer(f"asb.{s}.layers.{i}", f"action_stages.{s}.layers.{i}", layer)
        rows += affine(f"conv_asb_feature.{s}", f"text_heads.{s + 1}")
    for s, stage in enumerate(model.boundary_stages):
        assert isinstance(stage, Stage)
        rows += _boundary_stage(f"brb.{s}", f"boundary_stages.{s}", stage)
    return [*rows, *affine("ff_embedding", "text_layer")]


def recorded(network: nn.Module, features: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The outputs of a pass under the names by which fixtures record them."""
    assert isinstance(network, LaSA)
    scores, told = network.with_text(features, mask)
    named = {"cls": scores.classes[-1], "bound": scores.boundaries[-1], "split": told.split}
    stages = (("cls", scores.classes), ("bound", scores.boundaries), ("feature", told.actions))
    return named | {f"{name}{s}": value for name, values in stages for s, value in enumerate(values)}


def _around(official: str, ours: str) -> Iterator[Entry]:
    """The 1x1 convolutions into and out of a stage."""
    yield from affine(f"{official}.conv_in", f"{ours}.enter")
    yield from affine(f"{official}.conv_out", f"{ours}.leave")


def _spatial(model: LaSA) -> Iterator[Entry]:
    graph = model.spatial.graph
    c_out, scales, c_in = graph.mix.shape
    joints = model.joints
    yield Entry("SP.A_res", "spatial.graph.residual", None, (scales * joints, joints), order=(0, 1, 3, 2))
    yield Entry("SP.mlp.layers.0.weight", "spatial.graph.mix", None, (c_out, scales * c_in, 1, 1))
    yield Entry("SP.mlp.layers.0.bias", "spatial.graph.bias")
    yield from batch_norm("SP.mlp.layers.1", "spatial.bn")


def _fusion(model: LaSA) -> Iterator[Entry]:
    fusion = model.fusion
    yield Entry("STI.embeddding_weight", "fusion.text_scale")  # three d, officially
    yield from affine("STI.conv_in", "fusion.maps")
    yield from affine("STI.conv_t", "fusion.enter")
    for j, focus in enumerate(fusion.foci):
        assert isinstance(focus, Focus)
        name, ours = f"STI.SFI_layers.{j}", f"fusion.foci.{j}"
        yield from affine(f"{name}.conv_s", f"{ours}.joints")
        yield from affine(f"{name}.ff.0", f"{ours}.fc1")
        yield from affine(f"{name}.ff.3", f"{ours}.fc2")
    for i, layer in enumerate(fusion.layers):
        assert isinstance(layer, AttentionLayer)
        yield from _layer(f"STI.layers.{i}", f"fusion.layers.{i}", layer)
    yield from affine("STI.conv_out", "fusion.leave")
    maps, text = fusion.text.weight.shape
    yield from affine("STI.embedding_channel_change", "fusion.text", shape=(maps, text, 1, 1))


def _joint_attention(model: LaSA) -> Iterator[Entry]:
    name, ours = "joint_att", "joint_attention"
    both, text = model.joint_attention.query_key.weight.shape
    half = both // 2
    yield from affine(f"{name}.query_conv", f"{ours}.query_key", slice(0, half), (half, text, 1, 1))
    yield from affine(f"{name}.key_conv", f"{ours}.query_key", slice(half, both), (half, text, 1, 1))
    yield from affine(f"{name}.value_conv", f"{ours}.value")
    yield from affine(f"{name}.conv_out", f"{ours}.out")


def _layer(official: str, ours: str, layer: AttentionLayer) -> Iterator[Entry]:
    width = layer.mix.out_channels
    linear = (width, width)  # a linear layer officially, a convolution here where frames are innermost
    yield from affine(f"{official}.feed_forward.0", f"{ours}.dilated")
    name, attention = f"{official}.att_layer", f"{ours}.attention"
    yield from affine(f"{name}.query_projection", f"{attention}.query_key", slice(0, width), linear)
    yield from affine(f"{name}.key_projection", f"{attention}.query_key", slice(width, 2 * width), linear)
    yield from affine(f"{name}.value_projection", f"{attention}.value", shape=linear)
    yield from affine(f"{name}.out_projection", f"{attention}.out", shape=linear)
    yield from affine(f"{official}.conv_out", f"{ours}.mix")


def _boundary_stage(official: str, ours: str, stage: Stage) -> Iterator[Entry]:
    yield from affine(f"{official}.conv_in", f"{ours}.hidden.enter")
    for i in range(len(stage.hidden.layers)):
        yield from affine(f"{official}.layers.{i}.conv_dilated", f"{ours}.hidden.layers.{i}.dilated")
        yield from affine(f"{official}.layers.{i}.conv_in", f"{ours}.hidden.layers.{i}.mix")
    yield from affine(f"{official}.conv_out", f"{ours}.leave")
