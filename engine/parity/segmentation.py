"""Judging one forward and backward pass of a network that segments sequences, in float64 and float32, as `engine.parity.forward`.

The texts that such a network reads are recorded beside its input. The recorded loss is a stand-in of the fixture's own, without
text: it reaches every parameter but those of the official losses against texts.
"""

from __future__ import annotations

import copy
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from engine import models
from engine.official import OfficialNames
from engine.parity.fixture import Fixture, FixtureError, weights
from engine.parity.forward import after_backward, entries
from engine.parity.limits import FLOAT32, FLOAT32_BATCH_NORM, FLOAT64, Limits
from engine.parity.lines import Line, relative_error
from engine.parity.network import build, has_batch_norm, model_of

CLASSES, BOUNDARIES, FEATURES, SPLIT = "cls", "bound", "feature", "split"
STRIDES = re.compile(r"\[([:\d, ]+)\]")
EVERY = re.compile(r"every (\d+)\w\w frame")
LOSS = (
    "mean over class stages of cross_entropy(ignore_index=255)",
    "mean over boundary stages of binary_cross_entropy_with_logits(bound * mask, boundary)",
    "0.1 * (mean(feature^2)",
    "mean(feature_split^2)",
)
"""What the words for the recorded loss must hold. The binary cross-entropy is a mean over padded frames too."""
PADDED = 255


def is_segmentation(fixture: Fixture) -> bool:
    """Whether it is of a network that says something about every frame."""
    return "input_mask" in fixture.arrays and {CLASSES, BOUNDARIES} <= set(fixture.meta.get("outputs", ()))


def judge(fixture: Fixture) -> list[Line]:
    """All lines; raises `FixtureError` if the loss is of a kind not known here."""
    words = str(fixture.need("loss"))
    if absent := [part for part in LOSS if part not in words]:
        raise FixtureError(
            "this fixture has a loss that the judge does not know",
            where=f"{fixture.path}: {words!r}",
            expected=" + ".join(absent),
        )
    official = weights(fixture)
    module = models.import_module(model_of(fixture, "segmenter")[0], "official")
    shapes = {name: tuple(value.shape) for name, value in official.items()}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.npy"
        np.save(text, fixture["input_text"].astype(np.float32))
        network, names = build(fixture, official, kind="segmenter", joint_text=str(text), **module.sizes(shapes))
    lines = entries(fixture, network, names, official)
    loose = FLOAT32_BATCH_NORM if has_batch_norm(network) else FLOAT32
    lines += _pass(fixture, copy.deepcopy(network).double(), names, FLOAT64, "float64")
    return [*lines, *_pass(fixture, network.float(), names, loose, "float32")]


def _pass(fixture: Fixture, network: nn.Module, names: OfficialNames, limits: Limits, precision: str) -> list[Line]:
    recorded = models.import_module(model_of(fixture, "segmenter")[0], "official").recorded
    features = torch.from_numpy(fixture["input"]).to(getattr(torch, precision))
    mask = torch.from_numpy(fixture["input_mask"])
    with torch.no_grad():
        evaluated = recorded(network.eval(), features, mask)
    trained = recorded(network.train(), features, mask)
    loss = _loss(fixture, trained, mask)
    torch.autograd.backward(loss)
    lines = []
    for name, about in fixture.need("outputs").items():
        part = _slices(str(about))
        for mode, outputs in (("evaluation", evaluated), ("training", trained)):
            key = f"{name}_{'eval' if mode == 'evaluation' else 'train'}_f64"
            if key not in fixture.arrays:
                continue
            if name not in outputs:
                raise FixtureError(f"the network has no output {name}", where=str(fixture.path), expected=", ".join(outputs))
            error = relative_error(outputs[name][part], fixture[key])
            lines.append(Line(f"{precision} {name}, {mode}", error, limits.output))
    lines.append(Line(f"{precision} loss", relative_error(loss, fixture["loss_train_f64"]), limits.loss))
    return lines + after_backward(fixture, network, names, limits, precision)


def _loss(fixture: Fixture, outputs: dict[str, Tensor], mask: Tensor) -> Tensor:
    """The recorded loss, of the outputs of a training pass."""

    def stages(name: str) -> list[Tensor]:
        return [outputs[f"{name}{s}"] for s in range(sum(key.startswith(name) and key[len(name) :].isdigit() for key in outputs))]

    labels, boundary = (torch.from_numpy(fixture[f"input_{name}"]) for name in ("labels", "bound"))
    classes = [cross_entropy(scores, labels, ignore_index=PADDED) for scores in stages(CLASSES)]
    bounds = [binary_cross_entropy_with_logits(one * mask, boundary.to(one)) for one in stages(BOUNDARIES)]
    squares = [one.square().mean() for one in (*stages(FEATURES), outputs[SPLIT])]
    return torch.stack(classes).mean() + torch.stack(bounds).mean() + 0.1 * torch.stack(squares).sum()


def _slices(about: str) -> tuple[Any, ...]:
    """The part of an output that is recorded, of "first stage, every 4th frame" or, where more is left out, "[:, ::16, ::4]"."""
    if every := EVERY.search(about):
        return (..., slice(None, None, int(every[1])))
    found = STRIDES.search(about)
    words = found[1].split(",") if found else []
    return tuple(slice(None, None, int(word.strip().removeprefix("::"))) if "::" in word else slice(None) for word in words)
