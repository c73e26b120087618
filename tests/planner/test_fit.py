"""`--fit`: sizes, what stays as the user gave it, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from engine import memory
from engine import models as registry
from engine.config import RunConfig, parse
from engine.errors import ConfigError
from planner.card import calibration
from planner.card.calibration import append, pessimistic
from planner.fit import APPROXIMATE, DoesNotFit, budget_of, fitted, memory_gib
from tests.planner.planted import NETWORK, write_model

WIDE = "dataset: ntu60\nbatch_size: 64\nmodel_args: {width: 4096}\n"  # 13 GiB in training, with nothing that is recomputed


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setenv(registry.MODELS_VARIABLE, str(tmp_path))
    write_model(tmp_path, "planted_wide", NETWORK, wide=WIDE)
    return parse(["--recipe", "wide"], model="planted_wide")


def fit(config: RunConfig, size: str, *given: str, **settings: object) -> RunConfig:
    return fitted(dataclasses.replace(config, fit=size, **settings), frozenset(given)).config  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "gib"), [("8GiB", 8), ("8", 8), ("8GB", 8), ("7.5GiB", 7.5), ("12 gib", 12), ("6g", 6)])
def test_sizes(text: str, gib: float) -> None:
    assert memory_gib(text) == gib


@pytest.mark.parametrize(("written", "gib"), [("8", 8), ("7.5", 7.5), ("12GiB", 12), ("'6'", 6)])
def test_a_recipe_may_write_a_size_as_a_number(tmp_path: Path, written: str, gib: float) -> None:
    recipe = tmp_path / "fitted.yaml"
    recipe.write_text(f"model: ctrgcn\nfit: {written}\n")
    config = parse(["--config", str(recipe)])
    assert isinstance(config.fit, str)
    assert memory_gib(config.fit) == gib
    assert parse(["--config", str(recipe), "--fit", "4"]).fit == "4"
    recipe.write_text("model: ctrgcn\nfit: [8]\n")
    with pytest.raises(ConfigError, match="fit"):
        parse(["--config", str(recipe)])


@pytest.mark.parametrize("text", ["8MiB", "big", "-8", "0", "GiB", "8 8", "nan", "1e3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no size"):
        memory_gib(text)


def put_gpu(monkeypatch: pytest.MonkeyPatch, gib: float, others_gib: float) -> None:
    """A GPU in the CPU's place."""
    monkeypatch.setattr(memory, "counted", lambda device: True)
    monkeypatch.setattr(memory, "gpu", lambda device: memory.Gpu("Planted 1000", int(gib * 2**30), int(others_gib * 2**30)))


def test_auto_is_the_runs_own_gpu_or_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"(?s)auto.*8GiB"):
        budget_of(RunConfig(fit="auto", device="cpu"))
    row = pessimistic()
    put_gpu(monkeypatch, 7.75, others_gib=row.context_mib / 1024)  # the context of this process and no other program
    assert budget_of(RunConfig(fit="auto", device="cpu")).usable == 7.75 * 1024 - row.context_mib
    put_gpu(monkeypatch, 7.75, others_gib=row.context_mib / 1024 + 2)
    assert budget_of(RunConfig(fit="auto", device="cpu")).usable == 5.75 * 1024 - row.context_mib


def test_the_row_of_the_runs_own_gpu_serves_its_own_size_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(calibration.USER_FILE, str(tmp_path / "rows.csv"))
    append(dataclasses.replace(pessimistic(), gpu="Planted 1000", gib=24.0, torch="2.13.0"))
    put_gpu(monkeypatch, 23.6, others_gib=3)
    measured = {size: budget_of(RunConfig(fit=size, device="cpu")).calibration.measured for size in ("8", "23.5", "24", "auto")}
    assert measured == {"8": False, "23.5": True, "24": True, "auto": True}
    assert budget_of(RunConfig(fit="24", device="cpu")).taken_gib == 0  # a card of that size, not what is left of this one


def test_more_than_enough_changes_nothing_but_names_the_level_that_was_predicted(wide: RunConfig) -> None:
    result = fitted(dataclasses.replace(wide, fit="64GiB"))
    assert result.config == dataclasses.replace(wide, fit="64GiB", recompute="cheap")
    assert "nothing to change" in result.lines[0]
    assert result.record["levers"] == []


