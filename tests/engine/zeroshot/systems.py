"""Both systems, found as any model is once it has a model.toml; until then by their modules."""

from __future__ import annotations

from engine.zeroshot.system import System
from models.fsvae.system import SYSTEM as FSVAE
from models.msf_gzssar.system import SYSTEM as MSF_GZSSAR

SYSTEMS: dict[str, System] = {"fsvae": FSVAE, "msf_gzssar": MSF_GZSSAR}
