"""docs/which-gpu.md is what its command makes, and more memory never makes an answer worse."""

import itertools
from pathlib import Path

import pytest

from planner.answers import Answer, Question, answers
from planner.card.budget import Budget
from planner.show.sizes import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "which-gpu.md"
SIZES = (6.0, 8.0, 12.0, 16.0, 24.0)
ORDER = ("comfortable", "fits", "tight", "no")


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> list[list[Answer]]:
    """Every recipe of the repository on every size; what is traced for one is kept for the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("SAL_PLAN_CACHE")
        return [answers(Question(Budget(size))) for size in SIZES]


def rows(text: str) -> dict[str, str]:
    return {line.split("|")[1]: line for line in text.splitlines() if line.startswith("| ")}


@pytest.mark.slow
def test_the_page_is_what_its_command_makes(columns: list[list[Answer]]) -> None:
    """But for recipes that came later: a new model touches no page."""
    made = rows(markdown([Question(Budget(size)) for size in SIZES], columns, ""))
    kept = rows(PAGE.read_text())
    assert len(kept) > 50
    assert kept == {name: made[name] for name in kept}


@pytest.mark.slow
def test_every_recipe_is_judged_and_more_memory_never_makes_an_answer_worse(columns: list[list[Answer]]) -> None:
    for less, more in itertools.pairwise(columns):
        for small, large in zip(less, more, strict=True):
            assert small.verdict and large.verdict, (small.problem, large.problem)
            assert ORDER.index(large.verdict.word) <= ORDER.index(small.verdict.word)
            assert large.verdict.largest_batch >= small.verdict.largest_batch
            assert (large.window or 0) >= (small.window or 0)