def test_what_does_not_fit_is_made_to_and_told(wide: RunConfig) -> None:
    result = fitted(dataclasses.replace(wide, fit="8GiB"))
    assert result.config.precision == "fp32"  # autocast alone would not keep the batch whole here
    assert result.config.forward_batch_size == 16
    record, room = result.record, result.record["room_mib"]
    assert record["predicted_mib"]["before"]["train"] > room >= record["predicted_mib"]["after"]["train"]
    assert record["predicted_mib"]["after"]["eval"] <= room
    assert record["settings"]["forward_batch_size"] == 16
    text = "\n".join(result.lines)
    assert "--forward-batch-size 16" in text and "BatchNorm sees 16 clips" in text
    assert "before: training" in text and "after: training" in text


def test_the_same_command_comes_to_the_same_settings_and_so_do_its_own(wide: RunConfig) -> None:
    once = fit(wide, "8GiB")
    assert fit(wide, "8GiB") == once
    assert fit(once, "8GiB") == once


def test_what_the_user_gave_stays(wide: RunConfig) -> None:
    kept = fit(wide, "8GiB", "precision", "recompute", precision="bf16", recompute="none")
    assert (kept.precision, kept.recompute) == ("bf16", "none")
    asked_auto = fit(wide, "8GiB", "recompute", recompute="auto")  # leaves the choice
    assert asked_auto == fit(wide, "8GiB")
    with pytest.raises(DoesNotFit):
        fit(wide, "8GiB", "forward_batch_size", forward_batch_size=64)
    friendly = fit(wide, "24GiB", "memory_friendly", memory_friendly=True, forward_batch_size=8, test_batch_size=8)
    assert (friendly.forward_batch_size, friendly.test_batch_size) == (8, 8)


def test_no_claim_where_nothing_helps(wide: RunConfig) -> None:
    with pytest.raises(
        DoesNotFit, match=r"(?s)not predicted to fit.*nearest: .*--forward-batch-size 1.*--train-window-size"
    ) as raised:
        fit(wide, "1.45GiB")
    assert raised.value.exit_code == 76


def test_little_room_is_not_told_as_none(wide: RunConfig) -> None:
    with pytest.raises(DoesNotFit, match=r"expected: tensors may take 29 MiB of 1\.45 GiB"):
        fit(wide, "1.45GiB")


@pytest.mark.parametrize("size", ["1.4", "0.9", "0.01"])
def test_a_card_that_is_eaten_up_is_a_no_with_the_size_that_would_do(wide: RunConfig, size: str) -> None:
    with pytest.raises(DoesNotFit, match=rf"expected: nothing of {size} GiB is left for tensors: .*; a GPU of \d+\.\d GiB"):
        fit(wide, size)


def test_a_prediction_under_autocast_is_called_approximate(wide: RunConfig) -> None:
    for precision in ("fp32", "bf16"):
        result = fitted(dataclasses.replace(wide, fit="64GiB", precision=precision), {"precision"})
        assert result.record["approximate"] == (precision == "bf16")
        assert (APPROXIMATE in result.record["prediction"]) == (precision == "bf16")
        assert (f"bf16: {APPROXIMATE}" in "\n".join(result.lines)) == (precision == "bf16")
    chosen = fitted(dataclasses.replace(wide, fit="10GiB"), {"forward_batch_size"})
    assert chosen.config.precision == "bf16" and chosen.record["approximate"]
    with pytest.raises(DoesNotFit, match="approximate"):
        fit(wide, "1.45GiB")


@pytest.mark.parametrize("setting", [{"compile": True}, {"cuda_graphs": True}, {"augment_on": "device"}])
def test_memory_that_is_not_traced_is_not_promised(wide: RunConfig, setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="cannot be predicted"):
        fit(wide, "64GiB", **setting)


def test_a_recipe_for_any_data_is_fitted_to_what_the_file_holds(wide: RunConfig, tiny_data: Path) -> None:
    def peak(**settings: object) -> float:
        config = dataclasses.replace(wide, fit="64GiB", **settings)  # type: ignore[arg-type]
        return float(fitted(config).record["predicted_mib"]["before"]["train"])

    assert peak(dataset="auto") == peak(dataset="ntu60")
    assert peak(dataset="auto", data=str(tiny_data)) < peak(dataset="auto")  # 4 classes, not 60


def test_a_resumed_run_reckons_with_what_others_held_when_it_was_begun(wide: RunConfig) -> None:
    config = dataclasses.replace(wide, fit="12GiB")
    alone = fitted(config)
    shared = fitted(config, begun={"fit": "12GiB", "taken_gib": 4.0})
    assert shared.record["taken_gib"] == 4.0
    assert shared.record["room_mib"] < alone.record["room_mib"] - 3000
    assert fitted(config, begun={"fit": "24GiB", "taken_gib": 4.0}).record == alone.record  # another fit was asked for
