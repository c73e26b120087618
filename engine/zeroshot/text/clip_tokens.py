"""CLIP's tokens: text as numbers of a vocabulary of 49,408 pieces of words, by byte-level pair encoding.

The vocabulary follows from CLIP's public table of merges, whose first 48,894 lie here (`clip_vocabulary/`, MIT licence): 256
bytes, the same at the end of a word, one piece for each of the merges, then start and end.

Source: Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, ACL 2016 (pair encoding); Radford et al.,
Learning Transferable Visual Models From Natural Language Supervision, ICML 2021 (its use).
"""

from __future__ import annotations

import gzip
import html
import importlib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from shared_data.errors import UsageError

MERGES = Path(__file__).parent / "clip_vocabulary" / "merges.txt.gz"
END_OF_WORD = "</w>"
ENDINGS = ("'re", "'ve", "'ll", "'s", "'t", "'m", "'d")  # pieces of their own after any word


@dataclass(frozen=True)
class Tokenizer:
    """Pieces and merges: `numbers` gives each piece its number, `ranks` each pair of pieces its place among the merges."""

    numbers: dict[str, int]
    ranks: dict[tuple[str, str], int]
    known: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)  # words met before

    @property
    def start(self) -> int:
        return len(self.numbers)

    @property
    def end(self) -> int:
        return len(self.numbers) + 1

    def encode(self, text: str) -> list[int]:
        """The numbers of `text` without start and end. Raises `UsageError` for what `cleaned` refuses."""
        found: list[int] = []
        for word in words(cleaned(text)):
            if word not in self.known:
                self.known[word] = tuple(self.numbers[piece] for piece in self._pieces(word))
            found += self.known[word]
        return found

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of numbers; start, end and what comes after the first end are left out. Words end in one blank."""
        names = list(self.numbers)
        kept = itertools.takewhile(lambda token: token != self.end, (t for t in tokens if t != self.start))
        pieces = [names[token] for token in kept]
        joined = "".join(p.removesuffix(END_OF_WORD) + " " if p.endswith(END_OF_WORD) else p for p in pieces)
        back = {letter: byte for byte, letter in _letters().items()}
        return bytes(back.get(letter, 32) for letter in joined).decode("utf-8", "replace").rstrip(" ")

    def batch(self, texts: Sequence[str], context: int = 77, *, cut: bool = False) -> Tensor:
        """(N, context) int64: start, the text, end, and zeros.

        A text that does not fit is a `UsageError` that says which, or with `cut` loses its last tokens before the end.
        """
        rows = torch.zeros(len(texts), context, dtype=torch.int64)
        for n, text in enumerate(texts):
            tokens = self.encode(text)
            if len(tokens) > context - 2 and not cut:
                raise UsageError(
                    f"a text of {len(tokens)} tokens does not fit", where=f"text {n + 1}: {text[:60]!r}",
                    expected=f"at most {context - 2}", next_step="shorten it, or have it cut",
                )  # fmt: skip
            row = [self.start, *tokens[: context - 2], self.end]
            rows[n, : len(row)] = torch.tensor(row)
        return rows

    def _pieces(self, word: str) -> list[str]:
        """A word's pieces: from single bytes, the pair that was merged first in the table is joined until none is in it."""
        letters = _letters()
        pieces = [letters[byte] for byte in word.encode("utf-8")]
        pieces[-1] += END_OF_WORD
        while len(pieces) > 1:
            pair = min(itertools.pairwise(pieces), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if pair not in self.ranks:
                break
            joined: list[str] = []
            for piece in pieces:
                # A piece that was just joined is longer than the pair's first, so it is never joined twice.
                if joined and (joined[-1], piece) == pair:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            pieces = joined
        return pieces


def tokenizer(merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """The tokenizer with these `merges`, in their order."""
    letters = list(_letters().values())
    pieces = [*letters, *(letter + END_OF_WORD for letter in letters), *(first + second for first, second in merges)]
    return Tokenizer({piece: n for n, piece in enumerate(pieces)}, {pair: n for n, pair in enumerate(merges)})


def clip() -> Tokenizer:
    """CLIP's own."""
    with gzip.open(MERGES, "rt", encoding="utf-8") as file:
        pairs = [line.split() for line in file]
    return tokenizer([(first, second) for first, second in pairs])


def cleaned(text: str) -> str:
    """`text` as CLIP sees it: HTML entities resolved twice, blanks joined, lower case; what is not ASCII is first mended by ftfy.

    Raises `UsageError` for a text that is not ASCII where ftfy is not installed.
    """
    if not text.isascii():
        try:
            ftfy = importlib.import_module("ftfy")
        except ImportError:
            raise UsageError(
                "a text that is not plain ASCII needs the package ftfy to be read as CLIP reads it", where=repr(text[:60]),
                next_step="pip install ftfy, or write the text in ASCII",
            ) from None  # fmt: skip
        text = str(ftfy.fix_text(text))
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip().lower()


def words(text: str) -> list[str]:
    """The words of a cleaned `text`: runs of letters, single digits, runs of other signs, and endings such as ``'s``."""
    found: list[str] = []
    at = 0
    while at < len(text):
        ending = next((ending for ending in ENDINGS if text.startswith(ending, at)), None)
        kind = _kind(text[at])
        stop = at + (len(ending) if ending else 1)
        while not ending and kind in "LS" and stop < len(text) and _kind(text[stop]) == kind:
            stop += 1
        if kind != " ":
            found.append(text[at:stop])
        at = stop
    return found


def _kind(letter: str) -> str:
    """L for a letter, N for a number, a blank for blanks, S for any other sign."""
    if letter.isspace():
        return " "
    category = unicodedata.category(letter)[0]
    return category if category in "LN" else "S"


def _letters() -> dict[int, str]:
    """A visible letter for each byte: itself if it is visible in Latin-1, else the next free one from number 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {**{byte: chr(byte) for byte in visible}, **{byte: chr(256 + n) for n, byte in enumerate(hidden)}}
