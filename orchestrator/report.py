"""What the smoke tests show in a terminal or a log: a status that counts while they run, then the tables and the failures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.verdict import Verdict, vram_of

LOG_WIDTH = 160
"""Columns of a log, which has no width of its own."""
NONE = "-"
"""In a cell of which nothing is known."""
PASSED, FAILED = "passed", "FAILED"
STYLES = {PASSED: "green", FAILED: "red", "comfortable": "green", "fits": "cyan", "tight": "yellow", "no": "red"}
_GAP = 2
_MIB = 2**20


@dataclass(frozen=True)
class Column:
    """A column. Where room is short, the one with the lowest `leaves` goes first; 0 never goes."""

    title: str
    leaves: int = 0
    number: bool = True


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn, in a terminal or on a page; in every row the model comes first."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


def plain(text: str) -> str:
    """`text` with what cannot be printed written out (\\x1b): a container's log must not drive the reader's terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text.expandtabs(4))


def console_of_stdout() -> Console:
    """The console of the standard output. A log gets no control characters, also where FORCE_COLOR is set."""
    return Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH, force_terminal=False)


# --- while they run


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
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
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


# --- when all have run


def verdict_grid(verdicts: Sequence[Verdict]) -> Grid:
    """One row for each verdict, in their order; columns of GPU memory only where a GPU was used."""
    columns = (
        Column("model", number=False), Column("verdict", number=False), Column("s"), Column("peak RSS MiB", 10),
        Column("GPU MiB allocated", 9), Column("GPU MiB reserved", 7), Column("image MB", 2), Column("python", 1, number=False),
        Column("torch", 5, number=False), Column("CUDA", 3, number=False), Column("parameters", 6), Column("loss", 4),
    )  # fmt: skip
    grid = Grid("smoke tests", columns, [_figures(verdict) for verdict in verdicts])
    of_gpu = {i for i, column in enumerate(columns) if column.title.startswith("GPU")}
    if any(row[i] != NONE for row in grid.rows for i in of_gpu):
        return grid
    return _only(grid, [i for i in range(len(columns)) if i not in of_gpu])


def vram_grid(verdicts: Sequence[Verdict]) -> Grid | None:
    """What each model's main recipe reserves of a GPU's memory, predicted and measured; None where nobody asked."""
    judged = _judged(verdicts)
    if not judged:
        return None
    columns = (
        Column("model", number=False), Column("recipe", 2, number=False), Column("batch", 1),
        Column("predicted training", number=False), Column("predicted evaluation", 3, number=False),
        Column("measured", 4, number=False), Column("verdict", number=False),
    )  # fmt: skip
    title = f"on {judged[0][1]['limit_gib']:g} GiB of GPU memory, MiB"
    return Grid(title, columns, [_vram_figures(model, vram) for model, vram in judged])


def vram_remarks(verdicts: Sequence[Verdict]) -> list[str]:
    """How the tight ones fit; a "no" is told with the failures."""
    judged = _judged(verdicts)
    return [f"{model}: {plain(vram['reason'])}" for model, vram in judged if vram["reason"] and vram["word"] != "no"]


def summary(verdicts: Sequence[Verdict], models: Sequence[str]) -> str:
    """How many of the `models` asked about passed, and which were not reached."""
    passed = sum(verdict.passed for verdict in verdicts)
    reached = {verdict.model for verdict in verdicts}
    missing = [model for model in models if model not in reached]
    return f"{passed} of {len(models)} passed" + (f"; not run: {', '.join(missing)}" if missing else "")


def versions(verdict: Verdict) -> dict[str, str]:
    """Name -> version in a container, {} where it told none."""
    told = verdict.result.get("versions")
    return {str(name): plain(str(version)) for name, version in told.items() if version} if isinstance(told, dict) else {}


