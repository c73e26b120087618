"""`sal plan` as it is called, over models made for the test."""

import json
from pathlib import Path

import pytest

from planner.card import calibration
from sal.__main__ import main
from tests.planner.planted import READS_VALUES, house, write_model

__all__ = ["house"]
pytestmark = pytest.mark.usefixtures("house")


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(calibration.USER_FILE, str(tmp_path / "calibration.csv"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def called(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["plan", *words])
    out, err = capsys.readouterr()
    return code, out, err


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict:  # type: ignore[type-arg]
    code, out, _ = called(capsys, *words, "--json")
    assert code in (0, 1)
    cards = json.loads(out)["cards"]
    return cards[0] if len(cards) == 1 else cards


def test_eight_gib_is_what_is_asked_about_where_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys)
    assert code == 0
    assert "on a GPU with 8 GiB" in out and "ntu60_wide_pieces" in out


def test_a_card_brings_its_memory_and_its_speed(capsys: pytest.CaptureFixture[str]) -> None:
    told = asked(capsys, "--gpu", "rtx 3060", "--vram", "12")
    assert (told["vram_gib"], told["gpu"]["name"]) == (12, "RTX 3060 12GB")
    assert asked(capsys, "--gpu", "RTX 3070")["vram_gib"] == 8
    assert all(answer["time"]["step_s"][0] > 0 for answer in told["answers"])
    assert all(answer["time"] is None for answer in asked(capsys, "--vram", "12")["answers"])


def test_a_measured_card_is_reckoned_by_its_own_row(capsys: pytest.CaptureFixture[str], settings: Path) -> None:
    before = asked(capsys, "--gpu", "RTX 3070", "--recipe", "ntu60_wide")["answers"][0]
    row = dict(zip(calibration.FIELDS, calibration.as_csv(calibration.pessimistic()).split(","), strict=False))
    row |= {"gpu": "NVIDIA GeForce RTX 3070", "gib": "8", "workspace_mib": "10", "workspace_high_mib": "20",
            "fragmentation": "1.01", "fragmentation_high": "1.02", "cells": "4", "source": "planted"}  # fmt: skip
    (settings / "calibration.csv").write_text(f"{calibration.header()}\n{','.join(row[name] for name in calibration.FIELDS)}\n")
    after = asked(capsys, "--gpu", "RTX 3070", "--recipe", "ntu60_wide")
    assert after["calibration"]["source"] == "planted"
    assert after["answers"][0]["share_of_usable"] < before["share_of_usable"]
    assert after["answers"][0]["tensors_mib"] == before["tensors_mib"]


def test_memory_that_others_hold_is_taken_off(capsys: pytest.CaptureFixture[str]) -> None:
    free, shared = (asked(capsys, "--recipe", "ntu60", "--used", used)["answers"][0] for used in ("0", "1"))
    assert shared["usable_mib"] == free["usable_mib"] - 1024


@pytest.mark.parametrize(
    ("words", "setting", "value"),
    [
        (("--batch", "8"), "batch_size", 8),
        (("--precision", "bf16"), "precision", "bf16"),
        (("--window", "32"), "train_window_size", 32),
        (("--test-batch", "5"), "test_batch_size", 5),
        (("--recompute", "blocks"), "recompute", "blocks"),
    ],
)
def test_settings_of_the_recipe_can_be_changed(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], setting: str, value: object
) -> None:
    (answer,) = asked(capsys, "planted_small", "--recipe", "ntu60", *words)["answers"]
    assert answer["settings"][setting] == value


def test_one_recipe_is_told_in_full_and_no_is_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "planted_small", "--recipe", "ntu60_wide")
    assert code == 0
    assert "Levers, the cheapest first" in out
    for size in ("1.45", "1", "0.1"):
        assert called(capsys, "--model", "planted_small", "--recipe", "ntu60_wide", "--vram", size)[0] == 1


def test_recipes_of_a_pattern_are_told_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    told = asked(capsys, "--recipe", "ntu60*")
    assert {answer["recipe"] for answer in told["answers"]} == {"ntu60", "ntu60_wide", "ntu60_wide_pieces"}
    assert not any(answer["ladder"] for answer in told["answers"])
    code, out, _ = called(capsys, "--recipe", "ntu60_wide_p[i]eces", "--vram", "0.1")
    assert code == 0 and "Will it train" in out  # a table of one


def test_a_recipe_that_cannot_be_judged_is_not_a_yes(capsys: pytest.CaptureFixture[str], house: Path) -> None:
    write_model(house, "planted_values", READS_VALUES, ntu60="dataset: ntu60\n")
    code, out, _ = called(capsys, "planted_values")
    assert code == 1
    assert "not judged" in out


def test_sizes_with_commas_are_a_matrix_and_a_page_of_markdown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "which-gpu.md"
    code, out, err = called(capsys, "--vram", "6,8,12,16,24", "--markdown", str(target))
    assert code == 0
    assert [size in out for size in ("6 GiB", "8 GiB", "24 GiB")] == [True] * 3
    text = target.read_text()
    assert "`sal plan --vram 6,8,12,16,24`" in text
    assert text.count("| planted_small ") == 4
    assert str(target) in err
    told = asked(capsys, "--vram", "6,24")
    assert [one["vram_gib"] for one in told] == [6, 24]


def test_the_page_is_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert called(capsys, "--html", str(tmp_path / "plan.html"))[0] == 0
    assert "ntu60_wide_pieces" in (tmp_path / "plan.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--vram", "big"), "no size"),
        (("--vram", "8,"), "no size"),
        (("--vram", "-8"), "no size"),
        (("--gpu", "RTX 3071"), "RTX 3070"),
        (("--used", "-1"), "taken"),
        (("planted_smal",), "planted_small"),
        (("planted_small", "--model", "planted_other"), "two models"),
        (("--recipe", "ntu6"), "ntu60"),
        (("--batch", "0"), "batch_size"),
        (("--markdown", "x.md"), "several sizes"),
        (("--vram", "6,8", "--html", "x.html"), "one size"),
        (("--precision", "int8"), "precision"),
        (("--vram", "1e308"), "no size"),
        (("--batch", "99999999999999999999"), "more than can be predicted"),
        (("--batch", "65537"), "at most 65536"),
    ],
)
def test_what_cannot_be_asked_is_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    try:
        code, _, err = called(capsys, *words)
    except SystemExit as exit_:
        code, err = int(exit_.code or 0), capsys.readouterr().err
    assert code == 2
    assert message in err


def test_only_an_older_answer_is_replaced(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    mine, page = tmp_path / "thesis.txt", tmp_path / "plan.html"
    mine.write_text("years of work\n")
    for flags in (("--html", str(mine)), ("--vram", "6,8", "--markdown", str(mine))):
        assert called(capsys, *flags)[0] == 74
    assert mine.read_text() == "years of work\n"
    assert [called(capsys, "--html", str(page))[0] for _ in range(2)] == [0, 0]
    assert called(capsys, "--html", str(tmp_path / "none" / "plan.html"))[0] == 74


def test_known_cards_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "--gpu", "list")
    assert code == 0
    assert "RTX 3070 " in out and len(out.splitlines()) > 50


def test_a_reader_that_closes_early_is_no_answer(house: Path) -> None:
    import subprocess
    import sys

    command = f"{sys.executable} -m sal plan planted_small --recipe ntu60 | head -1; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", command], capture_output=True, check=False).returncode == 0


def test_measuring_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    code, _, err = called(capsys, "--measure")
    assert code == 69
    assert "no GPU" in err
