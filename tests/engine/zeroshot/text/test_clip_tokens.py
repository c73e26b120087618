"""CLIP's tokens: pair encoding on a small table of our own, and on CLIP's."""

from __future__ import annotations

import gzip
import hashlib
import sys

import pytest
import torch

from engine.zeroshot.text import clip_tokens, descriptions
from engine.zeroshot.text.clip_tokens import Tokenizer, cleaned, tokenizer, words
from shared_data.errors import UsageError

SMALL = [("s", "i"), ("i", "t</w>"), ("si", "t</w>"), ("a", "a"), ("o", "w"), ("d", "ow"), ("dow", "n</w>")]


@pytest.fixture
def small() -> Tokenizer:
    return tokenizer(SMALL)


@pytest.fixture(scope="module")
def official() -> Tokenizer:
    return clip_tokens.clip()


def pieces(found: Tokenizer, text: str) -> list[str]:
    return [list(found.numbers)[token] for token in found.encode(text)]


def test_pairs_are_joined_in_the_order_of_the_table(small: Tokenizer) -> None:
    assert pieces(tokenizer(SMALL[:2]), "sit") == ["si", "t</w>"]  # which leaves no "i t" to be joined
    assert pieces(tokenizer([SMALL[1], SMALL[0]]), "sit") == ["s", "it</w>"]
    assert pieces(small, "Sit  DOWN") == ["sit</w>", "down</w>"]
    assert pieces(small, "aaaaab") == ["aa", "aa", "a", "b</w>"]  # from the left, none twice


def test_numbers_of_bytes_and_ends(small: Tokenizer) -> None:
    assert small.encode("!") == [256] and small.encode("!a") == [256, 256 + ord("a") - ord("!")]
    assert (small.start, small.end) == (512 + len(SMALL), 513 + len(SMALL))


@pytest.mark.parametrize("text", ["sit down", "a (b) c-d", "it's 42", "x & y"])
def test_round_trip(small: Tokenizer, text: str) -> None:
    back = small.decode(small.batch([text])[0].tolist())
    assert back.replace(" ", "") == text.replace(" ", "") and back.split() == words(text)


def test_words() -> None:
    assert words("don't they're 'quoted' x's") == ["don", "'t", "they", "'re", "'", "quoted", "'", "x", "'s"]
    assert words("a12b ... (hi)!?") == ["a", "1", "2", "b", "...", "(", "hi", ")!?"]
    assert words("") == [] and cleaned(" A&amp;amp;B \n c ") == "a&b c"


def test_start_end_padding(small: Tokenizer) -> None:
    rows = small.batch(["sit", "sit sit", ""], 6)
    assert rows.dtype == torch.int64 and rows.shape == (3, 6)
    sit = small.encode("sit")[0]
    assert rows.tolist() == [
        [small.start, sit, small.end, 0, 0, 0], [small.start, sit, sit, small.end, 0, 0], [small.start, small.end, 0, 0, 0, 0],
    ]  # fmt: skip


def test_a_text_that_does_not_fit_is_refused_or_cut(small: Tokenizer) -> None:
    assert small.batch(["sit " * 4], 6)[0, -1] == small.end
    with pytest.raises(UsageError, match=r"5 tokens does not fit\n.*text 2"):
        small.batch(["sit", "sit " * 5], 6)
    cut = small.batch(["sit " * 5], 6, cut=True)
    assert torch.equal(cut, small.batch(["sit " * 4], 6))


def test_other_than_ascii_needs_ftfy(small: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(UsageError, match="ftfy"):
        small.encode("caf\N{LATIN SMALL LETTER E WITH ACUTE}")


def test_the_table_is_the_beginning_of_clips_own() -> None:
    """SHA-256 of lines 2 to 48,895 of the published table."""
    content = gzip.decompress(clip_tokens.MERGES.read_bytes())
    assert hashlib.sha256(content).hexdigest() == "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"


def test_official_numbers(official: Tokenizer) -> None:
    assert (official.start, official.end) == (49406, 49407)
    assert official.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert official.encode("hello world!") == [3306, 1002, 256]


def test_official_tokens_of_our_texts(official: Tokenizer) -> None:
    for kind in descriptions.KINDS:
        texts = [text for classes in (10, 120) for text in descriptions.ours(kind, classes).texts]
        rows = official.batch(texts)
        assert [official.decode(row).split() for row in rows.tolist()] == [words(cleaned(text)) for text in texts]
