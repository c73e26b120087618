"""The table of a sweep: where each run stands, and what its metrics say, whatever lies there in their place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.sweep_figures import sweep_grid, sweep_summary
from orchestrator.sweep_states import DONE, FAILED, RUNNING, State
from tests.orchestrator.stand_in import sweep_of


def cells(sweep, states, lines=None) -> dict[str, str]:
    grid = sweep_grid(sweep, states, lines or {})
    return dict(zip([column.title for column in grid.columns], grid.rows[0], strict=True))


def with_folder(tmp_path):
    [run] = sweep_of("a").runs
    return replace(sweep_of("a"), runs=[replace(run, command=replace(run.command, work_dir=tmp_path))])


def test_where_a_run_stands():
    state = State(RUNNING, 2, context="far", gpus="0,1", why="old")
    row = cells(sweep_of("a"), {"a": state}, {"a": "epoch 3\x1b[2J"})
    assert row == {"run": "a", "state": "running", "slot": "far 0,1", "attempts": "2", "exit code": "-", "top-1 %, last": "-",
                   "best": "-", "last line": "epoch 3\\x1b[2J"}  # fmt: skip
    assert cells(sweep_of("a"), {})["state"] == "waiting"
    assert cells(sweep_of("a"), {"a": replace(state, gpus="none", context="")})["slot"] == "cpu"


def test_how_many():
    states = {"a": State(DONE), "b": State(FAILED), "d": State(RUNNING)}
    assert sweep_summary(sweep_of(*"abcd"), states) == "1 of 4 done, 1 failed, 1 running, 1 waiting"


def test_metrics(tmp_path):
    (tmp_path / "metrics.json").write_text('{"selection": {"last": {"top1": 0.5}, "best_on_validation": {"top1": 0.75}}}')
    row = cells(with_folder(tmp_path), {})
    assert (row["top-1 %, last"], row["best"]) == ("50.00", "75.00")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "{}", '{"selection": []}', '{"selection": {"last": 3}}', '{"selection": {"last": {"top1": "x"}}}', "\0"],
)
def test_metrics_that_say_nothing(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    assert cells(with_folder(tmp_path), {})["top-1 %, last"] == "-"
