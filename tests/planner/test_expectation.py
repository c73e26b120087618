"""Predictions held against what a GPU says; the GPU is made up, its figures are given by hand."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine import memory
from engine import models as registry
from engine.assembly import load_data
from engine.config import RunConfig, parse
from planner import expectation
from planner.card.budget import Budget, for_card
from planner.card.calibration import append, pessimistic, read
from planner.costs import asked_of, costs_of, size_of
from planner.expectation import Expected, advice, expect
from planner.fit import fitted
from shared_data.errors import LabError
from tests.planner.planted import NETWORK, READS_VALUES, write_model

CPU = torch.device("cpu")
WIDE = "dataset: auto\nbatch_size: 64\ntest_batch_size: 64\nmodel_args: {width: 4096}\n"


@pytest.fixture(autouse=True)
def own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No row of the machine's user, and a place for new ones."""
    file = tmp_path / "rows" / "calibration.csv"
    monkeypatch.setenv("SAL_CALIBRATION", str(file))
    return file


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A GPU in the CPU's place."""

    def put(gib: float, others: float = 0.5) -> None:
        made_up = memory.Gpu("Planted 1000", int(gib * 2**30), int(others * 2**30))
        monkeypatch.setattr(memory, "gpu", lambda device: made_up)

    return put


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_data: Path) -> Callable[..., RunConfig]:
    """Settings of a planted network."""
    monkeypatch.setenv(registry.MODELS_VARIABLE, str(tmp_path / "models"))
    write_model(tmp_path / "models", "planted_wide", NETWORK, wide=WIDE)
    write_model(tmp_path / "models", "planted_reader", READS_VALUES, wide=WIDE)

    def settings(model: str = "planted_wide", **changes: object) -> RunConfig:
        config = parse(["--recipe", "wide", "--data", str(tiny_data)], model=model)
        return dataclasses.replace(config, **changes)  # type: ignore[arg-type]

    return settings


def peaks(allocated: float, reserved: float | None = None) -> dict[str, float]:
    return {"peak_allocated_mib": allocated, "peak_reserved_mib": reserved or 1.1 * allocated, "rss_mib": 1.0}


EXPECTED = Expected(1000.0, Budget(8, pessimistic()), "Planted 1000", "planted wide, batch 64")
POINT = EXPECTED.allocated


@pytest.mark.parametrize(("share", "told"), [(0.89, True), (0.91, False), (1.0, False), (1.09, False), (1.11, True)])
def test_more_than_a_tenth_apart_is_told(share: float, told: bool) -> None:
    finding = EXPECTED.compare(peaks(share * POINT))
    assert bool(finding.lines) == told
    assert (finding.row is not None) == told
    assert finding.event["predicted_allocated_mib"] == POINT == 1000 + pessimistic().workspace_mib
    assert finding.event["predicted_tensors_mib"] == 1000


def test_the_warning_says_what_was_measured_reckoned_with_and_what_to_do(own_rows: Path) -> None:
    text = "\n".join(EXPECTED.compare(peaks(2048.0)).lines)
    assert text.startswith("warning: ")
    for word in ("2.00 GiB", f"{POINT / 1024:.2f} GiB", "1000 MiB of tensors", "not measured", "sal calibrate", str(own_rows)):
        assert word in text
    assert "too high" not in text
    assert "too high" in "\n".join(EXPECTED.compare(peaks(700.0)).lines)


def test_the_row_is_a_calibration_file_that_mends_the_prediction(tmp_path: Path) -> None:
    text = EXPECTED.compare(peaks(2000.0, 2500.0)).row
    assert text is not None
    file = tmp_path / "row.csv"
    file.write_text(text)
    (row,) = read(file)
    assert (row.gpu, row.gib, row.torch, row.cells) == ("Planted 1000", 8, torch.__version__, 1)
    assert (row.workspace_mib, row.workspace_high_mib) == (1000, 1000)
    assert (row.fragmentation, row.fragmentation_high) == (1.25, 1.25)
    assert "planted wide, batch 64" in row.source
    append(row)
    mended = dataclasses.replace(EXPECTED, budget=for_card("NVIDIA Planted 1000", 8))
    assert mended.compare(peaks(2000.0, 2500.0)).lines == []


def test_one_step_never_makes_a_row_less_careful() -> None:
    before = pessimistic()
    row = EXPECTED.row(allocated=900.0, reserved=900.0)  # less than the tensors alone
    assert (row.workspace_mib, row.fragmentation) == (0, 1)
    assert (row.workspace_high_mib, row.fragmentation_high) == (before.workspace_high_mib, before.fragmentation_high)


