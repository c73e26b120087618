"""How a zero-shot system is trained; the defaults are the published ones. Source: the specification, sections 3 to 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Noise = Literal["per_sample", "per_dimension"]


@dataclass(frozen=True)
class Settings:
    """One training run.

    latent            width of the latents
    cycles, steps     cycles of so many steps each, one batch per step; the warm-ups of the loss start again in each
    batch, lr         clips in a batch; learning rate of Adam
    noise             "per_sample": one number for all latent dimensions of a row, as officially; or one for each
    relu_output       the official ReLU behind the decoders
    relu_logits       the official ReLU behind the classifier: classes with negative scores tie, and one whose score is negative
                      for all its own latents at the start is not raised by them, and is often never found in that cycle
    samples           latents of each unseen class that the classifier learns from
    classifier_steps, classifier_lr   full-batch steps of Adam, and its rate
    """

    latent: int = 100
    cycles: int = 10
    steps: int = 1700
    batch: int = 64
    lr: float = 1e-4
    noise: Noise = "per_sample"
    relu_output: bool = True
    relu_logits: bool = True
    samples: int = 500
    classifier_steps: int = 300
    classifier_lr: float = 1e-3

    @property
    def noise_width(self) -> int:
        """Noise numbers per row."""
        return self.latent if self.noise == "per_dimension" else 1


def published(classes: int) -> Settings:
    """Those for NTU-60, or for NTU-120 if there are more than 60 `classes`."""
    return Settings() if classes <= 60 else Settings(latent=200, steps=1900)
