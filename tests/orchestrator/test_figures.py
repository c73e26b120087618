"""The verdicts before they are shown: whatever a container says, it comes out as text or counts as not said."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from orchestrator import figures
from orchestrator.page import page
from orchestrator.verdict import Verdict
from tests.orchestrator.test_report import RESULT, VRAM, shown, verdict


def test_text_that_no_terminal_can_print_is_written_out():
    assert figures.plain("a\x00b\u202ec\ud800d\r\n") == r"a\x00b\u202ec\ud800d\r\n"
    assert figures.plain("a\tb — é 骨") == "a   b — é 骨"


def test_the_summary_names_what_was_not_run():
    verdicts = [verdict("ctrgcn"), verdict("hypergcn", False)]
    assert figures.summary(verdicts, ["ctrgcn", "hypergcn"]) == "1 of 2 passed"
    assert figures.summary(verdicts, ["ctrgcn", "hypergcn", "msg3d"]) == "1 of 3 passed; not run: msg3d"


WRONG = {
    "limit_gib": ["8", None, float("nan"), 10**400], "recipe": [None, ["x"]], "batch": ["64", {}], "word": [None, 3],
    "reason": [None, 5], "usable_mib": ["much", None], "predicted_mib": [None, 5.0, {}, {"train": 1.0, "eval": "x"}],
    "interval": [[], {"train": [1.0], "eval": [1.0, 2.0]}, {"train": 5, "eval": 5}, {"train": ["a", "b"], "eval": [1, 2]}],
    "measured_allocated_mib": [None, "x"], "measured_reserved_mib": [[], float("inf")], "measured_note": [None, {}],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_gpu_memory_of_another_kind_than_expected_counts_as_not_said(name, value):
    """All keys are there; the one is no answer, whether it came from a broken container or a hostile one."""
    right, wrong = verdict("ctrgcn", vram=VRAM), verdict("msg3d", vram={**VRAM, name: value})
    grid = figures.vram_grid([wrong, right])
    assert grid is not None and [row[0] for row in grid.rows] == ["ctrgcn"]
    assert figures.vram_grid([wrong]) is None and figures.vram_remarks([wrong]) == []
    assert "of GPU memory" not in shown([wrong]) and "msg3d" in shown([wrong])
    assert "GPU memory" not in page([wrong], ["msg3d"], datetime.now(timezone.utc))


def test_what_was_not_measured_is_no_wrong_kind():
    unmeasured = {**VRAM, "measured_allocated_mib": None, "measured_reserved_mib": None, "measured_note": "not measured (no GPU)"}
    grid = figures.vram_grid([verdict("ctrgcn", vram=unmeasured)])
    assert grid is not None and "not measured (no GPU)" in grid.rows[0]


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), True, "x", [1], {}])
def test_a_figure_that_cannot_be_one_is_left_out(value):
    for name in ("parameters", "loss", "peak_rss_bytes", "peak_cuda_bytes", "peak_cuda_reserved_bytes"):
        assert name in RESULT
        [row] = figures.verdict_grid([Verdict("a", True, "passed", result={name: value})]).rows
        assert set(row) == {"a", figures.PASSED, "0.0", figures.NONE}
