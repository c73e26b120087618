"""The answers in a terminal: a table of all, and everything about one. 80 columns are enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.answers import Answer, Question, Rung
from planner.card.budget import COMFORTABLE, FITS, GIB, Interval
from planner.duration import told_seconds
from planner.measure import Measured
from planner.verdict import Verdict, told, word_for

COLOURS = {"comfortable": "green", "fits": "cyan", "tight": "yellow", "over": "yellow", "no": "red", "too much": "red"}
BAR = 10
UNBOUNDED = 1000
"""Columns that no table needs."""
WORDS = (
    f"comfortable: at most {COMFORTABLE:.0%} of what the card can give, reckoned at the worst; fits: {FITS:.0%}; "
    "tight: only with the flags that are named; no: whatever flags are given."
)
ZERO_SHOT = (
    "60/5, 60/12, 120/10, 120/24: published zero-shot tasks, classes / of them unseen, with the widest text; an epoch is a cycle"
)
UNKNOWN = "–"


def render(answers: Sequence[Answer], question: Question, console: Console, *, everything: bool = False) -> None:
    """Print the table of `answers`; levers and problems stand below it.

    everything   also recipes for a try on a CPU
    """
    if not answers:
        console.print("no recipes found")
        return
    shown = list(answers) if everything else [answer for answer in answers if not for_a_try(answer)] or list(answers)
    console.print(_table(shown, question, console))
    for remark, recipes in remarks(shown).items():
        console.print(Text.assemble((grouped(recipes), "bold"), ": ", remark))
    console.print(footnote(shown, question, left_out=len(answers) - len(shown)), style="dim", highlight=False)
    console.print(
        f"next: {next_step(question, tasks=shown if all(answer.task for answer in shown) else ())}",
        highlight=False,
        soft_wrap=True,
    )


def for_a_try(answer: Answer) -> bool:
    """Whether a recipe is for a look at a model without a GPU, not for results."""
    return answer.recipe == "smoke" or answer.recipe.endswith("_cpu")


def titled(title: str) -> Table:
    """An empty table in the form of all of them."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)


NAMES = (
    "recipe", "batch", "GiB, likely\nto at most", "of the card", "verdict", "largest\nbatch", "longest\nwindow", "an epoch",
)  # fmt: skip
DISPENSABLE = ("of the card", "longest\nwindow", "largest\nbatch", "an epoch")
"""Columns that go, one by one, where a terminal has no room for all: no number is cut off, and no name of a recipe is broken."""


def _table(answers: Sequence[Answer], question: Question, console: Console) -> Table:
    timed = [name for name in NAMES if name != "an epoch" or question.card]
    for gone in range(len(DISPENSABLE) + 1):
        table = _of_columns(answers, question, [name for name in timed if name not in DISPENSABLE[:gone]])
        if console.measure(table, options=console.options.update(max_width=UNBOUNDED)).maximum <= console.width:
            break
    return table


def _of_columns(answers: Sequence[Answer], question: Question, names: Sequence[str]) -> Table:
    table = titled(f"Will it train on {card_name(question)}?")
    kept = [NAMES.index(name) for name in names]
    for name in names:
        left = name in ("recipe", "of the card", "verdict")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "recipe", overflow="fold")
    model = ""
    for answer in answers:
        if answer.model != model:
            model = answer.model
            table.add_row(Text(model, style="bold"))
        cells = [f"  {answer.recipe}", *_cells(answer)]
        table.add_row(*(cells[number] for number in kept))
    return table


def _cells(answer: Answer) -> Iterator[Text | str]:
    """All but the name."""
    verdict = answer.verdict
    yield answer.batch
    if verdict is None:
        yield from ("", "", Text("not judged", style="magenta"), "", "", "")
        return
    evaluation = "e" if verdict.eval.high > verdict.train.high else ""
    worse = verdict.eval if evaluation else verdict.train
    yield f"{evaluation}{worse.point / GIB:.2f} {worse.high / GIB:5.2f}{'*' if answer.approximate else ' '}"
    yield bar(verdict.share, verdict.word)
    word = shown_word(verdict)
    yield Text(f"{word} {percent(verdict.share)}", style=COLOURS[word])
    yield str(verdict.largest_batch or "none")
    yield UNKNOWN if answer.window is None else str(answer.window or "none")
    epoch = answer.duration.epoch if answer.duration else None
    yield told_seconds(epoch.point) if epoch else UNKNOWN


def shown_word(verdict: Verdict) -> str:
    """The verdict's word, but "over" for a recipe that fits with flags alone and without them asks for more than there is."""
    return "over" if verdict.word == "tight" and verdict.share > 1 else verdict.word


def percent(share: float) -> str:
    """A share for a person; with a decimal near the limits of the words."""
    near = min(abs(share - limit) for limit in (COMFORTABLE, FITS)) < 0.01
    return f"{share:.1%}" if near else f"{share:.0%}"


def bar(share: float, word: str, cells: int = BAR) -> Text:
    """A bar of `cells` for the whole usable memory; what goes beyond it is an arrow."""
    full = min(round(share * cells), cells)
    text = Text("█" * full + "░" * (cells - full), style=COLOURS[word])
    return text.append("▶" if share > 1 else " ")


