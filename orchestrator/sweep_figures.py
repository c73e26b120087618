"""A sweep as a table: each run with where it stands, and what its metrics say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.figures import NONE, Column, Grid, plain
from orchestrator.sweep_file import Run, Sweep
from orchestrator.sweep_states import DONE, FAILED, RETRY, RUNNING, WAITING, State
from orchestrator.verdict import is_figure


def sweep_grid(sweep: Sweep, states: Mapping[str, State], lines: Mapping[str, str]) -> Grid:
    """One row for each run, in the order of the file. `lines`: what those at work wrote last."""
    columns = (
        Column("run", number=False), Column("state", number=False), Column("slot", 3, number=False), Column("attempts", 2),
        Column("exit code", 1), Column("top-1 %, last", 5), Column("best", 4), Column("last line", 6, number=False),
    )  # fmt: skip
    return Grid("sweep", columns, [_row(run, states.get(run.name, State()), lines.get(run.name)) for run in sweep.runs])


def sweep_summary(sweep: Sweep, states: Mapping[str, State]) -> str:
    """How many runs there are of each state."""
    counts = Counter(states.get(run.name, State()).state for run in sweep.runs)
    others = "".join(f", {counts[state]} {state}" for state in (FAILED, RUNNING, RETRY, WAITING) if counts[state])
    return f"{counts[DONE]} of {len(sweep.runs)} {DONE}{others}"


def _row(run: Run, state: State, line: str | None) -> Sequence[str]:
    slot = " ".join(word for word in (state.context, "cpu" if state.gpus == "none" else state.gpus) if word)
    last, best = _top1(run.command.work_dir / "metrics.json")
    return (
        run.name,
        state.state,
        plain(slot) or NONE,
        str(state.attempt),
        NONE if state.code is None else str(state.code),
        last,
        best,
        plain(state.why if line is None else line) or NONE,
    )


def _top1(file: Path) -> tuple[str, str]:
    """Of the last epoch and of the best one, where a run has written them."""
    try:
        selection = json.loads(file.read_bytes())["selection"]
        best = next((value for name, value in selection.items() if name.startswith("best_on_")), None)
        return _percent(selection.get("last")), _percent(best)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return NONE, NONE


def _percent(metrics: Any) -> str:
    value = metrics.get("top1") if isinstance(metrics, dict) else None
    return f"{100 * value:.2f}" if value is not None and is_figure(value) else NONE
