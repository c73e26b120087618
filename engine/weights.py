"""Weights from a file into a network: ours or the official ones, strictly, and without running what is in the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine import checkpoint, models
from engine.config import RunConfig
from engine.errors import ConfigError, WeightsError
from shared_data.errors import MissingInputError

ENCODER = "encoder"
"""What a classifier that pretrains calls all but its head."""
PICKLE_ADVICE = (
    "a .pt file is a pickle and can run any code when opened; on torch < 2.6 even torch.load(weights_only=True) can be made to "
    "(CVE-2025-32434). If you trust where it comes from, add --trust-pickle"
)


def load_weights(path: Path, model: nn.Module, model_name: str, *, trust_pickle: bool = False) -> str:
    """Load `path` into `model`; returns "ours" or "official".

    A safetensors file (ours, or an official checkpoint converted to safetensors) needs no trust; anything else is opened only
    with `trust_pickle`, and then for tensors alone. Raises `WeightsError` (exit 65) with the differences.
    """
    state = read_tensors(path, trust_pickle)
    if any(name.startswith("model/") for name in state):  # the full state of a run: take the network out of it
        state = {name.removeprefix("model/"): v for name, v in state.items() if name.startswith("model/")}
    own = model.state_dict()
    if state.keys() == own.keys():
        kind = "ours"
    else:
        try:
            kind, state = "official", models.official_module(models.find(model_name)).from_official(state, model)
        except WeightsError as error:
            raise WeightsError(
                error.what, where=f"{path}: {error.where}", expected=error.expected, next_step=error.next_step
            ) from None
    _require_shapes(state, own, path)
    model.load_state_dict(state)
    return kind


def _require_shapes(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor], path: Path) -> None:
    """Raise `WeightsError` unless the tensors of a file are of the shapes and kinds of the network's own."""
    wrong = [
        f"{name}: file {tuple(state[name].shape)}, network {tuple(value.shape)}"
        for name, value in own.items()
        if state[name].shape != value.shape
    ]
    if unlike := [name for name, value in own.items() if state[name].is_floating_point() != value.is_floating_point()]:
        raise WeightsError(f"{len(unlike)} tensors hold another kind of number than weights", where=f"{path}: {unlike[0]}")
    if wrong:
        raise WeightsError(
            "the checkpoint is of another size (another class count, joint layout or variant?):\n    " + "\n    ".join(wrong[:6]),
            where=str(path), next_step="give the data set and --model-args that it was trained with",
        )  # fmt: skip


def load_encoder(path: Path, model: nn.Module, model_name: str, *, which: str = "", trust_pickle: bool = False) -> str:
    """Load the encoder in `path` into ``model.encoder`` and leave its head as it is; returns "ours" or "official".

    The file is an encoder of a pretraining run, any checkpoint of ours of this model, or an official one, of the classifier or of
    pretraining; where that has two encoders, `which` is taken, or the one that the model says it has (its `encoder_name`). Raises
    as `load_weights`.
    """
    encoder = getattr(model, ENCODER, None)
    if not isinstance(encoder, nn.Module):
        raise ConfigError(f"{model_name} has no encoder apart from its head", where="--init", next_step="--weights FILE")
    own, prefix = encoder.state_dict(), f"{ENCODER}."
    state = read_tensors(path, trust_pickle)
    if any(name.startswith("model/") for name in state):
        state = {name.removeprefix("model/"): v for name, v in state.items() if name.startswith("model/")}
    kind = "ours"
    if all(prefix + name in state for name in own):
        state = {name: state[prefix + name] for name in own}
    elif state.keys() != own.keys():
        kind, names = "official", models.official_module(models.find(model_name))
        try:
            state = names.encoder_from_official(state, model, which or getattr(model, "encoder_name", ""))
        except WeightsError as error:
            raise WeightsError(
                error.what, where=f"{path}: {error.where}", expected=error.expected, next_step=error.next_step
            ) from None
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    _require_shapes(state, own, path)
    if wrong := [name for name, value in state.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]:
        raise WeightsError(
            f"{len(wrong)} tensors hold NaN or infinity", where=f"{path}: {wrong[0]}", next_step="give other weights"
        )
    encoder.load_state_dict(state)
    return kind


def read_tensors(path: Path, trust_pickle: bool) -> dict[str, torch.Tensor]:
    """The named tensors of a checkpoint; anything but safetensors is opened only with `trust_pickle`, for tensors alone.

    Raises `MissingInputError` (exit 66) and `WeightsError` (exit 65).
    """
    if not path.exists():
        raise MissingInputError("no such checkpoint", where=str(path), expected="a .safetensors file, or an official .pt file")
    if path.suffix == ".safetensors":
        return checkpoint.read(path)[0]
    if not trust_pickle:
        raise WeightsError("will not open a pickled checkpoint", where=str(path), next_step=PICKLE_ADVICE)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"the checkpoint cannot be read: {error or type(error).__name__}", where=str(path)) from error
    for key in ("state_dict", "model", "weights", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(v, torch.Tensor) and v.layout == torch.strided and v.device.type == "cpu"
        for name, v in loaded.items()
    ):
        raise WeightsError("no state_dict in the file", where=str(path), expected="a mapping of names to plain tensors")
    return loaded


def as_told(config: RunConfig) -> RunConfig:
    """`config` with the sizes that the encoder of `--init` was pretrained with, where its file tells them, and its window.

    Rates (dropout ...) and heads stay those of the settings. Raises `WeightsError` for a header that is none, `ConfigError` for
    an encoder of another model.
    """
    if not config.init or not config.init.endswith(".safetensors"):
        return config
    header = checkpoint.read(Path(config.init))[1].get("about", "{}")
    try:
        about = json.loads(header)
        told = {str(key): value for key, value in about.get("model_args", {}).items() if key not in models.RATES}
        model = about.get("model", config.model)
    except (ValueError, AttributeError) as error:
        raise WeightsError(f"its header says nothing that can be read: {error}", where=config.init) from error
    if model != config.model:
        raise ConfigError(f"the encoder is of {model}, not of {config.model}", where=config.init)
    window = told.get("frames")
    windows: dict[str, Any] = {"train_window_size": window, "test_window_size": window} if type(window) is int else {}
    return dataclasses.replace(config, model_args={**config.model_args, **told}, **windows)
