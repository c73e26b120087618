"""A network as an ONNX file, for programs without PyTorch. Through `torch.export`, so no tracing by example (no TorchScript)."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from engine import checkpoint, models
from engine.assembly import clip_shape, model_arguments
from engine.config import parse
from engine.errors import ConfigError
from engine.step import takes_positions
from engine.weights import load_weights
from shared_data.atomic import whole_file
from shared_data.errors import MissingInputError
from shared_data.skeletons import skeleton

NEEDED = ("onnx", "onnxscript")


def export_run(run: Path, target: Path) -> Path:
    """Write the best weights of the run folder `run` as ONNX, for clips as its test pipeline makes them; see `export_onnx`."""
    run = run.parent.parent if run.is_file() else run  # a checkpoint of it will do
    settings = run / "config.yaml"
    if not settings.is_file():
        raise MissingInputError("this is no run folder", where=str(run), expected="a folder with config.yaml and checkpoints/")
    config, best = parse(["--config", str(settings)]), run / "checkpoints" / "best.safetensors"
    about = json.loads(checkpoint.read(best)[1]["about"])
    layout = skeleton(about["skeleton"])
    size = about["num_classes"], layout, about["people"]
    network = models.build(
        models.find(config.model), num_classes=size[0], skeleton=layout, people=size[2], **model_arguments(config, *size)
    )
    load_weights(best, network, config.model)
    return export_onnx(network, clip_shape(config, layout, about["people"], train=False), target)


def export_onnx(network: nn.Module, clip_shape: tuple[int, ...], target: Path) -> Path:
    """Write `network`, in evaluation mode, for any number of clips of `clip_shape` (C, T, V, M); returns `target`.

    Inputs: clips (N, C, T, V, M) float32 and, for a network that reads them, positions (N, T) float32. Output: logits (N, K).
    A file that is there already is not replaced. Raises `ConfigError` without the extra `onnx` and for a network that
    torch.export cannot write.
    """
    if absent := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"ONNX needs {' and '.join(absent)}", next_step="pip install '.[onnx]'")
    clips = torch.zeros(2, *clip_shape)
    inputs: tuple[torch.Tensor, ...] = (clips,)
    names = ["clips"]
    if takes_positions(network):
        inputs, names = (clips, torch.zeros(2, clip_shape[1])), ["clips", "positions"]
    many = torch.export.Dim("clips")
    logging.disable(logging.WARNING)  # the exporter tells what it skips
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network.eval(), inputs, None, dynamo=True, input_names=names, output_names=["logits"],
                dynamic_shapes=tuple({0: many} for _ in inputs), verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter raises many types
        raise ConfigError(
            f"this network cannot be written as ONNX: {type(error).__name__}: {str(error).splitlines()[0]}",
            next_step="models/NAME/model.toml says what is known (onnx = ...)",
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None
    with whole_file(target, kind="ONNX model", replaceable=lambda path: False) as file:
        file.write(program.model_proto.SerializeToString())
    return target
