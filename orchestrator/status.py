"""What each model is doing while the smoke tests run: a table that counts in a terminal, a line for each verdict in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.figures import FAILED, PASSED
from orchestrator.terminal import STYLES


@dataclass(frozen=True)
class _Stage:
    """Where a model is. `since` and `ended` on the clock, in seconds; `ran`: how long its container ran."""

    name: str
    since: float
    ended: float | None = None
    ran: float = 0.0
    verdict: str = ""


class Status:
    """What each model is doing, drawn anew whenever it is shown, so that the seconds count."""

    def __init__(self, models: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stages = {model: _Stage("waiting", clock()) for model in models}

    def told(self, model: str, stage: str) -> None:
        """`model` has come to `stage`; "passed" and "failed" are its verdict. Any thread may call."""
        now, before = self._clock(), self._stages[model]
        ran = now - before.since if before.name == "running" else before.ran
        if stage in ("passed", "failed"):
            verdict = PASSED if stage == "passed" else FAILED
            self._stages[model] = _Stage("done", before.since, now, ran, verdict)
        else:
            self._stages[model] = _Stage(stage, now, None, ran)

    def line(self, model: str) -> str:
        """A model's verdict as a line of a log."""
        stage = self._stages[model]
        return f"{model:<{max(map(len, self._stages))}}  {stage.verdict}  {stage.ran:.1f} s"

    def __rich__(self) -> Group:
        now, stages = self._clock(), dict(self._stages)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title, width in (("model", 0), ("stage", 8), ("s", 4), ("verdict", 0)):  # it does not jump when a stage changes
            table.add_column(title, justify="right" if title == "s" else "left", no_wrap=True, min_width=width)
        for model, stage in stages.items():
            seconds = stage.ran if stage.verdict else now - stage.since
            told = "" if stage.name == "waiting" else f"{seconds:.0f}"
            table.add_row(model, stage.name, told, Text(stage.verdict, style=STYLES.get(stage.verdict, "")))
        done = sum(bool(stage.verdict) for stage in stages.values())
        failed = sum(stage.verdict == FAILED for stage in stages.values())
        return Group(table, Text(f"{done} of {len(stages)} done" + (f", {failed} failed" if failed else "")))


@contextmanager
def watched(models: Sequence[str], console: Console) -> Iterator[Callable[[str, str], None]]:
    """Show what `smoke` tells: a table that is drawn over in a terminal, a line for each verdict in a log."""
    status = Status(models)
    if console.is_interactive:
        with Live(status, console=console, transient=True, refresh_per_second=4):
            yield status.told
        return

    def told(model: str, stage: str) -> None:
        status.told(model, stage)
        if stage in ("passed", "failed"):
            console.print(status.line(model), markup=False, highlight=False, soft_wrap=True)

    yield told
