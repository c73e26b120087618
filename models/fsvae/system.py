"""FS-VAE as the engine takes it."""

from __future__ import annotations

from engine.zeroshot.system import System
from models.fsvae import losses, network, official

SYSTEM = System(
    title="FS-VAE",
    build=network.build,
    alignment=losses.alignment,
    weight=losses.weight,
    pairs=True,
    encoder=official.encoder,
    constants=official.CONSTANTS,
)
