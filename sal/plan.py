"""`sal plan`: can this GPU run it, how fast, with which settings."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from rich.console import Console

from sal.printing import PipedConsole, print_json
from shared_data.atomic import whole_file
from shared_data.errors import UsageError

if TYPE_CHECKING:
    from planner.answers import Answer, Question

DEFAULT_GIB = 8.0
LARGEST_GIB = 4096.0
LIMITS = {"batch": 65_536, "test_batch": 65_536, "window": 10_000}
"""The most that is predicted."""
MOST_FRAMES = 200_000
"""Of an untrimmed sequence: almost two hours."""
RUN_FLAGS = {"batch": ("batch-size",), "test_batch": ("test-batch-size",), "window": ("train-window-size", "test-window-size")}
"""What these flags are called in a run."""


def plan(
    name: str | None = None,
    /,
    *,
    vram: str = "",
    gpu: str = "",
    used: float = 0.0,
    model: str = "",
    recipe: str = "",
    batch: int | None = None,
    test_batch: int | None = None,
    precision: Literal["", "fp32", "bf16", "fp16"] = "",
    window: int | None = None,
    recompute: Literal["", "auto", "none", "cheap", "blocks"] = "",
    frames: str = "",
    measure: bool = False,
    device: int = 0,
    all: bool = False,
    json: bool = False,
    html: Path | None = None,
    markdown: Path | None = None,
) -> int:
    """Say for every model and recipe whether it trains on a GPU, how fast and with which settings; needs no GPU.

    Exit 1 where one recipe is asked about and the answer is no.

    Args:
        name: one model only (as --model).
        vram: memory of the GPU in GiB, or several sizes with commas between them (default: that of --gpu, of the GPU here, or 8).
        gpu: the card, such as "RTX 3070", for its memory and for times; "list" shows those that are known.
        used: GiB of it that other programs hold (a desktop takes 0.3 to 1).
        model: one model only.
        recipe: one recipe only, of one model told in full; or those of a pattern, such as '*ntu60_xsub*'.
        batch: clips per step, in place of the recipe's.
        test_batch: clips per evaluation pass, in place of the recipe's.
        precision: fp32, bf16 or fp16, in place of the recipe's.
        window: frames per clip, in place of the recipe's.
        recompute: none, cheap or blocks, in place of the recipe's.
        frames: of the longest untrimmed sequence, or several lengths with commas between them (default: 10000).
        measure: also run the steps on the GPU here and show what they took.
        device: number of the GPU here that is meant.
        all: also show recipes for a try on a CPU (smoke, tiny_cpu, ...).
        json: print JSON; it has all recipes.
        html: also write the answers as a page with bars; only a page of this kind is replaced.
        markdown: also write several sizes as a table of Markdown; only a table of this kind is replaced.
    """
    from planner.answers import answers
    from planner.show import page, sizes
    from planner.show.table import render, render_one

    if gpu == "list":
        return _list_cards()
    chosen = model or name
    if model and name and model != name:
        raise UsageError(f"two models are named, {name} and {model}", expected="one of them")
    given = {"batch": batch, "test_batch": test_batch, "precision": precision, "window": window, "recompute": recompute}
    changes = {name: str(value) for name, value in given.items() if value not in (None, "")}
    asked, lengths = _run_flags(changes), _lengths(frames)
    several = bool(set("*?[") & set(recipe))
    questions = _questions(vram, gpu, used, device, asked, details=bool(recipe) and not several, measure=measure, frames=lengths)
    _refuse(changes, sizes=len(questions), markdown=bool(markdown), alone="--html" if html else "--measure" if measure else "")
    with contextlib.ExitStack() as files:
        as_page = files.enter_context(_written(html, page.BEGINS)) if html else None
        as_table = files.enter_context(_written(markdown, sizes.BEGINS)) if markdown else None
        with _progress(quiet=json) as told:
            columns = [answers(question, model=chosen, recipe=recipe or None, told=told) for question in questions]
        if as_page:
            as_page.write(page.page(columns[0], questions[0]).encode())
        if as_table:
            command = _command(vram=vram, gpu=gpu, used=used, model=chosen, recipe=recipe, **changes, frames=frames)
            as_table.write(sizes.markdown(questions, columns, command).encode())
    first, console = columns[0], PipedConsole()
    if json:
        print_json({"cards": [_as_dict(*pair) for pair in zip(questions, columns, strict=True)]})
    elif len(questions) > 1:
        sizes.render_sizes(questions, columns, console, everything=all or bool(recipe))
    elif len(first) == 1 and not several:
        render_one(first[0], questions[0], console)
    else:
        render(first, questions[0], console, everything=all or bool(recipe))
    for target in filter(None, (html, markdown)):
        print(f"written: {target}", file=sys.stderr)
    verdicts = [answer.verdict for answer in first]
    return int(len(questions) == 1 and len(verdicts) == 1 and not several and (verdicts[0] is None or verdicts[0].word == "no"))


def _refuse(changes: Mapping[str, str], *, sizes: int, markdown: bool, alone: str) -> None:
    """What cannot be asked; `alone` is a flag that goes with one size of card only."""
    for flag, limit in LIMITS.items():
        if int(changes.get(flag, 0)) > limit:
            said = f"--{flag.replace('_', '-')} {changes[flag]}"
            raise UsageError(f"{said} is more than can be predicted", expected=f"at most {limit}")
    if sizes == 1 and markdown:
        raise UsageError("--markdown is a table of several sizes", expected="--vram 6,8,12,16,24")
    if sizes > 1 and alone:
        raise UsageError(f"{alone} is for one size of card", expected="--vram with one number")


@contextlib.contextmanager
def _written(target: Path, begins: str) -> Iterator[IO[bytes]]:
    """`target`, which may be there already only if it begins like one of ours."""

    def ours(file: Path) -> bool:
        with file.open("rb") as old:
            return old.read(len(begins.encode())) == begins.encode()

    with whole_file(target, kind="answer of sal plan", replaceable=ours) as file:
        yield file


def _list_cards() -> int:
    from planner.card import cards

    for card in cards.known():
        print(f"{card.name:24} {card.gib:g} GiB")
    return 0


def _run_flags(changes: Mapping[str, str]) -> tuple[str, ...]:
    """Flags of this verb as those of a run."""
    return tuple(
        word for name, value in changes.items() for flag in RUN_FLAGS.get(name, (name,)) for word in (f"--{flag}", value)
    )


def _questions(
    vram: str,
    gpu: str,
    used: float,
    device: int,
    changes: tuple[str, ...],
    *,
    details: bool,
    measure: bool,
    frames: tuple[int, ...],
) -> list[Question]:
    """One for each size of card; without --vram and --gpu one for the GPU here, if there is one."""
    import torch

    from planner.answers import Question
    from planner.card import cards
    from planner.card.budget import for_card, of_device
    from planner.measure import Gpu

    measured_on = Gpu(device) if measure else None
    if not vram and not gpu and torch.cuda.is_available():
        here = torch.cuda.get_device_properties(device)
        card = cards.named(here.name, here.total_memory / 2**30)
        return [Question(of_device(here.name, here.total_memory, used), card, changes, details, measured_on, frames)]
    card = cards.find(gpu, _only_size(vram)) if gpu else None
    sizes = list(dict.fromkeys(map(_size, vram.split(",")))) if vram else [card.gib if card else DEFAULT_GIB]
    return [Question(for_card(card, size, used), card, changes, details, measured_on, frames) for size in sizes]


def _lengths(words: str) -> tuple[int, ...]:
    """Frames of sequences, from the shortest."""
    found = [int(word) if word.strip().isdecimal() else 0 for word in words.split(",")] if words else []
    if not all(0 < one <= MOST_FRAMES for one in found):
        raise UsageError(
            f"{words!r} are no lengths of sequences", where="--frames", expected=f"frames, such as 10000 or 2000,5000,10000, at "
            f"most {MOST_FRAMES}",
        )  # fmt: skip
    return tuple(sorted(set(found)))


def _only_size(vram: str) -> float | None:
    """GiB, where one size was given: it tells cards of one name apart."""
    return _size(vram) if vram and "," not in vram else None


def _size(word: str) -> float:
    try:
        size = float(word.strip().lower().removesuffix("gib").removesuffix("gb"))
    except ValueError:
        size = 0.0
    if not 0 < size <= LARGEST_GIB:
        raise UsageError(
            f"{word!r} is no size of a GPU's memory",
            where="--vram",
            expected=f"GiB, such as 8 or 6,8,12, at most {LARGEST_GIB:g}",
        )
    return size


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line on a terminal that says what is being traced; nothing elsewhere."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("tracing") as status:
        yield lambda text: status.update(f"tracing {text}")


def _as_dict(question: Question, found: list[Answer]) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "vram_gib": question.budget.vram_gib,
        "used_gib": question.budget.taken_gib,
        "gpu": asdict(question.card) if question.card else None,
        "calibration": asdict(question.budget.calibration),
        "answers": [answer.as_dict() for answer in found],
    }


def _command(**given: str | float | None) -> str:
    words = [word for flag, value in given.items() if value for word in (f"--{flag.replace('_', '-')}", f"{value}")]
    return shlex.join(["sal", "plan", *words])
