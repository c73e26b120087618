"""Every zero-shot system under models/, found as the verbs find them."""

from __future__ import annotations

from engine import models
from engine.zeroshot.system import System, find

SYSTEMS: dict[str, System] = {name: find(name) for name in models.discover("zeroshot")}
