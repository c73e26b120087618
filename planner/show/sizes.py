"""Every recipe on several sizes of card: in a terminal, and as the table of docs/which-gpu.md."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from rich.text import Text

from planner.answers import Answer, Question
from planner.card.budget import GIB
from planner.duration import told_seconds
from planner.show.table import COLOURS, WORDS, ZERO_SHOT, for_a_try, grouped, remarks, titled
from planner.verdict import Verdict

BEGINS = "# Which GPU for which recipe\n"
"""How such a table begins."""


def render_sizes(
    questions: Sequence[Question], columns: Sequence[Sequence[Answer]], console: Console, *, everything: bool = False
) -> None:
    """Print one row for each recipe, one column for each card; `columns[i]` answers `questions[i]`.

    everything   also recipes for a try on a CPU
    """
    rows = list(zip(*columns, strict=True))
    shown = rows if everything else [row for row in rows if not for_a_try(row[0])] or rows
    table = titled("Will it train?")
    table.add_column("recipe", overflow="fold")
    for question in questions:
        table.add_column(f"{question.budget.vram_gib:.4g} GiB", no_wrap=True)
    model = ""
    for row in shown:
        if row[0].model != model:
            model = row[0].model
            table.add_row(Text(model, style="bold"))
        table.add_row(f"  {row[0].recipe}", *(Text(_word(one), style=COLOURS.get(_word(one), "magenta")) for one in row))
    console.print(table)
    for question, column in zip(questions, zip(*shown, strict=True), strict=True):
        for text, recipes in remarks(column).items():
            size = f"{question.budget.vram_gib:.4g} GiB, {grouped(recipes)}"
            console.print(Text.assemble((size, "bold"), ": ", text))
    console.print(WORDS, style="dim", highlight=False)


def markdown(questions: Sequence[Question], columns: Sequence[Sequence[Answer]], command: str) -> str:
    """The same as a page: what fits, and with which flags; `command` is what made it."""
    sizes = [f"{question.budget.vram_gib:.4g} GiB" for question in questions]
    lines = [
        BEGINS.rstrip(),
        "",
        f"Made by `{command}`, torch {torch.__version__.partition('+')[0]}, {datetime.date.today()}. A prediction, on tensors",
        "without values; [plan.md](plan.md) says how.",
        "",
        WORDS,
        f"What is taken from a card: {questions[0].budget.sentence()}.",
        "GiB in a row: reserved in training, likely and at most, for the recipe as it is. A tight recipe names the flags",
        "with which it fits; they are what `--fit` chooses. A card sold with 8 GB holds 8 GiB.",
        *_about_tasks(columns),
        "",
        f"| recipe | batch | GiB | {' | '.join(sizes)} |",
        f"|---|---|---|{'---|' * len(sizes)}",
    ]
    for row in zip(*columns, strict=True):
        first = row[0]
        batch, peak = "", ""
        if first.verdict is not None:
            batch, peak = first.batch.replace("/", " in pieces of "), _peak(first.verdict)
        lines.append(f"| {first.model} {first.recipe} | {batch} | {peak} | {' | '.join(map(_cell, row))} |")
    return "\n".join(lines) + "\n"


def _about_tasks(columns: Sequence[Sequence[Answer]]) -> Iterator[str]:
    """What tables with zero-shot tasks say of them, and of doing without a GPU."""
    if not any(answer.task for answer in columns[0]):
        return
    yield f"{ZERO_SHOT}."
    minutes = [answer.cpu.run_s for answer in columns[0] if answer.cpu]
    if minutes:
        machine = next(answer.cpu.machine for answer in columns[0] if answer.cpu)
        least, most = told_seconds(min(minutes)), told_seconds(max(minutes))
        yield f"They need no GPU: training takes {least} to {most}, measured on {machine}."


def _peak(verdict: Verdict) -> str:
    return f"{verdict.train.point / GIB:.1f}, {verdict.train.high / GIB:.1f}"


def _word(answer: Answer) -> str:
    return answer.verdict.word if answer.verdict else "not judged"


def _cell(answer: Answer) -> str:
    if answer.verdict is None:
        return f"not judged: {answer.problem}"
    return f"tight: `{answer.verdict.lever}`" if answer.verdict.lever else answer.verdict.word
