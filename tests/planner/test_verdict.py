"""The words, the allowance and the levers, on laws written down by hand."""

import json
from dataclasses import dataclass, replace

import pytest

from planner.card.budget import Budget
from planner.card.calibration import pessimistic
from planner.levers import Settings
from planner.steps.affine import Line
from planner.steps.tracing import Phase
from planner.verdict import Verdict, judge, told, word_for

NOTHING = replace(
    pessimistic(), gpu="planted", gib=1.0, driver_mib=0, context_mib=0, workspace_mib=0, workspace_high_mib=0, fragmentation=1,
    fragmentation_high=1,
)  # fmt: skip
"""A card of which tensors may have everything."""


@dataclass(frozen=True)
class Obeyed:
    """Costs of a network that obeys its lines exactly, whatever is recomputed or rounded; `gradients` live beside pieces."""

    train_line: Line
    eval_line: Line
    gradients: float = 0.0
    batch_norm: bool = True

    def train(self, settings: Settings) -> float:
        return self.train_line.at(settings.piece) + self.gradients * (settings.piece < settings.batch_size)

    def evaluation(self, settings: Settings) -> float:
        return self.eval_line.at(settings.test_batch_size)

    def largest(self, settings: Settings, phase: Phase, room: float) -> int:
        line = self.train_line if phase == "train" else self.eval_line
        return max(int((room - line.intercept) / line.slope), 0)


def judged(costs: Obeyed, *, batch: int = 64, test_batch: int = 64, forward_batch: int | None = None) -> Verdict:
    return judge(costs, Budget(1, NOTHING), Settings(batch, test_batch, forward_batch))


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
    assert word_for(peak / 1000, mendable=mendable) == word


def test_a_comfortable_recipe_needs_no_lever() -> None:
    verdict = judged(Obeyed(Line(0, 10), Line(0, 1)))
    assert (verdict.word, verdict.lever, verdict.note) == ("comfortable", "", "")
    assert verdict.share == 640 / 1024
    assert verdict.largest_batch == 94  # 0.92 * 1024 / 10
    assert verdict.largest_eval_batch == 942


def test_the_lever_is_the_largest_equal_piece_that_fits_with_its_gradients() -> None:
    # 64 clips need 1290 MiB of 1024. Of 942.08, 10 are the model and 10 its gradients: 46 clips, and 32 divides 64.
    verdict = judged(Obeyed(Line(10, 20), Line(10, 1), gradients=10))
    assert verdict.word == "tight"
    assert verdict.lever == "--forward-batch-size 32"
    assert "BatchNorm sees 32 clips" in verdict.note
    assert "--batch-size 46" in verdict.note


def test_the_recipes_own_micro_batches_are_what_is_judged() -> None:
    verdict = judged(Obeyed(Line(10, 20), Line(10, 1), gradients=10), forward_batch=32)
    assert verdict.word == "comfortable"
    assert verdict.train.point == 10 + 20 * 32 + 10


def test_tight_names_a_lever_too() -> None:
    verdict = judged(Obeyed(Line(0, 15), Line(0, 1)))  # 960 of 1024
    assert verdict.word == "tight"
    assert verdict.lever == "--forward-batch-size 32"


def test_evaluation_alone_can_be_what_does_not_fit() -> None:
    verdict = judged(Obeyed(Line(0, 1), Line(0, 8)), test_batch=256)
    assert verdict.word == "tight"
    assert verdict.lever == "--test-batch-size 64"  # 117 clips fit
    assert "no number changes" in verdict.note


def test_the_lever_is_the_one_that_a_fit_would_pull() -> None:
    class Recomputed(Obeyed):
        def train(self, settings: Settings) -> float:
            return super().train(settings) * (0.5 if settings.recompute == "blocks" else 1.0)

    verdict = judged(Recomputed(Line(0, 20), Line(0, 1)))
    assert (verdict.word, verdict.lever) == ("tight", "--recompute blocks")


def test_what_no_lever_can_mend_says_how_much_the_nearest_needs_and_what_is_not_chosen() -> None:
    verdict = judged(Obeyed(Line(2048, 10), Line(100, 1)))
    assert (verdict.word, verdict.lever, verdict.largest_batch) == ("no", "", 0)
    assert "--forward-batch-size 1" in verdict.note
    assert "2.2 GiB" in verdict.note  # (2048 + 10) / 0.92
    assert "--train-window-size" in verdict.note


@pytest.mark.parametrize("vram", [4, 6, 8, 12, 16, 24])
def test_more_memory_never_makes_a_verdict_worse(vram: int) -> None:
    order = ["comfortable", "fits", "tight", "no"]
    some = Obeyed(Line(14, 111), Line(14, 13), gradients=6)
    small, large = (judge(some, Budget(gib), Settings(64, 64)) for gib in (vram, vram + 1))
    assert order.index(large.word) <= order.index(small.word)
    assert large.largest_batch > small.largest_batch


def test_the_words_judge_the_high_end_of_what_is_reserved() -> None:
    """A step whose likely peak fits with room is still "tight" where the worst that is reckoned with does not fit."""
    row = replace(NOTHING, workspace_high_mib=200, fragmentation_high=1.25)
    verdict = judge(Obeyed(Line(0, 10), Line(0, 1)), Budget(1, row), Settings(64, 64))
    assert (verdict.train.low, verdict.train.point, verdict.train.high) == (640, 640, 1050)
    assert verdict.word == "tight"
    assert verdict.share == 1050 / 1024
    assert verdict.largest_batch == 55  # (55 * 10 + 200) * 1.25 = 937.5 of 942.08


def test_an_answer_for_programs_says_the_same() -> None:
    verdict = judged(Obeyed(Line(10, 20), Line(10, 1), gradients=10))
    told_as = json.loads(json.dumps(verdict.as_dict()))
    assert told_as["word"] == "tight"
    assert told_as["tensors_mib"] == {"train": 1290, "eval": 74}
    assert told_as["reserved_mib"]["train"] == {"low": 1290, "point": 1290, "high": 1290}
    (lever,) = told_as["levers"]
    assert (lever["setting"], lever["value"], lever["changes_numbers"]) == ("forward_batch_size", "32", True)


def test_sizes_are_told_in_gib_from_one_on() -> None:
    assert told(1023.4) == "1023 MiB"
    assert told(1536) == "1.50 GiB"
