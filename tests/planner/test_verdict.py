"""The words, the allowance and the levers, on laws written down by hand."""

import pytest

from planner.peak import Law, Line, Phase
from planner.verdict import Allowance, judge, usable_mib, word_for
from shared_data.errors import LabError

NOTHING = Allowance(0, 0, 0)


def law(train: Line, evaluation: Line, gradients: float = 0.0) -> Law:
    """A network that obeys its law exactly."""

    def trace(phase: Phase, batch: int) -> float:
        return (train if phase == "train" else evaluation).at(batch)

    return Law(train, evaluation, True, 0.0, gradients, False, trace)


@pytest.mark.parametrize(
    ("peak", "mendable", "word"),
    [
        (0, True, "comfortable"),
        (800, False, "comfortable"),
        (801, True, "fits"),
        (920, False, "fits"),
        (921, True, "tight"),
        (921, False, "no"),
        (5000, True, "tight"),
        (5000, False, "no"),
    ],
)
def test_words_change_at_80_and_92_percent_of_usable_and_above_by_what_a_lever_can_do(
    peak: float, mendable: bool, word: str
) -> None:
    assert word_for(peak, 1000, mendable=mendable) == word


def test_usable_is_memory_less_the_stated_allowance() -> None:
    assert usable_mib(8) == 8192 - (256 + 512 + 512)
    assert usable_mib(1, Allowance(1, 2, 3)) == 1018


def test_a_card_that_the_allowance_eats_is_refused() -> None:
    with pytest.raises(LabError, match="leaves nothing"):
        usable_mib(1)


def test_a_comfortable_recipe_needs_no_lever() -> None:
    verdict = judge(law(Line(0, 10), Line(0, 1)), 1, batch=64, test_batch=64, allowance=NOTHING)
    assert (verdict.word, verdict.lever, verdict.note) == ("comfortable", "", "")
    assert verdict.share == 640 / 1024
    assert verdict.largest_batch == 94  # 0.92 * 1024 / 10
    assert verdict.largest_eval_batch == 942


def test_the_lever_is_the_largest_equal_piece_that_fits_with_its_gradients() -> None:
    # 64 clips need 1290 MiB of 1024. Of 942.08, 10 are the model and 10 its gradients: 46 clips, and 32 divides 64.
    verdict = judge(law(Line(10, 20), Line(10, 1), gradients=10), 1, batch=64, test_batch=64, allowance=NOTHING)
    assert verdict.word == "tight"
    assert verdict.lever == "--forward-batch-size 32"
    assert "BatchNorm sees 32 clips" in verdict.note
    assert "--batch-size 46" in verdict.note


def test_the_recipes_own_micro_batches_are_what_is_judged() -> None:
    verdict = judge(law(Line(10, 20), Line(10, 1), gradients=10), 1, batch=64, forward_batch=32, test_batch=64, allowance=NOTHING)
    assert verdict.word == "comfortable"
    assert verdict.train == 10 + 20 * 32 + 10


def test_tight_names_a_lever_too() -> None:
    verdict = judge(law(Line(0, 15), Line(0, 1)), 1, batch=64, test_batch=64, allowance=NOTHING)  # 960 of 1024
    assert verdict.word == "tight"
    assert verdict.lever == "--forward-batch-size 32"


def test_evaluation_alone_can_be_what_does_not_fit() -> None:
    verdict = judge(law(Line(0, 1), Line(0, 8)), 1, batch=64, test_batch=256, allowance=NOTHING)
    assert verdict.word == "tight"
    assert verdict.lever == "--test-batch-size 64"  # 117 clips fit
    assert "changes no number" in verdict.note


def test_evaluation_on_longer_clips_has_a_law_of_its_own() -> None:
    short, long = law(Line(0, 1), Line(0, 1)), law(Line(0, 4), Line(0, 5))
    verdict = judge(short, 1, batch=64, test_batch=64, eval_law=long, allowance=NOTHING)
    assert (verdict.train, verdict.eval) == (64, 320)
    assert verdict.largest_eval_batch == 188


def test_what_no_batch_can_mend_says_how_much_one_clip_needs() -> None:
    verdict = judge(law(Line(2048, 10), Line(100, 1)), 1, batch=64, test_batch=64, allowance=NOTHING)
    assert (verdict.word, verdict.lever, verdict.largest_batch) == ("no", "", 0)
    assert "2.2 GiB" in verdict.note  # (2048 + 10) / 0.92


@pytest.mark.parametrize("vram", [4, 6, 8, 12, 16, 24])
def test_more_memory_never_makes_a_verdict_worse(vram: int) -> None:
    order = ["comfortable", "fits", "tight", "no"]
    some = law(Line(14, 111), Line(14, 13), gradients=6)
    small, large = (judge(some, gib, batch=64, test_batch=64) for gib in (vram, vram + 1))
    assert order.index(large.word) <= order.index(small.word)
    assert large.largest_batch > small.largest_batch
