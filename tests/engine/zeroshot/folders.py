"""A made-up world on disk and a short plan for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.zeroshot import plan as plans
from engine.zeroshot import synthetic, synthetic_folder
from engine.zeroshot.plan import Plan
from engine.zeroshot.settings import Settings
from engine.zeroshot.sources import Source

QUICK = Settings(
    latent=20, cycles=4, steps=300, lr=1e-3, samples=100, classifier_steps=100, classifier_lr=1e-2, relu_logits=False
)
SHORT = replace(QUICK, cycles=3, steps=17, samples=20, classifier_steps=5)


def plan(settings: Settings = SHORT, **choices: object) -> Plan:
    return plans.published(60, 5, settings=settings, **choices)


def source(root: Path, *, seed: int = 0, shuffled: bool = False, per_class: int = 5, mode: str = "lb") -> Source:
    """Written below `root` first."""
    made = Source(root, mode=mode)
    synthetic_folder.write(made, synthetic.world(classes=60, seed=seed, shuffled=shuffled), plan(), per_class=per_class)
    return made