def remarks(answers: Sequence[Answer]) -> dict[str, list[str]]:
    """What is to be said about recipes that do not fit or were not judged -> their names."""
    found: dict[str, list[str]] = {}
    for answer in answers:
        if text := remark(answer):
            found.setdefault(text, []).append(f"{answer.model} {answer.recipe}")
    return found


def remark(answer: Answer) -> str:
    """What is to be said about one answer, "" for a recipe that fits as it is."""
    verdict = answer.verdict
    if verdict is None:
        return f"not judged: {answer.problem}"
    if not verdict.lever:
        return verdict.note
    after = verdict.budget.share(max(verdict.choice.train, verdict.choice.eval))
    return f"fits with {verdict.lever}, {percent(after)} ({verdict.note})"


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


def footnote(answers: Sequence[Answer], question: Question, *, left_out: int = 0) -> str:
    """What the figures are."""
    budget = question.budget
    measured = "its calibration" if budget.calibration.measured else "a GPU that was not measured"
    said = [
        f"Predicted, for {measured}. GiB: what PyTorch reserves of the card; the verdict takes the most, of "
        f"{budget.usable / GIB:.2f} usable GiB (docs/plan.md). Largest batch: clips at once that fit.",
        WORDS,
    ]
    cells = [str(cell) for answer in answers for cell in _cells(answer)]
    if any(answer.verdict and shown_word(answer.verdict) == "over" for answer in answers):
        said.append("over: tight, and as it is it asks for more than the card has.")
    if any("/" in cell for cell in cells):
        said.append("64/16: 64 clips in pieces of 16.")
    if any(cell.startswith("e") and cell[1:2].isdigit() for cell in cells):
        said.append("e: evaluation takes more than training.")
    if any(answer.approximate for answer in answers):
        said.append("*: approximate, autocast by a list of CUDA's operations.")
    if question.card is None:
        said.append('For times name the card: --gpu "RTX 3070" (--gpu list shows them).')
    else:
        said.append(f"Times: likely value, with the flags named; {UNKNOWN}: depends on how many clips your data has.")
    if any(answer.task for answer in answers):
        said.append(f"{ZERO_SHOT}.")
    if left_out:
        said.append(f"{left_out} recipes for a try on a CPU are left out: --all shows them.")
    return " ".join(said)


def next_step(question: Question, answer: Answer | None = None, *, tasks: Sequence[Answer] = ()) -> str:
    """What to type, for one recipe or for any; `tasks`: for any of these zero-shot ones."""
    free = question.budget.vram_gib - question.budget.taken_gib
    name = f"{answer.model} --recipe {answer.recipe}" if answer else "MODEL --recipe RECIPE"
    asked = f" {' '.join(question.changes)}" if question.changes else ""
    if answer is not None and answer.verdict is not None and not answer.verdict.choice.fits:
        return "a larger card, or a smaller --batch or --window"
    if tasks:
        model = tasks[0].model if len({task.model for task in tasks}) == 1 else "MODEL"
        return f"sal plan {model} --recipe 60/5 tells all about one; sal zeroshot run --model {model} --ntu 60 --ss 5"
    if answer is not None and answer.task is not None:
        return f"sal zeroshot run --model {answer.model} {answer.task.flags}"
    stage, _, recipe = answer.recipe.rpartition("/") if answer else ("", "", "")
    stage = "segment train" if stage == "segment" else stage
    run = f"{stage} {answer.model} --recipe {recipe}" if answer and stage else f"train {name}"  # "pretrain/ntu60_xsub"
    train = f"sal {run} --data FILE{asked} --fit {free:.4g}GiB"
    return train if answer else f"sal plan {name} tells all about one; {train}"


def render_one(answer: Answer, question: Question, console: Console) -> None:
    """Print everything about one recipe."""
    title = f"{answer.model} {answer.recipe} on {card_name(question)}"
    verdict = answer.verdict
    if verdict is None:
        console.print(f"[bold]{title}[/]: not judged: {answer.problem}", highlight=False)
        return
    word = shown_word(verdict)
    said = Text.assemble((title, "bold"), ": ", (word, f"bold {COLOURS[word]}"))
    console.print(said.append(f", at most {percent(verdict.share)} of what the card can give"))
    console.print(bar(verdict.share, verdict.word, 40))
    if text := remark(answer):
        console.print(Text(text))
    for name, value in facts(answer, verdict):
        console.print(Text.assemble((f"  {name:16}", "dim"), value))
    if answer.ladder:
        console.print()
        console.print(_levers(answer, verdict))
    if answer.lengths:
        console.print()
        console.print(_lengths(answer, verdict))
    console.print(footnote([answer], question), style="dim", highlight=False)
    console.print(f"next: {next_step(question, answer)}", highlight=False, soft_wrap=True)


