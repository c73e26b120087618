"""The answers in a terminal: a table of all, everything about one, a matrix of card sizes. 80 columns are enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.answers import Answer, Question
from planner.card.budget import COMFORTABLE, FITS, GIB, Interval
from planner.duration import told_seconds
from planner.measure import Measured
from planner.verdict import Verdict, told, word_for

COLOURS = {"comfortable": "green", "fits": "cyan", "tight": "yellow", "no": "red"}
BAR = 10
NOTE = "Predicted from the tensors of the trainer's own step, traced without values"
WORDS = (
    f"comfortable: at most {COMFORTABLE:.0%} of what the card can give, reckoned at the high end; fits: {FITS:.0%}; "
    "tight: only as said; no: not at all."
)


def render(answers: Sequence[Answer], question: Question, console: Console) -> None:
    """Print the table of `answers`; levers and problems stand below it."""
    if not answers:
        console.print("no recipes found")
        return
    console.print(_table(answers, question, console.width))
    for remark, recipes in remarks(answers).items():
        console.print(Text.assemble((grouped(recipes), "bold"), ": ", remark))
    console.print(footnote(answers, question), style="dim", highlight=False)


def _table(answers: Sequence[Answer], question: Question, width: int) -> Table:
    table = Table(
        title=f"Will it train on {card_name(question)}?", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
        show_edge=False,
    )  # fmt: skip
    # A number must never be cut off; where columns are few, the bar goes, and the window where an epoch's time is told.
    shown = {"of the card": width >= 110, "longest\nwindow": width >= 90 or question.card is None, "an epoch": question.card}
    names = ("recipe", "batch", "GiB train\nand eval", "of the card", "verdict", "largest\nbatch", "longest\nwindow", "an epoch")
    kept = [number for number, name in enumerate(names) if shown.get(name, True)]
    for number in kept:
        left = names[number] in ("recipe", "of the card", "verdict")
        table.add_column(names[number], justify="left" if left else "right", no_wrap=number > 0, overflow="fold")
    model = ""
    for answer in answers:
        if answer.model != model:
            model = answer.model
            table.add_row(Text(model, style="bold"))
        cells = list(_cells(answer))
        table.add_row(*(cells[number] for number in kept))
    return table


def _cells(answer: Answer) -> Iterator[Text | str]:
    config, verdict = answer.config, answer.verdict
    yield f"  {answer.recipe}"
    pieces = f"/{config.forward_batch_size}" if config and config.forward_batch_size else ""
    yield f"{config.batch_size}{pieces}" if config else ""
    if verdict is None:
        yield from ("", "", Text("not judged", style="magenta"), "", "", "")
        return
    yield f"{verdict.train.point / GIB:.2f} {verdict.eval.point / GIB:5.2f}{'*' if answer.approximate else ''}"
    yield bar(verdict.share, verdict.word)
    yield Text(f"{verdict.word} {verdict.share:.0%}", style=COLOURS[verdict.word])
    yield str(verdict.largest_batch)
    yield "–" if answer.window is None else str(answer.window)
    epoch = answer.duration.epoch if answer.duration else None
    yield told_seconds(epoch.point) if epoch else "–"


def bar(share: float, word: str, cells: int = BAR) -> Text:
    """A bar of `cells` for the whole usable memory; what goes beyond it is an arrow."""
    full = min(round(share * cells), cells)
    text = Text("█" * full + "░" * (cells - full), style=COLOURS[word])
    return text.append("▶" if share > 1 else " ")


def remarks(answers: Sequence[Answer]) -> dict[str, list[str]]:
    """What is to be said about recipes that do not fit or were not judged -> their names."""
    found: dict[str, list[str]] = {}
    for answer in answers:
        verdict = answer.verdict
        if verdict is None:
            text = f"not judged: {answer.problem}"
        elif verdict.lever:
            text = f"fits with {verdict.lever} ({verdict.note})"
        else:
            text = verdict.note
        if text:
            found.setdefault(text, []).append(f"{answer.model} {answer.recipe}")
    return found


def grouped(recipes: Sequence[str]) -> str:
    """ "model a, b; other c" of "model a", "model b", "other c"."""
    by_model: dict[str, list[str]] = {}
    for model, recipe in (name.split() for name in recipes):
        by_model.setdefault(model, []).append(recipe)
    return "; ".join(f"{model} {', '.join(names)}" for model, names in by_model.items())


def card_name(question: Question) -> str:
    """The card asked about, for a person."""
    size = f"{question.budget.vram_gib:.4g} GiB"
    return f"{question.card.name} ({size})" if question.card else f"a GPU with {size}"


def footnote(answers: Sequence[Answer], question: Question) -> str:
    """What the figures are."""
    budget = question.budget
    said = [
        f"{NOTE}. Reserved memory, most likely value; the verdict takes the high end. Usable {budget.usable:.0f} MiB of "
        f"{budget.vram_gib:.4g} GiB: {budget.sentence()}.",
        WORDS,
    ]
    if any(answer.approximate for answer in answers):
        said.append("*: approximate, autocast by a list of CUDA's operations.")
    if question.card is None:
        said.append('Name your GPU for times: --gpu "RTX 3070".')
    else:
        said.append(f"Times: {TIMES}")
    return " ".join(said)


TIMES = "from counted work and the card's figures, with the levers named; one recipe alone (--model, --recipe) shows from-to."


def render_one(answer: Answer, question: Question, console: Console) -> None:
    """Print everything about one recipe."""
    title = f"{answer.model} {answer.recipe} on {card_name(question)}"
    verdict = answer.verdict
    if verdict is None:
        console.print(f"[bold]{title}[/]: not judged: {answer.problem}", highlight=False)
        return
    said = Text.assemble((title, "bold"), ": ", (verdict.word, f"bold {COLOURS[verdict.word]}"))
    console.print(said.append(f", {verdict.share:.0%} of what the card can give"))
    console.print(bar(verdict.share, verdict.word, 40))
    if verdict.note:
        console.print(Text(f"with {verdict.lever}: {verdict.note}" if verdict.lever else verdict.note))
    for name, value in facts(answer, verdict):
        console.print(Text.assemble((f"  {name:16}", "dim"), value))
    if answer.options:
        console.print()
        console.print(_levers(answer, verdict))
    console.print(footnote([answer], question), style="dim", highlight=False)


def facts(answer: Answer, verdict: Verdict) -> Iterator[tuple[str, str]]:
    """Name and sentence of each figure of an answer that has a verdict."""
    config, host, choice = answer.config, answer.host, verdict.choice
    if config is None or host is None:
        raise ValueError("an answer without a verdict has no figures")
    yield "training", f"{_from_to(verdict.train)}; {told(choice.train_before)} of it tensors, batch {config.batch_size}"
    yield "evaluation", f"{_from_to(verdict.eval)}; {told(choice.eval_before)} of it tensors, batch {config.test_batch_size}"
    yield "largest batch", f"{verdict.largest_batch} in training, {verdict.largest_eval_batch} in evaluation, all else as it is"
    frames = config.train_window_size
    if answer.window is None:
        yield "longest window", f"{f'{frames} frames' if frames > 0 else 'whole clips'}, the only one"
    else:
        yield "longest window", f"{answer.window} frames, all else as it is (the recipe has {frames})"
    if answer.duration is not None:
        yield from answer.duration.facts()
    if answer.measured is not None:
        yield from (("measured here", said) for said in _measured(answer.measured))
    store = "as large as the data" if host.store_mib is None else told(host.store_mib)
    yield "host memory", f"{told(host.ram_mib)}; nothing in /dev/shm, as batches are made by threads"
    yield "disk", f"store of the data {store}, run folder {told(host.run_mib)}"


def _measured(measured: Measured) -> Iterator[str]:
    for phase, figures in (("training", measured.train), ("evaluation", measured.eval)):
        if figures is None:
            yield f"{phase}: ran out of memory"
        else:
            peaks = f"{told(figures.reserved_mib)} reserved, {told(figures.allocated_mib)} allocated"
            yield f"{phase}: {peaks}, {told_seconds(figures.seconds)} a batch"


def _from_to(interval: Interval) -> str:
    return f"{told(interval.point)} reserved, at most {told(interval.high)}"


def _levers(answer: Answer, verdict: Verdict) -> Table:
    table = Table(
        title="Levers, the cheapest first", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    for name in ("setting", "train", "eval", "verdict", "numbers"):
        table.add_column(name, no_wrap=name != "setting", justify="right" if name in ("train", "eval") else "left")
    budget = verdict.budget
    for option in answer.options:
        share = budget.share(max(option.train, option.eval))
        word = word_for(share, mendable=False)
        train, evaluation = (f"{budget.reserved(peak).point / GIB:.2f}" for peak in (option.train, option.eval))
        said = Text(f"{word} {share:.0%}", style=COLOURS[word])
        table.add_row(option.flags or "as asked", train, evaluation, said, "change" if option.changes else "the same")
    return table
