"""Where each entry of an official USDRL checkpoint lives in `network.py` and `pretraining.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from engine.official import Entry, affine, batch_norm, known_words
from engine.official_transformer import attention, embedding, post_norm_layer
from engine.parity.limits import FLOAT64, Allowance
from layers.transformer import PostNormLayer
from models.usdrl.dste import DenseLayer
from models.usdrl.network import BASE, TABLE, Classifier, Encoder, Stream, sine_code
from models.usdrl.pretraining import DenseDecorrelation
from shared_data.errors import UsageError
from shared_data.skeletons import SKELETONS

KNOWN = {
    "t_input_size": "people",
    "s_input_size": "frames",
    "hidden_size": "width",
    "num_head": "heads",
    "num_layer": "layers",
    "num_class": "num_classes",
    "modality": "modality",
    "alpha": "alpha",
    "gap": "gap",
    "kernel_size": None,
}
CODE = "backbone.tpe.pe"
STREAMS = {"t": "time", "s": "space"}
PROJECTORS = ("i", "s", "t")
WEIGHTS = {"sim": "sim_weight", "vac": "vac_weight", "xcorr": "xcorr_weight"}
PRETRAINING_OURS: tuple[str, ...] = ()


def constructor(official: Mapping[str, Any]) -> dict[str, Any]:
    """Official ``Downstream(t_input_size, s_input_size, hidden_size, num_head, num_layer, num_class, modality, alpha, ...)``.

    STTR and DSTE are two classes with the same arguments; `[official_variants]` of `model.toml` says which one a name stands for.
    `kernel_size` is read by DSTE alone and can only be 1 there: its convolution has no padding.
    """
    ours = {"num_classes": 60, **known_words(official, KNOWN)}
    if "num_layer" in official:
        ours["layers"] = max(int(official["num_layer"]), 1)  # DSTE takes any number, and reads none
    sizes = _sizes(int(official.get("t_input_size", 150)), int(official.get("s_input_size", 192)))
    return {**ours, **sizes}


def _sizes(frame: int, path: int) -> dict[str, Any]:
    """The joint layout, people, coordinates and frames of clips with so many numbers per `frame` and per `path` of a joint."""
    for channels in (3, 2):
        for layout in SKELETONS.values():
            if frame % (channels * layout.joints) == 0 and path % channels == 0:
                sizes = {"skeleton": layout.name, "people": frame // (channels * layout.joints), "frames": path // channels}
                return sizes if channels == 3 else {**sizes, "in_channels": channels}
    raise UsageError(
        f"t_input_size is {frame} and s_input_size {path}", where="model_args",
        expected="people x joints x coordinates, and frames x coordinates, of "
        + ", ".join(f"{layout.name} ({layout.joints} joints)" for layout in SKELETONS.values()),
    )  # fmt: skip


def constants(official: Mapping[str, Any], *, rounded: bool = False) -> dict[str, Tensor]:
    """Entries that a parity fixture does not store: the sine code, step by step in float32 as the official code computes it.

    Each step is rounded from float64, the same on every processor; what the official code's own functions give in the last bit
    is not (`allowance`).

    rounded   computed in float64 and rounded, as in the recorded training runs
    """
    width = int(official.get("hidden_size", 1024))
    if rounded:
        return {CODE: sine_code(TABLE, width).unsqueeze(0)}
    exponents = torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(BASE) / width)
    phase = torch.arange(TABLE, dtype=torch.float32).unsqueeze(1) * exponents.double().exp().float()
    return {CODE: torch.stack([phase.double().sin(), phase.double().cos()], -1).float().flatten(1).unsqueeze(0)}


def allowance(official: Mapping[str, Any]) -> Allowance:
    """How far recorded numbers may be off: the last float32 bits of the official sine code depend on the processor."""
    del official  # all alike
    return Allowance(
        "the official sine code is computed in float32, and its last bits depend on the processor",
        float64=replace(FLOAT64, output=1e-6, loss=1e-6),
    )  # fmt: skip


def table(model: nn.Module) -> list[Entry]:
    """Every entry of the official state dict, in its order."""
    assert isinstance(model, Classifier)
    return [*_backbone(model.encoder), *affine("fc", "fc")]


def _backbone(encoder: Encoder) -> Iterator[Entry]:
    yield Entry("backbone.spe", "encoder.space.code", None, (1, *encoder.space.code.shape))
    for letter, name in STREAMS.items():
        yield from embedding(f"backbone.ske_emb.{letter}_embedding", f"encoder.{name}.embedding")
    yield Entry(CODE, "encoder.time.code", None, (1, *encoder.time.code.shape))
    if isinstance(encoder.time.layers[0], PostNormLayer):
        for letter, name in STREAMS.items():
            for i in range(len(_stream(encoder, name).layers)):
                yield from post_norm_layer(f"backbone.{letter}_tr.layers.{i}", f"encoder.{name}.layers.{i}")
        return
    for i, suffix in enumerate(("", "1")):
        for letter, name in STREAMS.items():
            layer = _stream(encoder, name).layers[i]
            assert isinstance(layer, DenseLayer)
            yield from _dense(f"backbone.{letter}_tr{suffix}", f"encoder.{name}.layers.{i}", layer)


def _stream(encoder: Encoder, name: str) -> Stream:
    stream = encoder.get_submodule(name)
    assert isinstance(stream, Stream)
    return stream


def _dense(official: str, ours: str, layer: DenseLayer) -> Iterator[Entry]:
    """A DST layer; its one attention has two official names."""
    yield from attention(f"{official}.CA.attn", f"{ours}.attn")
    yield from affine(f"{official}.CA.conv1", f"{ours}.conv", shape=(*layer.conv.weight.shape, 1))
    yield from _branch(f"{official}.CA", f"{ours}.ca")
    for number in ("1", "2"):
        yield from affine(f"{official}.DSA.wt{number}", f"{ours}.shift{number}")
    yield from attention(f"{official}.DSA.attn", f"{ours}.attn")
    yield from _branch(f"{official}.DSA", f"{ours}.dsa")


def _branch(official: str, ours: str) -> Iterator[Entry]:
    for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
        yield from affine(f"{official}.{part}", f"{ours}_{part}")


def pretraining_table(objective: nn.Module) -> list[Entry]:
    """Every entry of the official pretraining checkpoint, without the ``module.`` of its names."""
    assert isinstance(objective, DenseDecorrelation)
    rows = list(_backbone(objective.encoder))
    for letter in PROJECTORS:
        official, ours = f"{letter}_proj", f"projectors.{letter}"
        for i, number in enumerate(("0", "3")):
            rows += affine(f"{official}.{number}", f"{ours}.hidden.{i}")
            rows += batch_norm(f"{official}.{int(number) + 1}", f"{ours}.norms.{i}")
        rows += affine(f"{official}.6", f"{ours}.out")
    return rows


def pretraining_arguments(constructor_args: Mapping[str, Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `DenseDecorrelation` from those of the official network, and the weights of the loss's terms in `hyper`.

    As with `constructor`, the backbone is the official class's.
    """
    ours = constructor(constructor_args)
    del ours["num_classes"]
    return ours | {WEIGHTS[term]: float(weight) for term, weight in (hyper.get("weights") or {}).items()}


def encoder_entries(state: Mapping[str, Tensor], name: str = "") -> dict[str, Tensor]:
    """Of an official pretraining checkpoint, the entries of the downstream one: all but the projectors'."""
    assert not name, "there is one encoder"
    return {key: value for key, value in state.items() if key.startswith("backbone.")}
