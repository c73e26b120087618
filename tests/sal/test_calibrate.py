"""`sal calibrate`: from what was seen of a GPU to its row; a fake one on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import models
from planner import probes
from planner.card import calibration
from planner.card.budget import Budget
from planner.measure import NoGpu
from planner.probes import GpuProbes, NotMeasured, Seen, row_of
from planner.steps.peak import Steps
from sal import calibrate
from sal.verbs import typed
from shared_data.errors import LabError


class Fake:
    """`Probes` of a GPU of 7.6 GiB; steps really run, on the CPU. `room`: clips above which it runs out of memory."""

    name, total_mib, half = "NVIDIA Fake 1", 7800.0, "bf16"
    torch = torch.device("cpu")

    def __init__(self, room: int = 1000) -> None:
        self.room = room

    def release(self) -> None: ...

    def reset(self) -> None: ...

    def peaks(self) -> tuple[float, float]:
        return 400.0, 500.0

    def seconds(self, work: Callable[[], object]) -> float:
        work()
        return 0.5

    def context_mib(self) -> float:
        return 310.2

    def bandwidth_gbs(self) -> float:
        return 400.04

    def tflops(self, product: str) -> float | None:
        return {"fp32": 10.0, "tf32": None, "half": 40.125}[product]


def row(*seen: Seen, nominal_mib: float = 8192.0) -> calibration.Calibration:
    return row_of(Fake(), seen, nominal_mib=nominal_mib, date="2026-01-02", source="a test")  # type: ignore[arg-type]


def test_the_arithmetic_of_a_row() -> None:
    found = row(
        Seen(1000, 1020, 1122, 0.1),  # workspace 20, fragmentation 1.10
        Seen(2000, 2060, 2163, 0.1),  # 60, 1.05
        Seen(500, 540, 540, 0.1),  # 40, 1.00
        Seen(20, 22, 60, 0.02, launches=1000),  # small: 2, says nothing of fragmentation; 20 us a call
        Seen(20, 18, 60, 0.03, launches=1000),  # predicted too high: 0; 30 us
    )
    assert (found.workspace_mib, found.workspace_high_mib) == (20.0, 90.0)  # the median of 0 2 20 40 60; 60 and a half of it
    assert (found.fragmentation, found.fragmentation_high) == (1.05, 1.15)
    assert (found.gib, found.driver_mib, found.context_mib) == (8, 392, 311)
    assert (found.launch_us, found.bandwidth_gbs) == (25.0, 400.0)
    assert (found.fp32_tflops, found.tf32_tflops, found.half_tflops) == (10.0, None, 40.12)
    assert (found.gpu, found.torch, found.cells, found.date, found.source) == (
        "NVIDIA Fake 1", torch.__version__, 5, "2026-01-02", "a test"
    )  # fmt: skip


def test_what_was_seen_lies_inside_what_the_row_predicts() -> None:
    seen = [Seen(1000, 1020, 1122, 0.1), Seen(2000, 2060, 2163, 0.1), Seen(3000, 3010, 3512, 0.1)]
    budget = Budget(8.0, row(*seen))
    for one in seen:
        assert budget.allocated(one.tensors_mib).low <= one.allocated_mib <= budget.allocated(one.tensors_mib).high
        assert one.reserved_mib <= budget.reserved(one.tensors_mib).high


def test_small_steps_alone_must_do_where_there_are_no_others() -> None:
    found = row(Seen(20, 22, 33, 0.1))
    assert (found.fragmentation, found.fragmentation_high, found.launch_us) == (1.5, 1.75, None)
    assert row(Seen(20, 22, 33, 0.1), nominal_mib=7000.0).driver_mib == 0  # a table that knows a smaller card
    assert row(Seen(20, 22, 33, 0.1), nominal_mib=7000.0).gib == 7.62


def test_a_gpu_without_room_has_no_row() -> None:
    with pytest.raises(NotMeasured, match="other programs") as refused:
        row()
    assert refused.value.exit_code == 75


def test_the_nominal_size_is_the_cards_or_the_next_gib() -> None:
    assert calibrate.nominal_mib("NVIDIA GeForce RTX 3070", 7973.0) == 8 * 1024
    assert calibrate.nominal_mib("a GPU of tomorrow", 11910.5) == 12 * 1024
    assert calibrate.nominal_mib("NVIDIA GeForce RTX 3070", 9000.0) == 9 * 1024  # no such card: what is there counts


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    """Steps are not run, but what they would be is written down: (phase, clips, precision)."""
    ran: list[tuple[str, int, str]] = []

    def one_step(gpu: Fake, card: Any, config: Any, phase: str, known: Any) -> Seen | None:
        ran.append((phase, config.batch_size, config.precision))
        if card.name == "msg3d":
            raise LabError("its folder is broken")
        return Seen(10.0 * config.batch_size, 400.0, 500.0, 0.02, 100) if config.batch_size <= gpu.room else None

    few = {name: models.find(name) for name in ("ctrgcn", "msg3d", "skateformer")}
    monkeypatch.setattr(models, "discover", lambda kind="classifier": few)
    monkeypatch.setattr(calibrate, "one_step", one_step)
    return ran


def test_every_model_is_asked_and_what_fails_hides_no_other(short: list[tuple[str, int, str]]) -> None:
    said: list[str] = []
    found = calibrate.calibrated(Fake(room=8), tell=said.append)  # type: ignore[arg-type]
    number = len(models.discover())
    assert len(short) == 7 * number and short[0] == ("train", calibrate.HOST, "fp32")
    assert len(set(short)) == 7 and {precision for _, _, precision in short} == {"fp32", "bf16"}
    assert short[: number + 1].count(short[0]) == number  # one kind of step of every model, then the next kind
    assert found.cells == 3 * (number - 1)
    assert sum("no room" in line for line in said) == 4 * (number - 1)
    assert sum("its folder is broken" in line for line in said) == 7
    assert found.source == "sal calibrate" and found.gpu == Fake.name

    short.clear()
    assert calibrate.calibrated(Fake(), quick=True, tell=said.append).source == "sal calibrate --quick"  # type: ignore[arg-type]
    assert len(short) == 3 * number and ("train", calibrate.LARGE, "fp32") not in short


def test_what_takes_too_long_is_left_out_and_said(short: list[tuple[str, int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 30))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    said: list[str] = []
    found = calibrate.calibrated(Fake(), tell=said.append)  # type: ignore[arg-type]
    assert len(short) == 3 and found.cells >= 2  # at 30, 60 and 90 s
    assert any("steps left out: 90 s were over" in line for line in said)


def test_the_verb_prints_and_keeps_one_row_a_gpu_and_software(
    short: list[tuple[str, int, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probes, "GpuProbes", lambda number: Fake())
    own = tmp_path / "settings" / "calibration.csv"
    monkeypatch.setenv(calibration.USER_FILE, str(own))
    assert typed(calibrate.calibrate)(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert calibration.header() in printed and str(own) in printed and "driver_mib" in printed
    (first,) = calibration.read(own)
    assert calibration.as_csv(first) in printed and calibration.row_for("Fake 1", 8) == first
    monkeypatch.setattr(Fake, "context_mib", lambda self: 500.0)
    assert calibrate.calibrate() == 0
    (second,) = calibration.read(own)  # instead of the first
    assert second.context_mib == 500 and second.cells > first.cells
    monkeypatch.setattr(torch, "__version__", "9.9")
    calibrate.calibrate(quick=True)
    assert len(calibration.read(own)) == 2 and calibration.row_for("Fake 1", 8).torch == "9.9"
    elsewhere = tmp_path / "row.csv"
    typed(calibrate.calibrate)(["--device", "0", "--out", str(elsewhere)])
    assert len(calibration.read(elsewhere)) == 1 and len(calibration.read(own)) == 2


def test_a_step_is_really_run_and_predicted() -> None:
    card = models.find("baselines")
    config = calibrate.run_of(calibrate.smallest_recipe(card), calibrate.HOST, "fp32")
    assert (config.batch_size, config.forward_batch_size, config.test_batch_size, config.recompute) == (2, 2, 2, "cheap")
    known: dict[str, Steps] = {}
    seen = calibrate.one_step(Fake(), card, config, "train", known)  # type: ignore[arg-type]
    assert seen is not None and seen.tensors_mib > 1 and (seen.allocated_mib, seen.reserved_mib) == (400.0, 500.0)
    assert seen.launches > 20 and seen.seconds == 0.1  # five steps in a row
    (steps,) = known.values()
    assert steps.traced("train", 2, recompute="cheap") == seen.tensors_mib
    again = calibrate.one_step(Fake(), card, config, "eval", known)  # type: ignore[arg-type]
    assert again is not None and (again.launches, len(known)) == (0, 1) and again.tensors_mib != seen.tensors_mib


def test_the_smallest_recipe_has_the_smallest_clips() -> None:
    card = models.find("ctrgcn")
    assert calibrate.smallest_recipe(card).dataset == "nw_ucla"  # 52 frames of 20 joints of one person: less than 32 of 25 of two


def test_without_a_gpu_the_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoGpu) as refused:
        calibrate.calibrate()
    assert refused.value.exit_code == 69


class Beside(GpuProbes):
    """A GPU that is not there, of which 1000 MiB are free, and 600 while a second process runs."""

    def __init__(self, program: str) -> None:
        self.program, self.free = program, [1000.0, 600.0]

    def release(self) -> None: ...

    def _free_mib(self) -> float:
        return self.free.pop(0)

    def _second(self) -> list[str]:
        return [sys.executable, "-c", self.program]


def test_context_is_what_a_second_process_takes_beyond_its_tensors() -> None:
    waits = "import sys; print(100.5, flush=True); sys.stdin.read()"
    assert Beside(waits).context_mib() == 299.5
    assert Beside(waits.replace("100.5", "500")).context_mib() == 0  # another program gave memory back in between
    for dies in ("", "raise SystemExit(3)", "print(100.5); raise SystemExit(3)"):
        with pytest.raises(NotMeasured, match="second process"):
            Beside(dies).context_mib()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    gpu = GpuProbes(0)
    assert 50 < gpu.context_mib() < 2000
    rates = [gpu.tflops(product) for product in ("fp32", "half")]
    assert gpu.bandwidth_gbs() > 20 and None not in rates and rates[0] < rates[1]  # type: ignore[operator]
