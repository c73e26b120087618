"""The networks of MSF-GZSSAR: the shared autoencoders as they are."""

from __future__ import annotations

from engine.zeroshot.network import AlignedVAE, Sizes


def build(sizes: Sizes, *, relu_output: bool = True) -> AlignedVAE:
    """Both autoencoders; `relu_output` is the official ReLU behind the decoders."""
    return AlignedVAE(sizes, relu_output=relu_output)
