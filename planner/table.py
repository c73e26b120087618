"""The table of verdicts: every model and recipe found in this repository against one card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine import models as registry
from engine.config import RunConfig, parse
from engine.models import ModelCard
from planner.costs import asked_of, costs_of, size_of
from planner.peak import Steps
from planner.verdict import COMFORTABLE, FITS, NOTE, PESSIMISTIC, Allowance, Verdict, judge, usable_mib
from shared_data.errors import LabError

COLOURS = {"comfortable": "green", "fits": "cyan", "tight": "yellow", "no": "red"}
BAR = 10


@dataclass(frozen=True)
class Row:
    """One recipe on a card of `vram_gib`. `verdict` is None where the model could not be traced; `problem` says why.

    batch, forward_batch, test_batch, window   of the recipe (forward_batch None: the whole batch at once)
    linear, approximate                        of the law behind the prediction (see `planner.peak.Law`)
    """

    vram_gib: float
    model: str
    recipe: str
    batch: int
    forward_batch: int | None
    test_batch: int
    window: int
    precision: str
    verdict: Verdict | None
    linear: bool = True
    approximate: bool = False
    problem: str = ""


def plan(
    vram_gib: float,
    cards: Mapping[str, ModelCard] | None = None,
    models: Iterable[str] | None = None,
    *,
    allowance: Allowance = PESSIMISTIC,
) -> list[Row]:
    """Rows for every recipe of `cards` (default: all discovered models), or of the `models` named.

    Raises `LabError` for an unknown model name or a card too small for anything. A recipe that cannot be read or traced
    becomes a row with its problem, never a missing one.
    """
    usable_mib(vram_gib, allowance)  # refuse before any work
    known = registry.discover() if cards is None else cards
    chosen = list(known.values()) if models is None else [known.get(name) or registry.find(name) for name in models]
    traced: dict[str, Steps] = {}

    def verdict_of(card: ModelCard, config: RunConfig) -> tuple[Verdict, bool]:
        costs, asked = costs_of(card, config, size_of(config.dataset), traced), asked_of(config)
        verdict = judge(costs, vram_gib, asked, allowance=allowance)
        return verdict, costs.law(asked, "train").linear and costs.law(asked, "eval").linear

    return [_row(vram_gib, card, name, path, verdict_of) for card in chosen for name, path in card.recipes.items()]


def _row(
    vram_gib: float,
    card: ModelCard,
    recipe: str,
    path: Path,
    verdict_of: Callable[[ModelCard, RunConfig], tuple[Verdict, bool]],
) -> Row:
    try:
        config = parse(["--config", str(path)], model=card.name)
    except LabError as error:
        return Row(vram_gib, card.name, recipe, 0, None, 0, 0, "", None, problem=error.what)
    row = (vram_gib, card.name, recipe, config.batch_size, config.forward_batch_size, config.test_batch_size,
           config.train_window_size, config.precision)  # fmt: skip
    try:
        verdict, linear = verdict_of(card, config)
    except LabError as error:
        return Row(*row, None, problem=error.what)
    return Row(*row, verdict, linear, config.precision != "fp32")


def bar(share: float, word: str) -> Text:
    """A bar of `BAR` cells for the whole usable memory; what goes beyond it is an arrow."""
    cells = min(round(share * BAR), BAR)
    text = Text("█" * cells + "░" * (BAR - cells), style=COLOURS[word])
    return text.append("▶" if share > 1 else " ")


def render(rows: list[Row], console: Console, *, allowance: Allowance = PESSIMISTIC) -> None:
    """Print the table of `plan` (made with the same `allowance`) for a person: 80 columns, levers and problems below."""
    if not rows:
        console.print("no recipes found")
        return
    vram_gib = rows[0].vram_gib
    table = Table(
        title=f"Will it train on a GPU with {vram_gib:.4g} GiB?",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    wide = console.width >= 100  # a number must never be cut off; the bar may go
    table.add_column("recipe", overflow="fold")
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("GiB, train\nand eval", justify="right", no_wrap=True)
    if wide:
        table.add_column("of usable", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("largest\nbatch", justify="right", no_wrap=True)
    model = ""
    for row in rows:
        if row.model != model:
            model = row.model
            table.add_row(Text(model, style="bold"))
        cells = _cells(row)
        table.add_row(*(cells if wide else [*cells[:3], *cells[4:]]))
    console.print(table)
    for remark, recipes in _remarks(rows).items():
        console.print(Text.assemble((_grouped(recipes), "bold"), ": ", remark))
    usable = usable_mib(vram_gib, allowance)
    console.print(
        f"{NOTE}. Usable {usable:.0f} MiB = {vram_gib:.4g} GiB - {allowance.sentence()}. "
        f"comfortable: up to {COMFORTABLE:.0%} of usable; fits: up to {FITS:.0%}; tight: only as said above; no: not at all."
        + (" *: autocast by the CPU's list of operations." if any(row.approximate for row in rows) else ""),
        style="dim",
        highlight=False,
    )


def _cells(row: Row) -> list[Text | str]:
    name = f"  {row.recipe}"
    if row.verdict is None:
        return [name, str(row.batch or ""), "", "", Text("not judged", style="magenta"), ""]
    verdict = row.verdict
    batch = f"{row.batch}" if row.forward_batch is None else f"{row.batch}/{row.forward_batch}"
    peaks = f"{verdict.train / 1024:.2f}  {verdict.eval / 1024:.2f}{'*' if row.approximate else ''}"
    word = Text(f"{verdict.word} {verdict.share:.0%}", style=COLOURS[verdict.word])
    return [name, batch, peaks, bar(verdict.share, verdict.word), word, str(verdict.largest_batch)]


def _remarks(rows: list[Row]) -> dict[str, list[str]]:
    """What is to be said about rows that do not fit or were not judged -> their recipes."""
    remarks: dict[str, list[str]] = {}
    for row in rows:
        if row.verdict is None:
            text = f"not judged: {row.problem}"
        elif row.verdict.lever:
            text = f"fits with {row.verdict.lever} ({row.verdict.note})"
        else:
            text = row.verdict.note
        if text:
            remarks.setdefault(text, []).append(f"{row.model} {row.recipe}")
    return remarks


def _grouped(recipes: list[str]) -> str:
    """ "model a, b; other c" of "model a", "model b", "other c"."""
    by_model: dict[str, list[str]] = {}
    for model, recipe in (name.split() for name in recipes):
        by_model.setdefault(model, []).append(recipe)
    return "; ".join(f"{model} {', '.join(names)}" for model, names in by_model.items())
