"""The published train/test sizes, to say which protocol a file is, and how many clips it lacks if it is nearly one.

Source: counts computed from the published sample lists.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """A split of a known data set: `train` and `test` clips of `classes` classes."""

    name: str
    classes: int
    train: int
    test: int


@dataclass(frozen=True)
class Benchmark:
    """What a recipe written for a data set may count on: K classes, a joint layout, M people."""

    classes: int
    skeleton: str
    people: int


BENCHMARKS = {
    "ntu60": Benchmark(60, "ntu25", 2),
    "ntu120": Benchmark(120, "ntu25", 2),
    "nw_ucla": Benchmark(10, "ucla20", 1),
}
"""By the names that recipes use; `auto` in a recipe stands for whatever the file holds."""

PROTOCOLS = (
    Protocol("NTU-60 cross-subject", 60, 40_091, 16_487),
    Protocol("NTU-60 cross-view", 60, 37_646, 18_932),
    Protocol("NTU-120 cross-subject", 120, 63_026, 50_919),
    Protocol("NTU-120 cross-setup", 120, 54_468, 59_477),
    Protocol("NW-UCLA cross-view", 10, 1_020, 464),
)


def recognise(classes: int, train: int, test: int) -> Protocol | None:
    """The protocol with exactly these numbers, or None."""
    for protocol in PROTOCOLS:
        if (protocol.classes, protocol.train, protocol.test) == (classes, train, test):
            return protocol
    return None


def nearly(classes: int, train: int, test: int) -> Protocol | None:
    """The protocol that these numbers miss by less than 2 % of its clips, or None."""
    for protocol in PROTOCOLS:
        missing = abs(protocol.train - train) + abs(protocol.test - test)
        if protocol.classes == classes and 0 < missing < 0.02 * (protocol.train + protocol.test):
            return protocol
    return None