def report(verdicts: Sequence[Verdict], console: Console) -> None:
    """The tables, then of each failure its reason, what to do next, how to repeat it by hand, and the end of its log."""

    def told(line: str, style: str = "") -> None:
        console.print(plain(line), style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)

    for grid in (verdict_grid(verdicts), vram_grid(verdicts)):
        if grid is None:
            continue
        fitting = narrowed(grid, console.width)
        console.print(drawn(fitting, console.width))
        shown = {column.title for column in fitting.columns}
        if left := [column.title for column in grid.columns if column.title not in shown]:
            told(f"no room here for {', '.join(left)}: see --html or --json", "dim")
        console.print()
    for remark in vram_remarks(verdicts):
        told(remark)
    for verdict in verdicts:
        if verdict.passed:
            continue
        told(f"{verdict.model}: {verdict.reason}", "red")
        if verdict.next_step:
            told(f"  next: {verdict.next_step}")
        if verdict.command:
            told(f"  by hand: {verdict.command}")
        for line in verdict.log_tail:
            told(f"  | {line}")


def narrowed(grid: Grid, room: int) -> Grid:
    """`grid` without the columns that leave first, so many that the longest words of the others stand in `room` characters."""
    kept = list(range(len(grid.columns)))
    for i in sorted((i for i in kept if grid.columns[i].leaves), key=lambda i: grid.columns[i].leaves):
        if sum(_least(grid, j) for j in kept) + _GAP * (len(kept) - 1) <= room:
            break
        kept.remove(i)
    return _only(grid, kept)


def drawn(grid: Grid, room: int) -> Table:
    """`grid` in `room` characters: a cell breaks between words, within one only where its columns cannot be narrowed so far."""
    least = [_least(grid, i) for i in range(len(grid.columns))]
    widths = [max(map(len, cells)) for cells in _cells(grid)]
    room -= _GAP * (len(widths) - 1)
    while sum(widths) > room and widths != least:
        widest = max(range(len(widths)), key=lambda i: widths[i] - least[i])
        widths[widest] -= 1
    table = Table(
        title=grid.title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
    )
    for column, width in zip(grid.columns, widths, strict=True):
        table.add_column(column.title, justify="right" if column.number else "left", width=width, overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


def _cells(grid: Grid) -> list[tuple[str, ...]]:
    """Column by column: its title and its cells."""
    return [(column.title, *(row[i] for row in grid.rows)) for i, column in enumerate(grid.columns)]


def _least(grid: Grid, i: int) -> int:
    """Characters of the longest word in a column."""
    return max(len(word) for cell in _cells(grid)[i] for word in cell.split() or [""])


def _only(grid: Grid, kept: Sequence[int]) -> Grid:
    return replace(grid, columns=[grid.columns[i] for i in kept], rows=[[row[i] for i in kept] for row in grid.rows])


def _figures(verdict: Verdict) -> tuple[str, ...]:
    result, told = verdict.result, versions(verdict)
    count, loss = result.get("parameters"), result.get("loss")
    return (
        verdict.model,
        PASSED if verdict.passed else FAILED,
        f"{verdict.seconds:.1f}",
        _amount(result.get("peak_rss_bytes"), _MIB),
        _amount(result.get("peak_cuda_bytes"), _MIB),
        _amount(result.get("peak_cuda_reserved_bytes"), _MIB),
        _amount(verdict.image_bytes, 10**6),
        *(told.get(name, NONE) for name in ("python", "torch", "cuda")),
        f"{count:,}" if isinstance(count, int) else NONE,
        f"{loss:.6f}" if isinstance(loss, float) else NONE,
    )


def _vram_figures(model: str, vram: Mapping[str, Any]) -> tuple[str, ...]:
    predicted = (f"{vram['predicted_mib'][phase]:.0f} ({' to '.join(f'{bound:.0f}' for bound in vram['interval'][phase])})"
                 for phase in ("train", "eval"))  # fmt: skip
    allocated, reserved = vram["measured_allocated_mib"], vram["measured_reserved_mib"]
    measured = plain(vram["measured_note"]) if reserved is None else f"{allocated:.0f} allocated, {reserved:.0f} reserved"
    return (model, plain(vram["recipe"]), str(vram["batch"]), *predicted, measured, plain(vram["word"]))


def _judged(verdicts: Sequence[Verdict]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(verdict.model, vram) for verdict in verdicts if (vram := vram_of(verdict.result))]


def _amount(value: Any, unit: int) -> str:
    return f"{value / unit:.0f}" if isinstance(value, (int, float)) and value else NONE