def test_what_is_expected_is_the_planners_figure_for_the_data_at_hand(
    gpu: Callable[..., None], make: Callable[..., RunConfig]
) -> None:
    gpu(8)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        config = make()
        event = expect(config, load_data(config), CPU)(peaks(1.0)).event
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    card = registry.find("planted_wide")
    four = costs_of(card, config, dataclasses.replace(size_of("ntu60"), classes=4)).train(asked_of(config))
    sixty = costs_of(card, config, size_of("ntu60")).train(asked_of(config))
    assert event["predicted_tensors_mib"] == round(four, 1) != round(sixty, 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"compile": True}, "--compile"),
        ({"cuda_graphs": True}, "--cuda-graphs"),
        ({"augment_on": "device"}, "--augment-on"),
        ({"model": "planted_reader"}, "without values"),
    ],
)
def test_where_there_is_no_prediction_the_reason_is_told(
    gpu: Callable[..., None], make: Callable[..., RunConfig], changes: dict[str, object], reason: str
) -> None:
    gpu(8)
    config = make(**changes)
    with pytest.raises(LabError, match=reason):
        expect(config, load_data(config), CPU)


def test_a_planner_that_breaks_breaks_no_run(
    monkeypatch: pytest.MonkeyPatch, gpu: Callable[..., None], make: Callable[..., RunConfig]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nothing")

    gpu(8)
    monkeypatch.setattr(expectation, "costs_of", broken)
    config = make()
    with pytest.raises(LabError, match="ZeroDivisionError: by nothing"):
        expect(config, load_data(config), CPU)


def test_only_a_prediction_that_takes_long_is_announced(
    monkeypatch: pytest.MonkeyPatch, gpu: Callable[..., None], make: Callable[..., RunConfig]
) -> None:
    gpu(8)
    config, said, told = make(), [], threading.Event()
    expect(config, load_data(config), CPU, said.append)

    def slow(*arguments: object) -> object:
        told.wait(60)
        return costs_of(*arguments)  # type: ignore[arg-type]

    def note(text: str) -> None:
        said.append(text)
        told.set()

    assert said == []
    monkeypatch.setattr(expectation, "PATIENCE", 0.01)
    monkeypatch.setattr(expectation, "costs_of", slow)
    expect(config, load_data(config), CPU, note)
    assert len(said) == 1 and "predicting" in said[0]


def test_advice_is_what_fit_would_choose(gpu: Callable[..., None], make: Callable[..., RunConfig]) -> None:
    gpu(7.75)
    config = make()
    found = advice(config, config, set(), CPU, evaluation=False)
    chosen = fitted(dataclasses.replace(config, fit="8GiB")).config
    wanted = f"--test-batch-size {chosen.test_batch_size} --forward-batch-size {chosen.forward_batch_size}"
    assert found.fits and found.flags == wanted
    assert found.again == {"test_batch_size", "forward_batch_size"}
    assert "predicted: training" in found.lines[0] and not any("nvidia-smi" in line for line in found.lines)


def test_what_the_user_gave_gives_way_only_last(gpu: Callable[..., None], make: Callable[..., RunConfig]) -> None:
    gpu(7.75)
    config = make(test_batch_size=4096)
    kept = advice(config, config, {"forward_batch_size"}, CPU, evaluation=False)
    assert "--forward-batch-size" in kept.flags  # nothing else is enough
    small = make(batch_size=8, test_batch_size=4096)
    assert advice(small, small, {"test_batch_size"}, CPU, evaluation=True).flags.startswith("--test-batch-size ")


def test_a_run_that_was_predicted_to_fit_is_answered_with_clearly_less(
    gpu: Callable[..., None], make: Callable[..., RunConfig]
) -> None:
    gpu(64)
    config = make(precision="bf16")
    costs = costs_of(registry.find(config.model), config, dataclasses.replace(size_of("ntu60"), classes=4))
    found = advice(config, config, set(), CPU, evaluation=False)
    assert found.fits and any("nvidia-smi" in line for line in found.lines)
    piece = int(found.flags.split()[-1])
    smaller = costs.train(dataclasses.replace(asked_of(config), forward_batch_size=piece))
    assert smaller <= expectation.LESS * costs.train(asked_of(config))


def test_what_other_programs_hold_is_not_promised(gpu: Callable[..., None], make: Callable[..., RunConfig]) -> None:
    config = make()

    def piece(others: float) -> int:
        gpu(8, others)
        return int(advice(config, config, set(), CPU, evaluation=False).flags.split()[-1])

    assert piece(others=4.5) < piece(others=0.5)
    gpu(8, others=7.9)
    none = advice(config, config, set(), CPU, evaluation=False)
    assert not none.fits and "nothing of 8.25 GiB is left for tensors" in none.lines[0]


def test_flags_start_from_what_was_asked_before_a_fit(gpu: Callable[..., None], make: Callable[..., RunConfig]) -> None:
    gpu(7.75)
    wished = make(test_batch_size=256)
    ran = dataclasses.replace(wished, test_batch_size=32)
    found = advice(ran, wished, set(), CPU, evaluation=False)
    assert "--test-batch-size 32" in found.flags
    assert "test_batch_size" not in found.again


def test_nothing_is_promised_where_nothing_helps(gpu: Callable[..., None], make: Callable[..., RunConfig]) -> None:
    gpu(1.2)
    config = make()
    found = advice(config, config, set(), CPU, evaluation=False)
    assert not found.fits and "--forward-batch-size 1" in found.flags
