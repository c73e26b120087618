"""Where each entry of the official MAMP and STARS checkpoints lives in `network.py` and `pretraining.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from engine.official import Entry, affine, batch_norm, known_words, strip_prefix
from models.mamp.network import MAMP, Encoder, PositionCode
from models.mamp.pretraining import MaskedMotion
from models.mamp.tuning import Neighbours
from shared_data.errors import require
from shared_data.skeletons import with_joints

ENCODER = {
    "dim_in": "in_channels",
    "dim_feat": "width",
    "depth": "depth",
    "num_heads": "heads",
    "mlp_ratio": "mlp_ratio",
    "num_frames": "frames",
    "num_joints": None,
    "patch_size": None,
    "t_patch_size": "patch",
    "qkv_bias": None,
    "qk_scale": None,  # accepted and not used: scores are divided by the square root of a head's width
    "drop_rate": None,
    "attn_drop_rate": None,
}
KNOWN = {"num_classes": "num_classes", **ENCODER, "drop_path_rate": "drop_path", "protocol": "protocol"}
PRETRAINING = {
    **ENCODER,
    "decoder_dim_feat": "decoder_width",
    "decoder_depth": "decoder_depth",
    "norm_skes_loss": "norm_target",
    "drop_path_rate": None,
}
SETTINGS = {"mask_ratio": "mask_ratio", "motion_stride": "stride", "motion_aware_tau": "tau"}  # of a training run
PRETRAINING_OURS: tuple[str, ...] = ()
STUDENT = "encoder_student."  # in front of the encoder's names in a file of STARS
RECORDED = 30  # one token of so many is recorded of a prediction
FIXED = {"patch_size": 1, "qkv_bias": True, "drop_rate": 0.0, "attn_drop_rate": 0.0}  # in every official setting


def constructor(official: Mapping[str, Any]) -> dict[str, Any]:
    """Official ``Transformer(dim_in, num_classes, dim_feat, depth, num_heads, ..., protocol)`` -> ours."""
    return {"num_classes": 60, "people": 2, "skeleton": _layout(official), **known_words(official, KNOWN)}


def _layout(official: Mapping[str, Any]) -> str:
    """The joint layout; officially any number of joints, and of people, goes."""
    for word, value in FIXED.items():
        require(official.get(word, value) == value, word, official.get(word), str(value))
    joints = official.get("num_joints", 25)
    layout = with_joints(joints)
    require(layout is not None, "num_joints", joints, "the joints of a layout that is known here")
    return layout.name


def table(model: nn.Module) -> list[Entry]:
    """Every entry of the official state dict, in its order."""
    assert isinstance(model, MAMP)
    rows = [*_position("", "encoder.position", model.encoder.position), *_encoder("", "encoder", model.encoder)]
    if model.protocol == "finetune":
        return [*rows, *batch_norm("head.bn", "bn"), *affine("head.fc1", "hidden"), *affine("head.fc2", "fc")]
    if isinstance(model.bn, nn.BatchNorm1d):
        names = ("running_mean", "running_var", "num_batches_tracked")
        return [*rows, *(Entry(f"head.fc.0.{name}", f"bn.{name}") for name in names), *affine("head.fc.1", "fc")]
    return [*rows, *affine("head.fc", "fc")]


def pretraining_arguments(official: Mapping[str, Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Official arguments of MAMP's pretraining network, and the settings of a run as far as they are told -> `MaskedMotion`'s."""
    rate = official.get("drop_path_rate", 0.0)
    require(rate == 0, "drop_path_rate", rate, "0 in pretraining")
    settings = {ours: hyper[word] for word, ours in SETTINGS.items() if word in hyper}
    return {"people": 2, "skeleton": _layout(official), **known_words(official, PRETRAINING), **settings}


def pretraining_table(objective: nn.Module) -> list[Entry]:
    """Every entry of the official checkpoint of MAMP's pretraining, or of STARS' tuning, in its order."""
    if isinstance(objective, Neighbours):
        return list(_neighbours(objective))
    assert isinstance(objective, MaskedMotion)
    encoder, decoder = objective.encoder, objective.decoder
    return [
        *_position("", "encoder.position", encoder.position),
        Entry("mask_token", "decoder.mask_token", None, (1, *decoder.mask_token.shape)),
        *_position("decoder_", "decoder.position", decoder.position),
        *_encoder("", "encoder", encoder),
        *affine("decoder_embed", "decoder.embed"),
        *_blocks("decoder_blocks", "decoder.blocks", len(decoder.blocks)),
        *affine("decoder_norm", "decoder.norm"),
        *affine("decoder_pred", "decoder.predict"),
    ]


def encoder_entries(state: Mapping[str, Any], name: str = "") -> dict[str, Tensor]:
    """Of a checkpoint of MAMP or STARS the encoder's entries, by the names of a checkpoint of the classifier.

    state  MAMP's file, or what stands in it under "model", or STARS' file
    name   there is but one encoder
    """
    state = {strip_prefix(key): value for key, value in state.get("model", state).items()}
    if any(key.startswith(STUDENT) for key in state):
        state = {key.removeprefix(STUDENT): value for key, value in state.items() if key.startswith(STUDENT)}
    return {key: value for key, value in state.items() if not key.startswith(("decoder", "mask", "head."))}


def recorded(objective: nn.Module, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the official pretraining network returned for clips `input` and the uniform numbers `input_noise`, by its names."""
    assert isinstance(objective, MaskedMotion)
    clips, noise = arrays["input"], arrays["input_noise"]
    found = objective.predicted(clips, noise)
    loss, _ = objective.loss(objective.error(found, len(clips)))
    return {"returned_loss": loss.reshape(1), "pred": found.predicted[:, ::RECORDED], "mask": found.mask, "loss": loss}


def _position(official: str, ours: str, code: PositionCode) -> Iterator[Entry]:
    (steps, width), joints = code.time.shape, len(code.joint)
    yield Entry(f"{official}temp_embed", f"{ours}.time", None, (1, steps, 1, width))
    yield Entry(f"{official}pos_embed", f"{ours}.joint", None, (1, 1, joints, width))


def _encoder(official: str, ours: str, model: Encoder) -> Iterator[Entry]:
    yield from affine(f"{official}joints_embed.proj", f"{ours}.embed", None, (model.width, model.shape[0], model.patch, 1))
    yield from _blocks(f"{official}blocks", f"{ours}.blocks", len(model.blocks))
    yield from affine(f"{official}norm", f"{ours}.norm")


def _blocks(official: str, ours: str, depth: int) -> Iterator[Entry]:
    for i in range(depth):
        for layer in ("norm1", "attn.proj", "attn.qkv", "norm2", "mlp.fc1", "mlp.fc2"):
            yield from affine(f"{official}.{i}.{layer}", f"{ours}.{i}.{layer}")


def _neighbours(objective: Neighbours) -> Iterator[Entry]:
    encoder, head = objective.encoder, f"{STUDENT}head"
    yield from _position(STUDENT, "encoder.position", encoder.position)
    yield from _encoder(STUDENT, "encoder", encoder)
    yield from batch_norm(f"{head}.projector.0", "head.projector")
    yield Entry(f"{head}.predictor.0.weight", "head.fc1.weight")
    yield from batch_norm(f"{head}.predictor.1", "head.bn")
    yield from affine(f"{head}.predictor.3", "head.fc2")
    for official, ours in (("queue", "features"), ("queue_ptr", "pointer"), ("queue_id", "ids")):
        yield Entry(official, f"queue.{ours}")
