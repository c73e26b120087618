"""What people read: the table, one recipe in full, sizes side by side, the page."""

from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from planner.answers import Question, answers
from planner.card import cards
from planner.card.budget import Budget
from planner.show.page import page
from planner.show.sizes import markdown, render_sizes
from planner.show.table import bar, percent, render, render_one
from tests.planner.planted import NETWORK, READS_VALUES, house, write_model

__all__ = ["house"]
EIGHT = Question(Budget(8))


def printed(show: Callable[[Console], None], width: int = 200) -> str:
    console = Console(file=StringIO(), width=width)
    show(console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_table_says_what_its_figures_are(house: Path) -> None:
    text = printed(lambda console: render(answers(EIGHT), EIGHT, console))
    flat = " ".join(text.split())
    assert "Predicted, for a GPU that was not measured" in flat
    assert "of 7.25 usable GiB" in flat
    assert "64/8: 64" not in flat and "64/16: 64 clips in pieces of 16" in flat
    assert "next: sal plan MODEL --recipe RECIPE" in flat and "--fit 8GiB" in flat
    for word in ("ntu60_wide_pieces", "comfortable", "tight", "--forward-batch-size"):
        assert word in flat


def test_the_table_fits_eighty_columns_and_says_levers_and_problems_below(house: Path) -> None:
    write_model(house, "planted_values", READS_VALUES, ntu60="dataset: ntu60\n")
    card = cards.find("RTX 3060 Ti")
    question = Question(Budget(8), card)
    lines = printed(lambda console: render(answers(question), question, console), width=80).splitlines()
    assert max(len(line) for line in lines if not line.startswith("next: ")) <= 80  # a command is not broken
    (line,) = (line for line in lines if "ntu60_wide_pieces" in line and "64/8" in line)
    assert " tight " in line or " over " in line  # its evaluation
    flat = " ".join(" ".join(lines).split())
    assert "planted_small ntu60_wide: fits with --" in flat and "--forward-batch-size" in flat
    assert "for a try" not in flat
    assert "planted_values ntu60: not judged: the train step of Net cannot be traced without values" in flat
    assert "an epoch" in flat
    assert "…" not in flat


def test_recipes_for_a_try_are_left_out_unless_asked_for(house: Path) -> None:
    write_model(house, "planted_tried", NETWORK, ntu60="dataset: ntu60\n", smoke="dataset: ntu60\n", tiny_cpu="dataset: ntu60\n")
    found = answers(EIGHT, model="planted_tried")
    some, every = (printed(lambda console, e=e: render(found, EIGHT, console, everything=e)) for e in (False, True))  # type: ignore[misc]
    assert "tiny_cpu" not in some and "2 recipes for a try on a CPU are left out" in some
    assert "tiny_cpu" in every and "left out" not in every
    only = [answer for answer in found if answer.recipe == "smoke"]
    assert "smoke" in printed(lambda console: render(only, EIGHT, console))


def test_a_long_name_is_whole_and_columns_go_instead(house: Path) -> None:
    name = "pretrain_of_a_long_name_xsub"
    write_model(house, "planted_long", NETWORK, **{name: "dataset: ntu60\n"})
    found = answers(EIGHT, model="planted_long")
    heads = []
    for width in (70, 90, 200):
        text = printed(lambda console: render(found, EIGHT, console), width=width)
        (row,) = (line for line in text.splitlines() if line.split()[:1] == [name])
        assert len(row.rstrip()) <= width
        heads.append({word for word in ("of the card", "window", "largest") if word in text.split(name)[0]})
    assert heads[0] < heads[1] < heads[2] == {"of the card", "window", "largest"}


def test_a_recipe_beyond_the_card_is_called_so(house: Path) -> None:
    """ "tight" is for what just misses the limit; "over" asks for more than the card has, and fits with flags alone."""
    write_model(house, "planted_over", NETWORK, ntu60="dataset: ntu60\nbatch_size: 2\ntest_batch_size: 65536\n")
    (answer,) = answers(EIGHT, model="planted_over")
    assert answer.verdict is not None and answer.verdict.word == "tight" and answer.verdict.share > 1
    text = printed(lambda console: render([answer], EIGHT, console))
    (row,) = (line for line in text.splitlines() if line.split()[:1] == ["ntu60"])
    assert f"over {percent(answer.verdict.share)}" in row and "tight" not in row
    assert "over: tight, and as it is it asks for more" in " ".join(text.split()) and "fits with --" in text
    assert "ntu60 on a GPU with 8 GiB: over, at most" in printed(lambda console: render_one(answer, EIGHT, console))


def test_evaluation_is_named_where_it_takes_more(house: Path) -> None:
    write_model(house, "planted_evaluated", NETWORK, ntu60="dataset: ntu60\nbatch_size: 2\ntest_batch_size: 512\n")
    text = printed(lambda console: render(answers(EIGHT, model="planted_evaluated"), EIGHT, console))
    assert "e: evaluation takes more" in text
    (row,) = (line for line in text.splitlines() if line.split()[:1] == ["ntu60"])
    assert row.split()[2].startswith("e")


def test_shares_near_a_limit_have_a_decimal() -> None:
    assert [percent(share) for share in (0.5, 0.9187, 0.9213, 1.84)] == ["50%", "91.9%", "92.1%", "184%"]


def test_no_recipes_is_said(house: Path) -> None:
    assert "no recipes" in printed(lambda console: render([], EIGHT, console))


def test_one_recipe_is_told_in_full(house: Path) -> None:
    question = Question(Budget(8), cards.find("RTX 3060 Ti"), details=True)
    (answer,) = answers(question, recipe="ntu60_wide")
    lines = printed(lambda console: render_one(answer, question, console), width=80).splitlines()
    assert max(len(line) for line in lines if not line.startswith("next: ")) <= 80
    flat = " ".join(" ".join(lines).split())
    for words in ("planted_small ntu60_wide on RTX 3060 Ti (8 GiB): over", "training", "most at once", "host memory", "<- --fit",
                  "/dev/shm", "store of the data", "as asked", "too much", "the same", "change", "epoch", "a step",
                  "with the flags", "next: sal train planted_small --recipe ntu60_wide --data FILE --fit 8GiB"):  # fmt: skip
        assert words in flat, words


def test_one_recipe_that_cannot_be_judged_says_why(house: Path) -> None:
    write_model(house, "planted_values", READS_VALUES, ntu60="dataset: ntu60\n")
    (answer,) = answers(EIGHT, model="planted_values")
    assert "not judged: the train step of Net" in printed(lambda console: render_one(answer, EIGHT, console))


def test_sizes_stand_side_by_side_and_in_markdown(house: Path) -> None:
    write_model(house, "planted_values", READS_VALUES, ntu60="dataset: ntu60\n")
    questions = [Question(Budget(size)) for size in (6.0, 24.0)]
    columns = [answers(question) for question in questions]
    text = printed(lambda console: render_sizes(questions, columns, console), width=80)
    (wide,) = (line for line in text.splitlines() if line.split()[:1] == ["ntu60_wide"])
    assert wide.split()[1:] == ["tight", "comfortable"]
    lines = markdown(questions, columns, "sal plan --vram 6,24").splitlines()
    (row,) = (line for line in lines if line.startswith("| planted_small ntu60_wide |"))
    assert "`sal plan --vram 6,24`" in lines[2]
    assert row.endswith("| comfortable |") and "tight: `--" in row
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert any("not judged" in line for line in lines)


def test_the_page_is_whole_and_escapes_what_comes_from_outside(house: Path) -> None:
    write_model(house, "planted_values", READS_VALUES.replace("assert", "raise ValueError('<script>x</script>')\n        assert"),
                ntu60="dataset: ntu60\n")  # fmt: skip
    text = page(answers(EIGHT), EIGHT)

    class Open(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[str] = []
            self.seen: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen.append(tag)
            if tag not in ("meta", "rect", "line") or self.get_starttag_text()[-2:] != "/>":  # type: ignore[index]
                self.tags += [tag] if tag != "meta" else []

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.tags.pop() == tag

    parsed = Open()
    parsed.feed(text)
    assert parsed.tags == []
    assert "script" not in parsed.seen
    assert parsed.seen.count("svg") == 4  # one bar for each recipe that was judged
    assert "&lt;script&gt;" in text
    assert "http" not in text


@pytest.mark.parametrize(
    ("share", "word", "drawn"),
    [(0.5, "comfortable", "█" * 5 + "░" * 5 + " "), (1.0, "tight", "█" * 10 + " "), (2.5, "no", "█" * 10 + "▶")],
)
def test_bars_are_full_at_the_whole_and_point_beyond_it(share: float, word: str, drawn: str) -> None:
    assert bar(share, word).plain == drawn
