"""How far a quantity may be off: the limits of the fixtures' READMEs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """Largest relative errors of one forward and backward pass in one precision."""

    output: float
    loss: float
    gradient: float
    statistics: float


FLOAT64 = Limits(output=1e-8, loss=1e-8, gradient=1e-6, statistics=1e-5)  # statistics are stored from a float32 run
FLOAT32 = Limits(output=1e-5, loss=1e-5, gradient=1e-4, statistics=1e-4)
FLOAT32_BATCH_NORM = Limits(output=1e-5, loss=1e-5, gradient=3e-2, statistics=1e-4)  # single ReLU decisions flip


@dataclass(frozen=True)
class Allowance:
    """What the recorded numbers of one model allow beyond these limits, because the official run itself was off by as much.

    reason   one sentence for the report
    float64, float32   limits in place of the general ones, None: the general ones hold
    early    limit of the first three training steps
    late     quantity of a training trajectory -> its limit over all steps
    """

    reason: str
    float64: Limits | None = None
    float32: Limits | None = None
    early: float = 0.0
    late: Mapping[str, float] = field(default_factory=dict)
