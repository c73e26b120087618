"""The published protocols: their train/test sizes, to say which one a file is, and the rules that divide NTU RGB+D's samples.

Sources: counts computed from the published sample lists; rules of the NTU RGB+D and NTU RGB+D 120 papers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from shared_data.errors import UsageError, nearest


@dataclass(frozen=True)
class Protocol:
    """A split of a known data set: `train` and `test` clips of `classes` classes."""

    name: str
    classes: int
    train: int
    test: int


@dataclass(frozen=True)
class Benchmark:
    """What a recipe written for a data set may count on: K classes, a joint layout, M people.

    part_of  the data set of which it is the two-person actions (`interaction.two_person_actions`), "" if it is a whole one
    """

    classes: int
    skeleton: str
    people: int
    part_of: str = ""


BENCHMARKS = {
    "ntu60": Benchmark(60, "ntu25", 2),
    "ntu120": Benchmark(120, "ntu25", 2),
    "nw_ucla": Benchmark(10, "ucla20", 1),
    "pku_mmd": Benchmark(51, "ntu25", 2),
    "kinetics": Benchmark(400, "kinetics18", 2),
    "ntu60_inter": Benchmark(11, "ntu25", 2, part_of="ntu60"),
    "ntu120_inter": Benchmark(26, "ntu25", 2, part_of="ntu120"),
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


class NtuName(NamedTuple):
    """What the name of an NTU RGB+D sample says, numbers from 1."""

    setup: int
    camera: int
    performer: int
    repetition: int
    action: int


_NTU_NAME = re.compile(r"S([0-9]{3})C([0-9]{3})P([0-9]{3})R([0-9]{3})A([0-9]{3})")


def ntu_name(text: str) -> NtuName | None:
    """The parts of a name like S001C002P003R002A013, None for anything else."""
    match = _NTU_NAME.fullmatch(text)
    return NtuName(*map(int, match.groups())) if match else None


_SUBJECTS_60 = frozenset((1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38))
_SUBJECTS_120 = _SUBJECTS_60 | {
    45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95,
    97, 98, 100, 103,
}  # fmt: skip


@dataclass(frozen=True)
class SplitRule:
    """How a protocol divides NTU RGB+D: `part` of a sample's name decides.

    name      what users call it
    protocol  name of the `Protocol` with its sizes
    part      a field of `NtuName`
    train     numbers of that part that are trained on
    known     the numbers that exist; what is not trained on is tested on
    """

    name: str
    classes: int
    protocol: str
    part: str
    train: frozenset[int]
    known: range

    def side(self, sample: NtuName) -> str | None:
        """ "train" or "test"; None for a number that the protocol does not know."""
        number = getattr(sample, self.part)
        if number not in self.known:
            return None
        return "train" if number in self.train else "test"

    def position(self, sample: NtuName) -> tuple[int, NtuName]:
        """Sort key: the order of the rows in the published files (camera by camera ..., then by name)."""
        return getattr(sample, self.part), sample


SPLIT_RULES = (
    SplitRule("xsub", 60, "NTU-60 cross-subject", "performer", _SUBJECTS_60, range(1, 41)),
    SplitRule("xview", 60, "NTU-60 cross-view", "camera", frozenset((2, 3)), range(1, 4)),
    SplitRule("xsub", 120, "NTU-120 cross-subject", "performer", _SUBJECTS_120, range(1, 107)),
    SplitRule("xset", 120, "NTU-120 cross-setup", "setup", frozenset(range(2, 33, 2)), range(1, 33)),
)


def split_rule(name: str, classes: int) -> SplitRule:
    """The rule called `name` (xsub, xview, xset; xsub120 is xsub of 120 classes) for a data set of 60 or 120 classes.

    Raises `UsageError` naming the rules of that data set, for "auto" as well: there are two, and neither is the usual one.
    """
    rules = {rule.name: rule for rule in SPLIT_RULES if rule.classes == classes}
    wanted = "xsub" if (name, classes) == ("xsub120", 120) else name
    if wanted in rules:
        return rules[wanted]
    known = ", ".join(rules)
    what = f"no split {name!r} of NTU RGB+D with {classes} classes{nearest(name, rules)}"
    if name == "auto":
        what = f"NTU RGB+D with {classes} classes is divided in {len(rules)} ways: say which"
    raise UsageError(what, where="--split", expected=known, next_step=f"for example --split {next(iter(rules))}")


NOVEL_ACTIONS = range(1, 121, 6)  # A001, A007 ... A115


def one_shot(sample: NtuName) -> str:
    """Which part of NTU-120's one-shot protocol a sample is: "auxiliary" (trained on), "exemplar" or "evaluation".

    The one exemplar of a novel action is S001C003P008R001 up to A055 and S018C003P008R001 from A061 on.
    """
    if sample.action not in NOVEL_ACTIONS:
        return "auxiliary"
    setup = 1 if sample.action <= 60 else 18
    return "exemplar" if sample[:4] == (setup, 3, 8, 1) else "evaluation"
