"""The answers over a folder of models made for the test: every recipe gets one, broken ones too."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine import models as registry
from engine.errors import ConfigError
from planner.answers import Answer, Question, answers
from planner.card import cards
from planner.card.budget import FITS, Budget
from planner.levers import LEVELS
from shared_data.errors import UsageError
from tests.planner.planted import NETWORK, READS_VALUES, house, write_model

__all__ = ["house"]
EIGHT = Question(Budget(8))


def by_recipe(found: list[Answer]) -> dict[str, Answer]:
    return {answer.recipe: answer for answer in found}


def test_every_recipe_of_every_model_is_judged(house: Path) -> None:
    write_model(house, "planted_other", NETWORK, ntu120="dataset: ntu120\nbatch_size: 32\n")
    told: list[str] = []
    found = answers(EIGHT, told=told.append)
    names = [
        ("planted_other", "ntu120"),
        *(("planted_small", name) for name in ("ntu60", "ntu60_wide", "ntu60_wide_pieces", "nw_ucla")),
    ]
    assert [(answer.model, answer.recipe) for answer in found] == names
    assert told == [f"{' '.join(name)} ({number} of 5)" for number, name in enumerate(names, 1)]
    assert all(answer.verdict is not None and answer.linear for answer in found)
    assert answers(EIGHT, registry.discover(), model="planted_other") == [found[0]]
    assert answers(EIGHT, recipe="nw_ucla") == [found[-1]]
    assert answers(EIGHT, recipe="*_wide*") == found[2:4]


def test_figures_follow_from_the_recipe(house: Path) -> None:
    found = by_recipe(answers(EIGHT))
    small, wide, pieces, ucla = (found[name].verdict for name in ("ntu60", "ntu60_wide", "ntu60_wide_pieces", "nw_ucla"))
    assert small and wide and pieces and ucla
    # one (N*M, width, T, V) float32 map is 64 * 2 * 4096 * 64 * 25 * 4 B = 3200 MiB; convolution output, BatchNorm output
    # (which ReLU's backward needs as its own result) and gradients make it several
    assert small.word == "comfortable"
    assert wide.word == "tight"
    assert 3 * 3200 < wide.train.low < 5 * 3200
    assert pieces.train.low < 0.15 * wide.train.low
    assert "--forward-batch-size" in wide.lever
    piece = int(wide.lever.split("--forward-batch-size ")[1].split()[0])
    assert 64 % piece == 0
    assert ucla.train.low < small.train.low * (16 * 1 * 52 * 20) / (64 * 2 * 64 * 25) * 1.5


def test_the_named_lever_makes_it_fit(house: Path) -> None:
    wide = by_recipe(answers(EIGHT))["ntu60_wide"].verdict
    assert wide is not None
    words = wide.lever.split()
    flags = dict(zip(words[::2], words[1::2], strict=True))
    text = "".join(f"{flag.removeprefix('--').replace('-', '_')}: {value}\n" for flag, value in flags.items())
    write_model(house, "planted_mended", NETWORK, mended=f"dataset: ntu60\nbatch_size: 64\nmodel_args: {{width: 4096}}\n{text}")
    mended = answers(EIGHT, model="planted_mended")[0].verdict
    assert mended is not None
    assert mended.word in ("comfortable", "fits")
    assert mended.lever == ""
    assert mended.share <= FITS


def test_the_largest_batch_fits_and_one_more_does_not(house: Path) -> None:
    largest = by_recipe(answers(EIGHT))["ntu60_wide"].verdict
    assert largest is not None
    words = [
        by_recipe(answers(replace(EIGHT, changes=("--batch-size", str(batch), "--test-batch-size", "1"))))["ntu60_wide"].verdict
        for batch in (largest.largest_batch, largest.largest_batch + 1)
    ]
    assert [verdict.word for verdict in words if verdict] == ["fits", "tight"]


def test_the_longest_window_fits_and_the_next_does_not(house: Path) -> None:
    evaluated_in_pieces = ("--test-batch-size", "8")
    pieces = by_recipe(answers(replace(EIGHT, changes=evaluated_in_pieces)))["ntu60_wide_pieces"]
    assert pieces.window is not None and 64 < pieces.window < 300
    shares = []
    for frames in (pieces.window, pieces.window + 4):
        changes = ("--train-window-size", str(frames), "--test-window-size", str(frames), *evaluated_in_pieces)
        verdict = by_recipe(answers(replace(EIGHT, changes=changes)))["ntu60_wide_pieces"].verdict
        assert verdict is not None
        shares.append(verdict.share)
    assert shares[0] <= FITS < shares[1]


def test_a_recipe_can_be_asked_about_with_other_settings(house: Path) -> None:
    plain, changed = (answers(replace(EIGHT, changes=words), recipe="ntu60")[0] for words in ((), ("--batch-size", "8")))
    assert plain.verdict and changed.verdict and changed.config
    assert changed.config.batch_size == 8
    assert changed.verdict.train.low < 0.2 * plain.verdict.train.low
    with pytest.raises(ConfigError, match="batch_size"):
        answers(replace(EIGHT, changes=("--batch-size", "0")), recipe="ntu60")


def test_details_show_the_ladder_and_what_changes_numbers(house: Path) -> None:
    (answer,) = answers(replace(EIGHT, details=True), recipe="ntu60_wide")
    found = [rung.option for rung in answer.ladder]
    flags = [option.flags for option in found]
    assert flags[0] == ""
    assert [option.changes for option in found if option.flags == "--recompute blocks"] == [False]
    assert any("--precision bf16" in text for text in flags) and any("--forward-batch-size" in text for text in flags)
    assert all(option.changes for option in found if "bf16" in option.flags or "forward" in option.flags)
    assert len({option.settings.recompute for option in found}) == len(LEVELS) - 1
    assert answers(EIGHT, recipe="ntu60_wide")[0].ladder == ()


@pytest.mark.parametrize("size", [3.0, 8.0, 64.0])
def test_what_a_fit_would_take_is_on_the_ladder_with_its_peak(house: Path, size: float) -> None:
    (answer,) = answers(Question(Budget(size), details=True), recipe="ntu60_wide")
    assert answer.verdict is not None and answer.verdict.choice.fits
    (chosen,) = (rung for rung in answer.ladder if rung.chosen)
    assert chosen.option.flags == answer.verdict.lever
    assert answer.verdict.budget.share(chosen.peak) <= FITS


def test_a_network_whose_memory_is_no_law_and_autocast_are_marked(house: Path) -> None:
    pairs = NETWORK.replace(
        "return self.fc(", "pairs = torch.cdist(x.flatten(1), x.flatten(1)).relu().mean() * 0\n        return pairs + self.fc("
    )
    write_model(house, "planted_pairs", pairs, ntu60="dataset: ntu60\nbatch_size: 64\n")
    (pairwise,) = answers(EIGHT, model="planted_pairs")
    assert pairwise.verdict is not None
    assert not pairwise.linear
    plain, rounded = (answers(replace(EIGHT, changes=("--precision", p)), recipe="ntu60")[-1] for p in ("fp32", "bf16"))
    assert (plain.linear, plain.approximate, rounded.approximate) == (True, False, True)


def test_a_window_that_the_pipeline_does_not_make_is_no_answer(house: Path) -> None:
    write_model(
        house,
        "planted_whole",
        NETWORK,
        ntu60="dataset: ntu60\npipeline: msg3d_ntu\ntrain_window_size: -1\ntest_window_size: -1\n",
    )
    (answer,) = answers(
        replace(EIGHT, changes=("--train-window-size", "100", "--test-window-size", "100")), model="planted_whole"
    )
    assert answer.verdict is None
    assert "300 frames" in answer.problem


def test_a_named_card_gives_times_and_a_faster_one_shorter_ones(house: Path) -> None:
    times = []
    for name in ("RTX 3060 Ti", "RTX 4090"):
        card = cards.find(name)
        (answer,) = answers(Question(Budget(card.gib), card), recipe="ntu60_wide_pieces")
        assert answer.duration is not None
        step = answer.duration.step
        assert 0 < step.low <= step.point <= step.high
        assert answer.duration.epoch is not None
        times.append(answer.duration.epoch.point)
    assert times[1] < times[0]
    assert answers(EIGHT, recipe="ntu60")[0].duration is None


def test_what_the_host_must_have_grows_with_the_batch_and_names_the_store(house: Path) -> None:
    small, large = (answers(replace(EIGHT, changes=("--batch-size", batch)), recipe="ntu60")[0].host for batch in ("64", "512"))
    assert small and large and small.store_mib
    assert large.ram_mib >= small.ram_mib + 80  # 5 batches, 448 clips of 37.5 KiB more each
    assert 1500 < small.store_mib < 1800  # 1.57 GB in float32 for the real NTU-60
    assert small.shm_mib == 0


@pytest.mark.parametrize(("smaller", "larger"), list(itertools.pairwise([4, 6, 8, 12, 16, 24])))
def test_more_memory_never_makes_an_answer_worse(house: Path, smaller: float, larger: float) -> None:
    order = ["comfortable", "fits", "tight", "no"]
    for less, more in zip(answers(Question(Budget(smaller))), answers(Question(Budget(larger))), strict=True):
        assert less.verdict and more.verdict
        assert order.index(more.verdict.word) <= order.index(less.verdict.word)
        assert more.verdict.largest_batch >= less.verdict.largest_batch
        assert (more.window or 0) >= (less.window or 0)
        assert len(more.verdict.choice.levers) <= len(less.verdict.choice.levers)


def test_what_cannot_be_judged_has_an_answer_that_says_why(house: Path) -> None:
    write_model(house, "planted_values", READS_VALUES, ntu60="dataset: ntu60\n")
    write_model(house, "planted_broken", "import no_such_module_anywhere\n", ntu60="dataset: ntu60\n")
    write_model(house, "planted_recipe", NETWORK, wrong="dataset: ntu60\nbatch_sise: 3\n", where="dataset: mars\n")
    found = {(answer.model, answer.recipe): answer for answer in answers(EIGHT)}
    expected = {
        ("planted_values", "ntu60"): "without values",
        ("planted_broken", "ntu60"): "no_such_module_anywhere",
        ("planted_recipe", "wrong"): "batch_sise",
        ("planted_recipe", "where"): "mars",
    }
    for key, words in expected.items():
        assert found[key].verdict is None
        assert words in found[key].problem
        assert found[key].as_dict()["problem"] == found[key].problem
    assert found["planted_small", "ntu60"].verdict is not None


def test_unknown_names_are_refused_with_the_nearest(house: Path) -> None:
    with pytest.raises(ConfigError, match="planted_small"):
        answers(EIGHT, model="planted_smal")
    with pytest.raises(UsageError, match="did you mean ntu60_wide"):
        answers(EIGHT, recipe="ntu60_wid")


def test_an_answer_for_programs_has_every_figure(house: Path) -> None:
    card = cards.find("RTX 3060 Ti")
    (answer,) = answers(Question(Budget(8), card, details=True), recipe="ntu60_wide")
    told = json.loads(json.dumps(answer.as_dict()))
    assert (told["word"], told["model"], told["recipe"]) == ("tight", "planted_small", "ntu60_wide")
    assert told["settings"]["batch_size"] == 64
    assert told["ladder"][0]["tensors_mib"]["train"] == told["tensors_mib"]["train"]
    assert told["time"]["epoch_s"] == sorted(told["time"]["epoch_s"])
    assert told["host"]["store_mib"] > 1500
