"""What a terminal and a log show in the end: tables that keep their words whole, nothing that drives the terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from orchestrator import figures, report
from orchestrator.verdict import Verdict

RESULT = {
    "kind": "smoke_result", "device": "cuda:0", "gpu": "NVIDIA GeForce RTX 4070", "assertions": {"forward": True},
    "parameters": 1_446_672,
    "loss": 4.213346567849256, "peak_rss_bytes": 870 * 2**20, "peak_cuda_bytes": 1234 * 2**20,
    "peak_cuda_reserved_bytes": 2345 * 2**20,
    "versions": {"python": "3.11.2", "torch": "2.13.0+cpu", "cuda": "12.1", "numpy": "1.26.4"},
}  # fmt: skip
VRAM = {
    "limit_gib": 8.0, "recipe": "ntu60_xsub", "batch": 64, "word": "tight", "reason": "fits with --recompute blocks",
    "usable_mib": 7424.0, "predicted_mib": {"train": 2542.0, "eval": 925.6},
    "interval": {"train": [2204.1, 3313.7], "eval": [721.2, 1504.5]},
    "measured_allocated_mib": 6012.3, "measured_reserved_mib": 6420.0, "measured_note": "",
}  # fmt: skip


def verdict(model: str, passed: bool = True, **changed) -> Verdict:
    return Verdict(model, passed, "passed" if passed else "exit code 3", "" if passed else "see the log", 13.62,
                   {**RESULT, **changed}, image_bytes=1_125_134_700)  # fmt: skip


def console(width: int = 160, **options) -> Console:
    return Console(file=io.StringIO(), width=width, **options)


def shown(verdicts, width: int = 160) -> str:
    where = console(width)
    report.report(verdicts, where)
    return where.file.getvalue()


def test_all_columns_at_160():
    out = shown([verdict("ctrgcn")], 160)
    for words in (
        "peak RSS MiB", "GPU MiB allocated", "GPU MiB reserved", "image MB", "python", "torch", "CUDA", "parameters",
        "loss", "13.6", "870", "1234", "2345", "1125", "3.11.2", "2.13.0+cpu", "12.1", "1,446,672", "4.213347",
    ):  # fmt: skip
        assert words in out, words
    assert "no room" not in out


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_words_stay_whole_and_lines_within_the_width(width):
    verdicts = [verdict("ctrgcn", vram=VRAM), verdict("freqmixformer", False, vram={**VRAM, "word": "comfortable"})]
    out = shown(verdicts, width)
    for grid in (figures.verdict_grid(verdicts), figures.vram_grid(verdicts)):
        narrowed = report.narrowed(grid, width)
        titles = [column.title for column in narrowed.columns]
        assert {"model", "verdict"} <= set(titles)
        for text in [*titles, *(cell for row in narrowed.rows for cell in row)]:
            for word in text.split():
                assert re.search(rf"(?<!\S){re.escape(word)}(?!\S)", out), word
        assert ("no room here for" in out) or len(narrowed.columns) == len(grid.columns)
        where = console(width)
        where.print(report.drawn(narrowed, width))
        assert max(map(len, where.file.getvalue().splitlines())) <= width


def test_at_80_the_less_weighty_columns_are_left_out_by_name():
    out = shown([verdict("freqmixformer")], 80)
    assert "no room here for image MB, python, CUDA, loss: see --html or --json" in " ".join(out.split())
    assert "3.11.2" not in out and "4.213347" not in out
    assert "1234" in out and "870" in out and "1,446,672" in out


def test_columns_of_gpu_memory_only_where_a_gpu_was_used():
    without = {"peak_cuda_bytes": None, "peak_cuda_reserved_bytes": None}
    assert "GPU" not in shown([verdict("ctrgcn", **without)])
    mixed = shown([verdict("ctrgcn", **without), verdict("hypergcn")])
    assert "GPU MiB allocated" in mixed and "GPU MiB reserved" in mixed


def test_rows_are_in_the_order_given():
    out = shown([verdict("msg3d"), verdict("ctrgcn"), verdict("hypergcn")])
    assert sorted(("ctrgcn", "hypergcn", "msg3d"), key=out.index) == ["msg3d", "ctrgcn", "hypergcn"]


def test_a_failure_is_told_with_its_log_as_it_is_but_for_control_characters():
    failed = Verdict("ctrgcn", False, "the log is not clean: \x1b]0;title\x07", "mend it",
                     log_tail=("\x1b[2J[red]x[/red]\tend", "é"), command="docker run --rm skeleton-lab:ctrgcn")  # fmt: skip
    where = console(80, force_terminal=True)
    report.report([failed], where)
    out = where.file.getvalue()
    assert "\x1b]" not in out and "\x1b[2J" not in out and "\x07" not in out
    assert r"\x1b[2J[red]x[/red]" in out and r"\x1b]0;title\x07" in out and "é" in out
    assert "docker run --rm skeleton-lab:ctrgcn" in out


@pytest.mark.parametrize(
    "result",
    [{}, {"versions": ["a"], "parameters": "many", "loss": None, "peak_rss_bytes": "x", "assertions": []},
     {"versions": {"torch": None}, "vram": {"word": "no"}}],
)  # fmt: skip
def test_a_result_with_less_than_expected_is_shown_too(result):
    assert "ctrgcn" in shown([Verdict("ctrgcn", False, "no result line", result=result)])
