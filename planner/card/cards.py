"""Common NVIDIA cards: memory and the rates of their data sheets (cards.csv).

Rates are what NVIDIA publishes, rounded, written down from memory and held against each other in the tests (rates against
cores and clock, tensor cores against the rest); a column names the source. Bandwidth in GB/s, dense rates in TFLOP/s, two
operations per multiply-add:

fp32   without tensor cores
tf32   tensor cores on fp32 values, which PyTorch lets convolutions use; none before compute capability 8.0
half   tensor cores on fp16 or bf16 with sums in fp32, which is what PyTorch asks for: half of the advertised figure on GeForce;
       none where there are no tensor cores, and fp16 alone before 8.0

GiB are what the driver shows at most: of data centre cards with GDDR6, whose error correction is on when they are delivered, a
sixteenth is gone.
"""

from __future__ import annotations

import csv
import difflib
import functools
import re
from dataclasses import dataclass
from pathlib import Path

from shared_data.errors import UsageError

TABLE = Path(__file__).with_name("cards.csv")
BF16_SINCE = 8.0
"""Compute capability of the first GPUs whose tensor cores take bf16 (Ampere)."""
ANOTHER_SIZE = 0.15
"""By how much of the smaller one two figures of one GPU's memory may differ (as it is sold, as a driver shows it)."""
_MAKERS_WORDS = re.compile("nvidia|geforce|tesla|quadro|gpu")
_SIZE = re.compile(r"\s(\d+)gb$", re.IGNORECASE)
_FAMILY = re.compile(r"^(rtx|gtx|titan)(?=[a-z]?\d)")


@dataclass(frozen=True)
class Card:
    """One card; see the module's docstring.

    launch_note   what else is to be known of its speed
    also          other names for it
    """

    name: str
    gib: float
    bandwidth_gbs: float
    fp32_tflops: float
    tf32_tflops: float | None
    half_tflops: float | None
    capability: float
    launch_note: str
    source: str
    also: tuple[str, ...] = ()

    @property
    def bf16(self) -> bool:
        """Whether its tensor cores take bf16; elsewhere PyTorch emulates it, slowly."""
        return self.capability >= BF16_SINCE

    @property
    def laptop(self) -> bool:
        """Whether the maker of the machine decides how fast it may run."""
        return self.name.endswith("Laptop")

    def is_called(self, text: str) -> bool:
        """Whether `text` names it, with or without maker, family and size, in any case and spacing."""
        said = _squeezed(text)
        size = _SIZE.search(self.name)
        without_size = said.replace(f"{size[1] if size else f'{self.gib:g}'}gb", "")
        names = {_squeezed(name) for name in (self.name, _SIZE.sub("", self.name), *self.also)}
        names |= {_FAMILY.sub("", name) for name in names}
        return said in names or without_size in names


def _squeezed(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _MAKERS_WORDS.sub("", text.lower()).replace("gib", "gb"))


@functools.lru_cache(maxsize=1)
def known() -> tuple[Card, ...]:
    """All cards, in the order of the table."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return tuple(_card(row) for row in csv.DictReader(file))


def _card(row: dict[str, str]) -> Card:
    return Card(
        row["name"], float(row["gib"]), float(row["bandwidth_gbs"]), float(row["fp32_tflops"]),
        float(row["tf32_tflops"]) if row["tf32_tflops"] else None, float(row["half_tflops"]) if row["half_tflops"] else None,
        float(row["capability"]), row["note"], row["source"], tuple(filter(None, row["also"].split(";"))),
    )  # fmt: skip


def find(text: str, gib: float | None = None) -> Card:
    """The card that a user calls `text`: "RTX 3070", "3070", "nvidia geforce rtx3070", "3080 12GB".

    gib   its memory, which decides where cards of several sizes share a name (a driver names no size)
    Raises `UsageError` for a name of several cards, naming them, and for an unknown one, naming the nearest.
    """
    found = [card for card in known() if card.is_called(text)]
    if len(found) > 1 and gib is not None:
        nearest = min(abs(card.gib - gib) for card in found)
        found = [card for card in found if abs(card.gib - gib) == nearest]
    if len(found) > 1:
        names = ", ".join(card.name for card in found)
        raise UsageError(
            f"{text!r} is {len(found)} cards", where="--gpu", expected=f"one of {names}", next_step="name it with its size"
        )
    if not found:
        near = ", ".join(card.name for card in _near(text))
        raise UsageError(
            f"no card {text!r} is known", where="--gpu", expected=f"such as {near}",
            next_step="sal plan --vram N needs no name; it says no times then",
        )  # fmt: skip
    return found[0]


def named(driver_name: str, gib: float | None = None) -> Card | None:
    """The card that a driver calls so, None where it is not in the table, is one of several, or has another memory than `gib`."""
    try:
        card = find(driver_name, gib)
    except UsageError:
        return None
    return card if gib is None or same_size(card.gib, gib) else None


def same_size(gib: float, other: float) -> bool:
    """Whether both can be figures of one GPU's memory: 10 and 9.8 GiB are, 10 and 11.8 are two cards of one name."""
    return abs(gib - other) <= ANOTHER_SIZE * min(gib, other)


def _near(text: str) -> list[Card]:
    said = _FAMILY.sub("", _squeezed(text))

    def likeness(card: Card) -> float:
        return difflib.SequenceMatcher(None, said, _FAMILY.sub("", _squeezed(card.name))).ratio()

    return sorted(known(), key=likeness, reverse=True)[:4]