def facts(answer: Answer, verdict: Verdict) -> Iterator[tuple[str, str]]:
    """Name and sentence of each figure of an answer that has a verdict."""
    config, host, choice, budget = answer.config, answer.host, verdict.choice, verdict.budget
    if host is None:
        raise ValueError("an answer without a verdict has no figures")
    batch, test_batch = choice.asked.batch_size, choice.asked.test_batch_size
    of = f" sequences of {answer.frames:,} frames" if answer.longest is not None else ""
    windows = f" windows of a sequence of {answer.frames:,} frames" if answer.frames else ""
    yield "training", f"{_from_to(verdict.train)}, of it tensors {_gib(choice.train_before)}; batch {batch}{of}"
    yield "evaluation", f"{_from_to(verdict.eval)}, of it tensors {_gib(choice.eval_before)}; batch {test_batch}{windows}"
    if verdict.lever:
        after = f"training {_from_to(budget.reserved(choice.train))}; evaluation {_from_to(budget.reserved(choice.eval))}"
        yield "with the flags", after
    batches = (str(batch or "none") for batch in (verdict.largest_batch, verdict.largest_eval_batch))
    yield "most at once", "{} clips in training, {} in evaluation, all else as it is".format(*batches)
    if config is not None and answer.frames is not None:
        if answer.longest is not None:
            longest = f"{answer.longest:,} frames" if answer.longest else "none"
            yield "longest sequence", f"{longest}, all else as it is (asked about: {answer.frames:,}; --frames asks about others)"
    elif config is not None:
        frames = config.train_window_size
        if answer.window is None:
            yield "longest window", f"{f'{frames} frames' if frames > 0 else 'whole clips'}, the only one"
        else:
            yield "longest window", f"{answer.window or 'none'} frames, all else as it is (asked about: {frames})"
    if answer.duration is not None:
        if verdict.lever:
            yield "times", "with the flags"
        yield from answer.duration.facts()
    if answer.measured is not None:
        yield from (("measured here", said) for said in _measured(answer.measured))
    if answer.cpu is not None:
        cpu = answer.cpu
        cycles = f"{cpu.cycles} cycles of {told_seconds(cpu.cycle_s)}, half of them on the validation split"
        yield "without a GPU", f"{told_seconds(cpu.run_s)}: {cycles}, measured on {cpu.machine}"
    store = "as large as the data" if host.store_mib is None else told(host.store_mib)
    yield "host memory", f"{_gib(host.ram_mib)}; nothing in /dev/shm, as batches are made by threads"
    yield "disk", f"{'feature files' if answer.task else 'store of the data'} {store}, run folder {told(host.run_mib)}"


def _measured(measured: Measured) -> Iterator[str]:
    for phase, figures in (("training", measured.train), ("evaluation", measured.eval)):
        if figures is None:
            yield f"{phase}: ran out of memory"
        else:
            peaks = f"{_gib(figures.reserved_mib)} reserved, {_gib(figures.allocated_mib)} allocated"
            yield f"{phase}: {peaks}, {told_seconds(figures.seconds)} a batch"


def _gib(mib: float) -> str:
    return f"{mib / GIB:.2f} GiB"


def _from_to(interval: Interval) -> str:
    return f"{_gib(interval.point)}, at most {interval.high / GIB:.2f}"


def _lengths(answer: Answer, verdict: Verdict) -> Table:
    """GiB reserved, likely, by frames of the longest sequence."""
    table = titled("By the longest sequence, all else as it is")
    for name in ("frames", "train", "eval", "at most"):
        table.add_column(name, justify="left" if name == "at most" else "right", no_wrap=True)
    for one in answer.lengths:
        share = verdict.budget.share(one.peak)
        word = word_for(share, mendable=False).replace("no", "too much")
        peaks = (f"{verdict.budget.reserved(peak).point / GIB:.2f}" for peak in (one.train, one.eval))
        table.add_row(f"{one.frames:,}", *peaks, Text(f"{percent(share)} {word}", style=COLOURS[word]))
    return table


def _levers(answer: Answer, verdict: Verdict) -> Table:
    table = titled("Levers, the cheapest first")
    timed = any(rung.duration for rung in answer.ladder)
    for name in (
        ("setting", "train", "eval", "at most", "a step", "numbers")
        if timed
        else ("setting", "train", "eval", "at most", "numbers")
    ):
        table.add_column(
            name, no_wrap=name != "setting", justify="left" if name in ("setting", "at most", "numbers") else "right"
        )
    for rung in answer.ladder:
        table.add_row(*_rung(rung, verdict, timed=timed), style="bold" if rung.chosen else "")
    return table


def _rung(rung: Rung, verdict: Verdict, *, timed: bool) -> Iterator[Text | str]:
    share = verdict.budget.share(rung.peak)
    word = word_for(share, mendable=False).replace("no", "too much")
    chosen = "  <- --fit" if rung.chosen else ""
    yield f"{rung.option.flags or 'as asked'}{chosen}"
    for peak in (rung.option.train, rung.option.eval):
        yield f"{verdict.budget.reserved(peak).point / GIB:.2f}"
    yield Text(f"{percent(share)} {word}", style=COLOURS[word])
    if timed:
        yield told_seconds(rung.duration.step.point) if rung.duration else ""
    yield "change" if rung.option.changes else "the same"
