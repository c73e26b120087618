"""The verdicts in a terminal or a log, when all have run: tables that keep their words whole, then the failures."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.figures import Grid, plain, verdict_grid, vram_grid, vram_remarks
from orchestrator.terminal import STYLES
from orchestrator.verdict import Verdict

_GAP = 2


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
    return grid.only(kept)


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
