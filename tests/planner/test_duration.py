"""Predicted times: what must grow with what, whose rates count, and what an epoch is made of."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks are not installed with the packages

from engine.config import RunConfig
from engine.step import Precision
from planner.card.budget import Interval
from planner.card.calibration import Calibration, pessimistic
from planner.card.cards import Card, find
from planner.duration import (
    ANOTHER_CARD,
    COPIES,
    FIGURES,
    KERNEL_US,
    Duration,
    clips_of,
    duration_of,
    kernel_time,
    kind_of,
    rates_of,
    remark,
    step_time,
    together,
    told_seconds,
)
from planner.levers import Settings
from planner.steps.tracing import Phase
from planner.steps.work import StepWork, Tally

UNKNOWN = pessimistic()
CARD = find("RTX 3070")
GIGA = 10**9


def work(clips: int, calls: int = 100) -> StepWork:
    """Some of every kind."""
    return StepWork(
        {
            "convolution": Tally(calls, clips * GIGA // 10, clips * 10 * GIGA),
            "mm": Tally(calls, clips * GIGA // 10, clips * 5 * GIGA),
            "native_batch_norm": Tally(calls, clips * GIGA // 10, 0, clips * GIGA // 100),
            "add": Tally(calls, clips * GIGA // 10, 0, clips * GIGA // 100),
        }
    )


def test_one_kernel_by_hand() -> None:
    """4 GB added on a card of 448 GB/s, at the share that such kernels reach; the host is nothing beside it."""
    adding = StepWork({"add": Tally(1, 4 * GIGA, 0, GIGA)})
    wanted = 4 / 448 / FIGURES.reached["other"] + KERNEL_US * 1e-6
    assert kernel_time(adding, rates_of(CARD, UNKNOWN, "fp32"), "fp32") == pytest.approx(wanted)
    time = step_time(adding, CARD, UNKNOWN, "fp32")
    assert time.point == pytest.approx(wanted) and time.low == pytest.approx(wanted * FIGURES.kernels_off[0] / ANOTHER_CARD)
    assert time.high == pytest.approx(wanted * FIGURES.kernels_off[1] * ANOTHER_CARD)


def test_work_that_a_card_is_short_of_arithmetic_for() -> None:
    product = StepWork({"mm": Tally(1, 1000, 203 * GIGA)})
    assert kernel_time(product, rates_of(CARD, UNKNOWN, "fp32"), "fp32") == pytest.approx(0.01 / 0.46, rel=1e-3)


def test_many_small_calls_take_the_hosts_time() -> None:
    small = StepWork({"add": Tally(10_000, 10_000)})
    time = step_time(small, find("H200"), UNKNOWN, "fp32")
    assert 0.1 < time.low < 0.165 < time.point < 0.17 and 0.5 < time.high < 0.6


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["GTX 1060 6GB", "T4", "RTX 3070", "RTX 4060 Laptop", "A100 40GB", "H200"])
def test_time_grows_with_clips_and_calls_and_falls_with_bandwidth(name: str, precision: Precision) -> None:
    card = find(name)
    before = step_time(work(8), card, UNKNOWN, precision)
    assert 0 < before.low < before.point < before.high
    faster = replace(card, bandwidth_gbs=2 * card.bandwidth_gbs)
    for longer, shorter in (
        (step_time(work(16), card, UNKNOWN, precision), before),
        (step_time(work(8, calls=10_000), card, UNKNOWN, precision), before),
        (before, step_time(work(8), faster, UNKNOWN, precision)),
    ):
        assert longer.low > shorter.low and longer.point > shorter.point and longer.high > shorter.high


def test_half_precision_is_faster_only_where_the_card_has_it() -> None:
    def times(name: str) -> dict[str, float]:
        kinds: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
        convolution = StepWork({"convolution": Tally(1, 1000, 10**13)})
        return {kind: step_time(convolution, find(name), UNKNOWN, kind).point for kind in kinds}

    pascal, turing, ampere = times("GTX 1080"), times("RTX 2080"), times("RTX 3080 10GB")
    assert pascal["fp16"] == pascal["bf16"] == pascal["fp32"]
    assert turing["fp16"] == pytest.approx(turing["fp32"] / 4, rel=0.01) and turing["bf16"] == turing["fp32"]
    assert ampere["fp16"] == ampere["bf16"] == pytest.approx(ampere["fp32"] / 2, rel=0.01)
    assert "emulates" in remark(find("RTX 2080"), "bf16") and "fp16" in remark(find("RTX 2080"), "bf16")
    assert "no tensor cores" in remark(find("GTX 1080"), "fp16") and "tensor cores for fp16" not in remark(find("1080"), "bf16")
    assert remark(find("RTX 2080"), "fp16") == remark(find("RTX 3070"), "bf16") == remark(find("GTX 1080"), "fp32") == ""


def test_convolutions_may_use_tf32_and_matrix_products_not() -> None:
    rates = rates_of(find("A100 40GB"), UNKNOWN, "fp32")
    assert rates.convolution == 156e12 and rates.matrix == rates.fp32 == 19.5e12
    old = rates_of(find("T4"), UNKNOWN, "fp32")
    assert old.convolution == old.matrix == 8.1e12
    half = rates_of(find("A100 40GB"), UNKNOWN, "bf16")
    assert half.convolution == half.matrix == 312e12


def test_kinds_of_calls() -> None:
    assert kind_of("convolution_backward", "fp32") == "convolution" and kind_of("addmm", "bf16") == "matrix"
    assert kind_of("_scaled_dot_product_efficient_attention_backward", "fp32") == "matrix" and kind_of("add", "fp16") == "other"
    assert kind_of("native_batch_norm_backward", "fp32") == "batch_norm" == kind_of("native_batch_norm", "fp16")
    assert kind_of("native_batch_norm", "bf16") == "batch_norm_bf16" and kind_of("native_batch_norm", "bf16", "eval") == "other"


def measured(**rates: float) -> Calibration:
    return replace(UNKNOWN, gpu="NVIDIA GeForce RTX 3070", gib=8.0, torch="2.3", cuda="12.1", cells=9, **rates)


def test_measured_rates_beat_the_data_sheet_and_narrow_the_interval() -> None:
    sheet = step_time(work(8), CARD, UNKNOWN, "fp32")
    same = measured(bandwidth_gbs=COPIES * 448)
    narrower = step_time(work(8), CARD, same, "fp32")
    assert narrower.point == pytest.approx(sheet.point)
    assert sheet.low < narrower.low < narrower.high < sheet.high
    assert step_time(work(8), CARD, measured(bandwidth_gbs=200.0), "fp32").point > 1.5 * sheet.point
    rates = rates_of(CARD, measured(fp32_tflops=11.0, tf32_tflops=12.0, half_tflops=13.0), "fp32")
    assert (rates.fp32, rates.matrix, rates.convolution) == (11e12, 11e12, 12e12)
    assert rates_of(CARD, measured(half_tflops=13.0), "bf16").matrix == 13e12
    assert rates_of(find("T4"), measured(tf32_tflops=9.0), "fp32").convolution == 8.1e12  # which has no TF32
    assert rates_of(find("T4"), measured(half_tflops=50.0), "bf16").matrix == 8.1e12


def test_a_measured_time_of_calls_counts() -> None:
    many = StepWork({"add": Tally(10_000, 10_000)})
    time = step_time(many, CARD, measured(launch_us=40.0), "fp32")
    assert time.low == pytest.approx(0.4 * FIGURES.host_off[0], rel=0.01) and time.point == pytest.approx(0.4, rel=0.01)
    assert time.high == pytest.approx(0.4 * FIGURES.host_off[1], rel=0.01)


def test_a_laptop_may_be_slower_and_the_card_of_the_evidence_is_known_best() -> None:
    def spread(card: Card) -> float:
        time = step_time(StepWork({"convolution": Tally(1, 1000, 10**13)}), card, UNKNOWN, "fp32")
        return time.high / time.low

    desktop = replace(find("RTX 4060 Laptop"), name="RTX 4060 desktop")
    assert spread(find("RTX 4060 Laptop")) > 1.5 * spread(desktop) and spread(desktop) > 2 * spread(find("H200"))


def test_kernels_and_host_overlap() -> None:
    assert together(1.0, 0.0) == 1.0 and 1.0 < together(1.0, 1.0) < 2.0 and together(2.0, 1.0) < 2.1


class Counted:
    """Costs whose work is known."""

    def work(self, settings: Settings, phase: Phase) -> StepWork:
        return work(settings.batch_size) if phase == "train" else work(settings.test_batch_size, calls=30)


def duration(card: Card = CARD, precision: Precision = "fp32", **changes: object) -> Duration:
    config = replace(RunConfig(dataset="ntu60", split="xsub", batch_size=64, test_batch_size=100, num_epoch=65), **changes)  # type: ignore[arg-type]
    return duration_of(Counted(), config, Settings(64, 100, precision=precision), card, UNKNOWN)


def test_an_epoch_is_its_steps_and_one_evaluation() -> None:
    found = duration()
    assert (found.steps, found.evaluations) == (40_091 // 64, 165)  # the last training batch is left out, the last test batch not
    assert found.epoch and found.run
    for end in ("low", "point", "high"):
        step, batch = getattr(found.step, end), getattr(found.evaluation_batch, end)
        assert getattr(found.epoch, end) == pytest.approx(626 * step + 165 * batch)
        assert getattr(found.run, end) == pytest.approx(65 * getattr(found.epoch, end))
    assert duration(repeat=5).steps == 5 * 40_091 // 64 and duration(max_clips=200).steps == 3
    assert (duration(debug=True).steps, duration(debug=True).evaluations) == (1, 1)


@pytest.mark.parametrize("changes", [{"dataset": "auto"}, {"dataset": "kinetics"}, {"dataset": "ntu60_inter"}, {"split": "mine"}])
def test_an_epoch_of_unknown_data_is_not_made_up(changes: dict[str, str]) -> None:
    found = duration(**changes)
    assert found.epoch is found.run is found.steps is None and found.step == duration().step
    assert dict(found.facts())["epoch"] == "depends on how many clips your data has"
    assert found.as_dict()["epoch_s"] is None


def test_clips_of_the_published_protocols() -> None:
    assert clips_of("ntu60", "xview") == (37_646, 18_932) and clips_of("ntu120", "xset") == (54_468, 59_477)
    assert clips_of("nw_ucla", "view3") == (1_020, 464) and clips_of("ntu60", "") is None and clips_of("nobody", "xsub") is None


def test_a_slow_loader_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = duration()
    monkeypatch.setattr("planner.duration.LOADER_CLIPS_PER_S", 8.0)
    assert duration().step == Interval(8.0, 8.0, 8.0) and duration(num_worker=4).step.low == max(2.0, usual.step.low)
    assert duration(num_worker=0).step.point == pytest.approx(usual.step.point + 8)


def test_what_is_told() -> None:
    found = duration(find("RTX 2080"), "bf16")
    told = dict(found.facts())
    assert "clips/s" in told["step"] and "no such step has been timed" in told["step"]
    assert "emulates" in told["note"] and "65 epochs" in told["run"] and "626 steps" in told["epoch"]
    as_dict = found.as_dict()
    assert as_dict["measured"] is False and as_dict["steps_per_epoch"] == 626 and len(as_dict["step_s"]) == 3
    assert as_dict["step_s"] == sorted(as_dict["step_s"])
    assert "maker allows" in dict(duration(find("4060 laptop")).facts())["note"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0042, "4.2 ms"), (0.0381, "38 ms"), (4.24, "4.2 s"), (75, "75 s"), (720, "12 min"), (19_400, "5.4 h"),
     (1_814_400, "21 days"), (0.99996, "1000 ms"), (9.97, "10 s")],
)  # fmt: skip
def test_seconds_for_a_person(seconds: float, text: str) -> None:
    assert told_seconds(seconds) == text


CHECKED = Path(__file__).resolve().parents[2] / "benchmarks/results/duration_check.csv"


def test_the_published_check_is_of_these_figures() -> None:
    lines = CHECKED.read_text().splitlines()
    head = "\n".join(line for line in lines if line.startswith("#"))
    for kind, share in FIGURES.reached.items():
        assert (
            f"share reached, {kind}: " in head and f"median {share}" in head.split(f"share reached, {kind}: ")[1].split("\n")[0]
        )
    assert f"kernels, measured over predicted: {FIGURES.kernels_off[0]} to {FIGURES.kernels_off[1]}" in head
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    for row in rows:
        for prefix in ("", "left_out_"):
            inside = float(row[f"{prefix}low_ms"]) <= float(row["measured_ms"]) <= float(row[f"{prefix}high_ms"])
            assert row[f"{prefix}inside"] == str(inside)
    assert len(rows) == 18 and f"all models: {sum(row['inside'] == 'True' for row in rows)} of 18" in head
    assert f"left out: {sum(row['left_out_inside'] == 'True' for row in rows)} of 18" in head


def test_figures_follow_from_evidence() -> None:
    """Made-up work of half a millisecond of bandwidth for each name: the share reached is that over the official ms."""
    from benchmarks import duration_check as check

    card = check.CARD
    names = (
        "convolution",
        "convolution_backward",
        "bmm",
        "mm",
        "addmm",
        "native_batch_norm",
        "native_batch_norm_backward",
        "add",
    )
    made = StepWork({name: Tally(1, round(0.5 * card.bandwidth_gbs * 1e6)) for name in names})  # half a ms each
    cells = [(model, precision, batch) for model, precision, mode, batch in check.OFFICIAL if mode == "eager"]
    evidence = check.Evidence(MappingProxyType(dict.fromkeys(cells, made)))  # type: ignore[arg-type]
    share = evidence.reached()
    kind, _, operators, ms = check.OPERATORS[0]
    assert share[kind][0] == pytest.approx(len(operators) * 0.5 / (ms - len(operators) * KERNEL_US / 1000))
    assert len(share["matrix"]) == 4 and len(evidence.without("skateformer").reached()["matrix"]) == 3
    derived = evidence.derived()
    assert derived.host_us.low < derived.host_us.point < derived.host_us.high
    assert derived.host_off == FIGURES.host_off  # of official kernels alone, whatever is counted
    assert check.differing(derived, derived) == [] and len(check.differing(FIGURES, derived)) == 3
