"""Every recipe on several sizes of card: in a terminal, and as the table of docs/which-gpu.md."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.answers import Answer, Question
from planner.card.budget import GIB
from planner.show.table import COLOURS, WORDS


def render_sizes(questions: Sequence[Question], columns: Sequence[Sequence[Answer]], console: Console) -> None:
    """Print one row for each recipe, one column for each card; `columns[i]` answers `questions[i]`."""
    table = Table(title="Will it train?", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("recipe", overflow="fold")
    for question in questions:
        table.add_column(f"{question.budget.vram_gib:.4g} GiB", no_wrap=True)
    model = ""
    for row in zip(*columns, strict=True):
        if row[0].model != model:
            model = row[0].model
            table.add_row(Text(model, style="bold"))
        table.add_row(f"  {row[0].recipe}", *(Text(_word(one), style=COLOURS.get(_word(one), "magenta")) for one in row))
    console.print(table)
    smallest = f"{questions[0].budget.vram_gib:g}"
    console.print(f"{WORDS} One size alone (--vram {smallest}) shows the levers.", style="dim", highlight=False)


def markdown(questions: Sequence[Question], columns: Sequence[Sequence[Answer]], command: str) -> str:
    """The same as a page: what fits, and with which flags; `command` is what made it."""
    sizes = [f"{question.budget.vram_gib:.4g} GB" for question in questions]
    lines = [
        "# Which GPU for which recipe",
        "",
        f"Made by `{command}`, torch {torch.__version__.partition('+')[0]}, {datetime.date.today()}. A prediction, on tensors",
        "without values; [plan.md](plan.md) says how.",
        "",
        WORDS,
        f"What is taken from a card: {questions[0].budget.sentence()}.",
        "GB in a row: reserved in training, most likely value, for the recipe as it is. A tight recipe names the flags",
        "with which it fits; they are what `--fit` chooses.",
        "",
        f"| recipe | batch | GB | {' | '.join(sizes)} |",
        f"|---|---|---|{'---|' * len(sizes)}",
    ]
    for row in zip(*columns, strict=True):
        first = row[0]
        batch, peak = "", ""
        if first.config is not None and first.verdict is not None:
            pieces = f" in pieces of {first.config.forward_batch_size}" if first.config.forward_batch_size else ""
            batch, peak = f"{first.config.batch_size}{pieces}", f"{first.verdict.train.point / GIB:.1f}"
        lines.append(f"| {first.model} {first.recipe} | {batch} | {peak} | {' | '.join(map(_cell, row))} |")
    return "\n".join(lines) + "\n"


def _word(answer: Answer) -> str:
    return answer.verdict.word if answer.verdict else "not judged"


def _cell(answer: Answer) -> str:
    if answer.verdict is None:
        return f"not judged: {answer.problem}"
    return f"tight: `{answer.verdict.lever}`" if answer.verdict.lever else answer.verdict.word
