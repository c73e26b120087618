"""The page: one file, no script, nothing fetched, and what a container says stays text."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from html.parser import HTMLParser

import pytest

from orchestrator.page import page
from orchestrator.verdict import Verdict
from tests.orchestrator.test_report import VRAM, verdict

WHEN = datetime(2026, 11, 21, 17, 4, 5, tzinfo=timezone.utc)
VOID = {"meta"}
INLINE = {"a", "span", "time"}
ATTRIBUTES = {
    "lang", "charset", "name", "content", "http-equiv", "class", "scope", "role", "tabindex", "aria-label", "href", "id", "open",
    "datetime",
}  # fmt: skip


class Document(HTMLParser):
    """What a browser makes of a page: its tags with their attributes, its text, and that each tag is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.text += "" if tag in INLINE else " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def words(self) -> str:
        return " ".join(self.text.split())


def rendered(verdicts, models=None) -> Document:
    return Document(page(verdicts, models or [verdict.model for verdict in verdicts], WHEN))


@pytest.fixture
def verdicts() -> list[Verdict]:
    failed = Verdict(
        "msg3d", False, "assertions that do not hold: forward", "see the log", 2.5,
        {"assertions": {"forward": False, "backward": True}}, ("first", "last"), 1_200_000_000, "docker run skeleton-lab:msg3d",
    )  # fmt: skip
    return [
        verdict("hypergcn", vram=VRAM),
        failed,
        verdict("ctrgcn", vram={**VRAM, "word": "no", "reason": "no lever is enough"}),
    ]


def test_what_it_says(verdicts):
    words = rendered(verdicts, ["hypergcn", "msg3d", "ctrgcn", "mamp"]).words()
    for told in (
        "Smoke tests: 2 of 4 passed; not run: mamp", "2026-11-21 17:04 UTC", "NVIDIA GeForce RTX 4070", "cuda:0",
        "2.13.0+cpu", "3.11.2", "1,446,672", "4.213347", "870", "1234", "2345", "on 8 GiB of GPU memory",
        "2542 (2204 to 3314)", "6012 allocated, 6420 reserved", "hypergcn: fits with --recompute blocks",
        "assertions that do not hold: forward", "see the log", "docker run skeleton-lab:msg3d", "first last", "numpy",
    ):  # fmt: skip
        assert told in words, told
    assert "ctrgcn: no lever is enough" not in words  # a "no" is told with the failures


def test_verdicts_are_words_in_the_order_asked(verdicts):
    words = rendered(verdicts).words()
    assert words.index("hypergcn: passed") < words.index("msg3d: FAILED") < words.index("ctrgcn: passed")
    assert re.search(r"hypergcn passed .* msg3d FAILED .* ctrgcn passed", words)
    assert "forward does not hold" in words and "backward holds" in words and "tight" in words


def test_one_details_for_each_model_and_open_where_it_failed(verdicts):
    document = rendered(verdicts)
    assert ["open" in attributes for attributes in document.all("details")] == [False, True, False]
    targets = [attributes["id"] for attributes in document.all("details")]
    assert len(set(targets)) == 3
    assert [attributes["href"] for attributes in document.all("a")] == [f"#{target}" for target in targets]


def test_it_stands_alone_and_works_without_a_script(verdicts):
    html = page(verdicts, ["hypergcn"], WHEN)
    document = Document(html)
    assert html.startswith("<!DOCTYPE html>")
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & {tag for tag, _ in document.tags}
    assert "://" not in html and "url(" not in html and "@import" not in html
    assert "default-src 'none'" in html
    assert {name for _, attributes in document.tags for name in attributes} <= ATTRIBUTES


def test_it_can_be_read_by_all(verdicts):
    html = page(verdicts, ["hypergcn"], WHEN)
    document = Document(html)
    assert document.all("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in document.all("meta"))
    assert "prefers-color-scheme: dark" in html and "color-scheme: light dark" in html
    assert len(document.all("h1")) == 1 and len(document.all("title")) == 1
    headers = document.all("th")
    assert headers and all(attributes.get("scope") in ("col", "row") for attributes in headers)
    assert len(document.all("caption")) == 2
    tables = [attributes for attributes in document.all("div") if attributes.get("role") == "region"]
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in tables)  # scrolled by keyboard too


def test_no_table_of_gpu_memory_unless_asked():
    assert "GPU memory" not in rendered([verdict("ctrgcn")]).words()


HOSTILE = """<script>alert("x")</script><img src=x onerror='y'> " onmouseover="z" '><b>&amp;"""


def test_what_a_container_says_never_becomes_markup():
    vram = {
        **VRAM,
        "recipe": HOSTILE,
        "word": HOSTILE,
        "reason": HOSTILE,
        "measured_reserved_mib": None,
        "measured_note": HOSTILE,
    }
    result = {"device": HOSTILE, "gpu": HOSTILE, "versions": {"torch": HOSTILE, HOSTILE: "1"}, "vram": vram,
              "assertions": {HOSTILE: HOSTILE}, "loss": HOSTILE, "parameters": HOSTILE}  # fmt: skip
    document = rendered([Verdict(HOSTILE, False, HOSTILE, HOSTILE, 1.0, result, (HOSTILE,), command=HOSTILE)])
    assert not {"script", "img", "b"} & {tag for tag, _ in document.tags}
    assert {name for _, attributes in document.tags for name in attributes} <= ATTRIBUTES
    # heading and table of the model, both tables, facts, versions, assertion, reason, next step, remark, command, log
    assert document.text.count(HOSTILE) >= 12


def test_signs_that_no_document_may_hold_are_written_out():
    html = page([Verdict("ctrgcn", False, "bad", log_tail=("\x00\x1b[31mred\ud800\u202e",))], ["ctrgcn"], WHEN)
    html.encode()
    assert r"\x00\x1b[31mred\ud800\u202e" in html
    assert all(sign.isprintable() or sign == "\n" for sign in html)


@pytest.mark.parametrize(
    "result",
    [{}, {"versions": ["a"], "assertions": ["forward"], "device": 3, "gpu": ["x"], "loss": None}, {"vram": {"word": "no"}}],
)
def test_a_result_with_less_than_expected_is_shown_too(result):
    assert "ctrgcn: FAILED" in rendered([Verdict("ctrgcn", False, "no result line", result=result)]).words()


def test_none_at_all():
    assert "0 of 1 passed; not run: ctrgcn" in rendered([], ["ctrgcn"]).words()
