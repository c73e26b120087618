"""CLIP's tokens: pair encoding on a small table of our own, and on CLIP's own where a package holds it."""

from __future__ import annotations

import gzip
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from engine.zeroshot import clip_tokens, descriptions
from engine.zeroshot.clip_tokens import Tokenizer, cleaned, tokenizer, words
from shared_data.errors import DataError, MissingInputError, UsageError

SMALL = [("s", "i"), ("i", "t</w>"), ("si", "t</w>"), ("a", "a"), ("o", "w"), ("d", "ow"), ("dow", "n</w>")]


@pytest.fixture
def small() -> Tokenizer:
    return tokenizer(SMALL)


@pytest.fixture
def official() -> Tokenizer:
    try:
        return clip_tokens.load()
    except MissingInputError:
        pytest.skip(f"no installed package carries {clip_tokens.MERGES_FILE}: pip install '.[zeroshot]'")


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


def test_another_table_is_refused(tmp_path: Path) -> None:
    table = tmp_path / clip_tokens.MERGES_FILE
    with pytest.raises(MissingInputError, match="no such table"):
        clip_tokens.load(table)
    for content in (gzip.compress(b"#version\na b\n"), b"#version\na b\n"):
        table.write_bytes(content)
        with pytest.raises(DataError, match="not CLIP's table"):
            clip_tokens.load(table)
    table.write_bytes(gzip.compress(b"a" * 1000)[:-12])
    with pytest.raises(DataError, match="cannot be read"):
        clip_tokens.load(table)


def test_a_package_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "clip"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / clip_tokens.MERGES_FILE).write_bytes(b"another table")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match="not CLIP's table") as refusal:
        clip_tokens.load()
    assert str(package) in str(refusal.value)


def test_no_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingInputError, match="pip install"):
        clip_tokens.load()


def test_official_numbers(official: Tokenizer) -> None:
    assert (official.start, official.end) == (49406, 49407)
    assert official.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert official.encode("hello world!") == [3306, 1002, 256]


def test_official_tokens_of_our_texts(official: Tokenizer) -> None:
    for kind in descriptions.KINDS:
        texts = [text for classes in (10, 120) for text in descriptions.ours(kind, classes).texts]
        rows = official.batch(texts)
        assert [official.decode(row).split() for row in rows.tolist()] == [words(cleaned(text)) for text in texts]
