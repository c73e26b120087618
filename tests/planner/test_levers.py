"""Which lever is pulled first, on costs written down by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from planner.levers import Settings, choose
from planner.steps.tracing import TooFewValues
from shared_data.errors import LabError

KEPT = {"none": 4.0, "cheap": 2.0, "blocks": 1.0}
"""MiB per clip at each level. bf16 takes 0.4 of it; beside pieces live gradients of 1 MiB; evaluation is 0.25 MiB per clip."""
ASKED = Settings(64, 64)


@dataclass(frozen=True)
class Costs:
    batch_norm: bool = True

    def train(self, settings: Settings) -> float:
        rounded = 0.4 if settings.precision == "bf16" else 1.0
        return settings.piece * KEPT[settings.recompute] * rounded + (settings.piece < settings.batch_size)

    def evaluation(self, settings: Settings) -> float:
        return settings.test_batch_size * 0.25


@pytest.mark.parametrize(
    ("room", "flags"),
    [
        (128.0, ""),  # exactly what it needs
        (127.9, "--recompute blocks"),
        (64.0, "--recompute blocks"),
        (63.9, "--precision bf16"),
        (51.1, "--recompute blocks --precision bf16"),
        (25.6, "--recompute blocks --precision bf16"),
        (25.5, "--recompute blocks --forward-batch-size 16"),  # rounding does not keep the batch whole any more
        (17.0, "--recompute blocks --forward-batch-size 16"),
        (16.9, "--recompute blocks --forward-batch-size 8"),
        (2.0, "--test-batch-size 8 --recompute blocks --forward-batch-size 1"),
        (1.9, "--test-batch-size 4 --recompute blocks --precision bf16 --forward-batch-size 2"),
    ],
)
def test_levers_are_pulled_in_order_and_no_more_than_needed(room: float, flags: str) -> None:
    choice = choose(Costs(), ASKED, room)
    assert (choice.flags, choice.fits) == (flags, True)
    assert (choice.train_before, choice.eval_before) == (128, 16)
    assert max(choice.train, choice.eval) <= room
    assert len(choice.sentences) == flags.count("--")


def test_evaluation_is_mended_alone_by_the_largest_power_of_two() -> None:
    choice = choose(Costs(), Settings(4, 100), 15.9)
    assert (choice.flags, choice.train, choice.eval) == ("--test-batch-size 32", 8, 8)
    assert choose(Costs(), Settings(4, 64), 16.0).flags == ""


def test_a_level_that_keeps_more_is_the_first_lever_where_everything_was_kept() -> None:
    assert choose(Costs(), replace(ASKED, recompute="none"), 128).flags == "--recompute cheap"


def test_pieces_of_one_size_keep_the_cheaper_level() -> None:
    asked = Settings(7, 1)  # has no other pieces than single clips
    assert choose(Costs(), asked, 6, fixed={"precision"}).flags == "--forward-batch-size 1"


def test_the_pieces_of_a_recipe_are_only_made_smaller() -> None:
    asked = Settings(64, 8, forward_batch_size=16)
    assert choose(Costs(), asked, 33).flags == ""
    assert choose(Costs(), asked, 6, fixed={"precision"}).flags == "--recompute blocks --forward-batch-size 4"


def test_a_network_without_batch_norm_is_cut_before_it_is_rounded() -> None:
    choice = choose(Costs(batch_norm=False), ASKED, 63.9)
    assert choice.flags == "--recompute blocks --forward-batch-size 32"
    assert "no BatchNorm" in choice.sentences[-1]
    assert "BatchNorm sees 16 clips" in choose(Costs(), ASKED, 25.5).sentences[-1]


@pytest.mark.parametrize(
    ("fixed", "room", "flags"),
    [
        ("recompute", 127.9, "--precision bf16"),
        ("precision", 51.1, "--recompute blocks --forward-batch-size 32"),
        ("forward_batch_size", 25.6, "--recompute blocks --precision bf16"),
    ],
)
def test_what_is_fixed_stays(fixed: str, room: float, flags: str) -> None:
    choice = choose(Costs(), ASKED, room, fixed={fixed})
    assert (choice.flags, choice.fits) == (flags, True)


def test_what_cannot_fit_is_said_with_what_comes_nearest() -> None:
    choice = choose(Costs(), ASKED, 25.5, fixed={"forward_batch_size"})
    assert not choice.fits
    assert (choice.flags, choice.train) == ("--recompute blocks --precision bf16", pytest.approx(25.6))
    assert not choose(Costs(), ASKED, 1.3).fits
    assert not choose(Costs(), Settings(1, 64), 15.9, fixed={"test_batch_size"}).fits


@dataclass(frozen=True)
class Refusing(Costs):
    """Takes no single clip."""

    refusal: type[LabError] = TooFewValues

    def train(self, settings: Settings) -> float:
        if settings.piece == 1:
            raise self.refusal("cannot be traced")
        return super().train(settings)


def test_only_a_piece_too_small_for_batch_norm_is_passed_over() -> None:
    choice = choose(Refusing(), ASKED, 1.9)
    assert choice.fits and choice.settings.forward_batch_size == 2
    with pytest.raises(LabError, match="cannot be traced"):
        choose(Refusing(refusal=LabError), ASKED, 1.9)


def test_a_run_that_only_evaluates_asks_for_evaluation_alone() -> None:
    choice = choose(Costs(), ASKED, 8, train=False)
    assert (choice.flags, choice.fits, choice.train) == ("--test-batch-size 32", True, 0)
