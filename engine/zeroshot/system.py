"""What a zero-shot system adds to the shared parts; each `system.py` under `models/` holds one as `SYSTEM`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from engine import models
from engine.official import Entry
from engine.zeroshot.losses import Alignment
from engine.zeroshot.network import AlignedVAE, Encoder, Sizes


class Builder(Protocol):
    """Makes the networks; `relu_output` is the official ReLU behind the decoders."""

    def __call__(self, sizes: Sizes, *, relu_output: bool = True) -> AlignedVAE: ...


@dataclass(frozen=True)
class System:
    """One system.

    title      as in the paper
    build      makes its networks
    alignment  its two terms that hold the latents of skeletons and texts together
    weight     number of classes of the data set -> weight of the alignment
    pairs      whether the alignment compares with a second row, so that a pairing is drawn in every step
    encoder    an encoder of ours -> where its official entries live (names relative to either)
    constants  official scalars of each encoder that the networks are built with: their values are held, not learned
    """

    title: str
    build: Builder
    alignment: Alignment
    weight: Callable[[int], float]
    pairs: bool
    encoder: Callable[[Encoder], Sequence[Entry]]
    constants: dict[str, float] = field(default_factory=dict)


def find(name: str) -> System:
    """The system of the model called `name`; raises `ConfigError` if there is no such model, `ModelError` if it is no system."""
    card = models.find(name, "zeroshot")
    system = getattr(models.import_module(card, "system"), "SYSTEM", None)
    if not isinstance(system, System):
        raise models.ModelError("system.py holds no SYSTEM", where=str(card.folder), expected="SYSTEM = System(...)")
    return system
