"""What a person sees while a run goes on: a live bar on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Display:
    """Shows the steps of one run; the bar counts all steps of all epochs, so its remaining time is that of the run."""

    def __init__(self, console: Console, *, steps: int, done: int) -> None:
        self.console = console
        self.live = console.is_terminal
        self._progress = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"), TextColumn("left"), TimeRemainingColumn(),
            console=console, transient=True, disable=not self.live,
        )  # fmt: skip
        self._task: TaskID = self._progress.add_task("train", total=steps, completed=done, status="")
        self._last = 0.0

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def step(self, done: int, describe: Any) -> None:
        """Advance to `done` steps; `describe()` is asked for the status text a few times a second at most."""
        if not self.live:
            return
        if time.monotonic() - self._last > 0.25:
            self._last = time.monotonic()
            self._progress.update(self._task, completed=done, status=describe())

    def line(self, text: str) -> None:
        self.console.print(text, highlight=False)
