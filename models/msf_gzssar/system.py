"""MSF-GZSSAR as the engine takes it."""

from __future__ import annotations

from engine.zeroshot.system import System
from models.msf_gzssar import losses, network, official

SYSTEM = System(
    title="MSF-GZSSAR",
    build=network.build,
    alignment=losses.alignment,
    weight=losses.weight,
    pairs=False,
    encoder=official.encoder,
)
