"""Features of clips: what goes into the linear layer that ends a network, its head, taken on the way to the logits.

Every model.toml names the head, so a network has one forward pass, and features are of that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from engine.evaluate import evaluate, evaluation_pass
from engine.metrics import Scores
from engine.models import ModelCard, ModelError
from engine.step import Precision
from shared_data.loader import Loader


@dataclass(frozen=True)
class Encoded:
    """Clips of a loader, in its order: features (N, D) float32, and their scores."""

    features: np.ndarray
    scores: Scores


def head_of(card: ModelCard, network: nn.Module) -> nn.Linear:
    """The head of a `network` of `card`. Raises `ModelError` where the model.toml names none, or something else."""
    name = str(card.toml.get("head", ""))
    found = None
    with contextlib.suppress(AttributeError):
        found = network.get_submodule(name) if name else None
    if not isinstance(found, nn.Linear):
        raise ModelError(
            f"{card.name} has no head {name!r}", where=str(card.folder / "model.toml"),
            expected='head = "fc", the name of the nn.Linear that makes the logits',
        )  # fmt: skip
    return found


def encode(
    network: nn.Module,
    head: nn.Linear,
    clips: Tensor,
    positions: Tensor | None = None,
    *,
    device: torch.device,
    precision: Precision = "fp32",
) -> tuple[Tensor, Tensor]:
    """Features (N, D) and logits (N, K) of one batch, as `evaluation_pass`, whose arguments these are."""
    with _listening(head) as heard:
        logits = evaluation_pass(network, clips, positions, device=device, precision=precision)
    return _the_one(heard, head, len(clips)), logits


def encode_clips(
    network: nn.Module, head: nn.Linear, loader: Loader, *, device: torch.device, precision: Precision = "fp32"
) -> Encoded:
    """Those of every clip of `loader`, in evaluation mode. Raises what `evaluate` raises."""
    features: list[np.ndarray] = []
    with _listening(head) as heard:

        def after_batch() -> None:
            features.append(_the_one(heard, head).float().cpu().numpy())
            heard.clear()

        scores = evaluate(network, loader, device=device, precision=precision, after_batch=after_batch)
    return Encoded(np.concatenate(features), scores)


@contextlib.contextmanager
def _listening(head: nn.Linear) -> Iterator[list[Tensor]]:
    """What goes into `head`, call by call."""
    heard: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    try:
        yield heard
    finally:
        handle.remove()


def _the_one(heard: list[Tensor], head: nn.Linear, clips: int | None = None) -> Tensor:
    """What went in, in a pass in which the head is used once, on a row per clip."""
    if len(heard) != 1 or heard[0].shape != (clips or len(heard[0]), head.in_features):
        raise ModelError(
            f"the head was used {len(heard)} times, on {[tuple(given.shape) for given in heard]}", where="head in model.toml",
            expected=f"once, on (N, {head.in_features})",
        )  # fmt: skip
    return heard[0]
