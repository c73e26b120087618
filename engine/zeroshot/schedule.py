"""How much each term of the loss counts at a step: warm-ups that start again in every cycle.

Source: the zero-shot specification, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT_CYCLE = 2  # the text's divergence counts from this cycle on
SHORTEST = 1700  # steps of a cycle, officially; shorter ones keep its proportions, so that short runs see every term


@dataclass(frozen=True)
class Factors:
    """Factors of the skeleton's and the text's divergence, and of the alignment (0 or 1)."""

    skeleton: float
    text: float
    alignment: float


def alignment_start(steps: int) -> int:
    """The last step of a cycle of `steps` without alignment: 1400 of 1700, 1500 of the 1900 of NTU-120 and of longer ones."""
    return 1500 if steps > SHORTEST else 1400 * steps // SHORTEST


def divergence_start(steps: int) -> int:
    """The last step of a cycle of `steps` whose skeleton divergence does not count: 1000."""
    return 1000 if steps > SHORTEST else 1000 * steps // SHORTEST


def factors(cycle: int, step: int, *, steps: int) -> Factors:
    """Those of `step` in a `cycle` of `steps`; both count from 0."""
    aligned = alignment_start(steps)
    return Factors(
        skeleton=max(0.1 * (step - divergence_start(steps)) / 3000, 0.0),
        text=max(0.1 * (step - aligned) / 3000, 0.0) if cycle >= TEXT_CYCLE else 0.0,
        alignment=1.0 if step > aligned else 0.0,
    )
