"""How long a training step, an evaluation pass and an epoch take on a card, from counted work and the card's rates.

What it is based on: the official code's steps on one NVIDIA H200 (torch 2.11, 2026-11-20): 10 times of all kernels of a step,
what some operators took of them, and 18 times of eager steps. None of the steps predicted here has been timed on a GPU.
`benchmarks/duration_check.py` derives the figures below from those and from the counted work of the plain forms, which are no
exact stand-in for the official code, and holds predictions against them, also with the model in question left out.

    kernels   for each aten name: the larger of bytes over bandwidth and operations over the rate, over the share of it that
              kernels of its kind reach, and `KERNEL_US` for each call
    host      calls x microseconds
    step      neither hides the other wholly: (kernels^4 + host^4)^(1/4)

Rates: the data sheet's (`planner.card.cards`), or measured ones from the calibration row, where it has them. Convolutions may use
TF32, matrix products in fp32 not: PyTorch's defaults. Under autocast both use half precision's tensor cores where there are any.
CUDA graphs and compiled steps are not modelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from engine.config import DEBUG_CLIPS, RunConfig
from engine.step import Precision
from planner.card.budget import Interval
from planner.card.calibration import Calibration
from planner.card.cards import Card
from planner.levers import Costs, Settings
from planner.steps.tracing import Phase
from planner.steps.work import StepWork, Tally
from shared_data.protocols import BENCHMARKS, PROTOCOLS, SPLIT_RULES

Kind = Literal["convolution", "matrix", "batch_norm", "batch_norm_bf16", "other"]
"""BatchNorm of training steps in bf16 is apart: it is not cuDNN's and takes longer than in fp32. One cell tells of its share."""


@dataclass(frozen=True)
class Figures:
    """What was learnt from the official code's steps.

    reached      share of the data sheet's rates that kernels of a kind reach: medians
    kernels_off  least and most of measured over predicted kernel time
    host_us      microseconds of the host for a call: step over calls of the plain form at 16 clips; least, median and most
    host_off     the same over kernels of the official code, least and most as multiples of its median: how far networks lie
                 apart on one machine
    """

    reached: Mapping[Kind, float]
    kernels_off: tuple[float, float]
    host_us: Interval
    host_off: tuple[float, float]


FIGURES = Figures(
    {"convolution": 0.21, "matrix": 0.46, "batch_norm": 0.12, "batch_norm_bf16": 0.035, "other": 0.39},
    (0.55, 1.5), Interval(12.8, 16.5, 54.7), (0.61, 1.2),
)  # fmt: skip
"""Of all five models: 10 kernel times, 9 steps of 16 clips. As `benchmarks/duration_check.py` prints them."""
KERNEL_US = 2.9
"""Of each kernel, however small: CTR-GCN's take 76 ms at 64 clips and 25 at 16, a line through which leaves 8 ms for 2,790."""
OVERLAP = 4
"""The exponent above: within 6 % of 8 of the 9 steps of which kernels and host are known, 16 % too long for the ninth."""
EVIDENCE = "H200"
"""The card that these figures are of."""
ANOTHER_CARD = 1.5
"""Factor by which the kernels of another card are held to be faster or slower still, unless its bandwidth was measured. A
judgement: nothing is known of how these networks run on it."""
COPIES = 0.9
"""Share of the data sheet's bandwidth at which an H200 copies (4.3 of 4.8 TB/s): what a measured bandwidth stands for."""
SLOWEST_LAPTOP = 0.57
"""Lowest over highest of the clocks that NVIDIA names for one laptop chip (RTX 4070: 1230 and 2175 MHz)."""
LOADER_CLIPS_PER_S = 31_000.0
"""Of one thread with the slowest of the training readers on one EPYC core (README, SkateFormer with all augmentations)."""

_MATRIX = frozenset({"mm", "bmm", "addmm", "baddbmm", "addbmm"})
_TERA, _GIGA, _MICRO = 1e12, 1e9, 1e-6


def kind_of(name: str, precision: Precision, phase: Phase = "train") -> Kind:
    """The kind of the aten call `name`.

    Attention in one kernel counts as matrix products, and BatchNorm that only applies its running statistics as any other call.
    """
    if "convolution" in name:
        return "convolution"
    if name in _MATRIX or name.startswith("_scaled_dot_product"):
        return "matrix"
    if "batch_norm" in name and phase == "train":
        return "batch_norm_bf16" if precision == "bf16" else "batch_norm"
    return "other"


@dataclass(frozen=True)
class Rates:
    """Bytes and operations per second."""

    bandwidth: float
    fp32: float
    convolution: float
    matrix: float

    def roofline(self, tally: Tally, kind: Kind) -> float:
        """Seconds that the calls of `tally` take at the least, by these rates."""
        rate = self.convolution if kind == "convolution" else self.matrix
        return max(tally.bytes / self.bandwidth, tally.matrix_flops / rate + tally.other_flops / self.fp32)


def rates_of(card: Card, calibration: Calibration, precision: Precision) -> Rates:
    """Those of `card`, or the measured ones of `calibration`, for a step in `precision`."""
    fp32 = calibration.fp32_tflops or card.fp32_tflops
    tf32 = (calibration.tf32_tflops or card.tf32_tflops) if card.tf32_tflops else None
    half = (calibration.half_tflops or card.half_tflops) if _has(card, precision) else None
    copied = calibration.bandwidth_gbs
    bandwidth = copied / COPIES if copied else card.bandwidth_gbs
    in_fp32 = precision == "fp32"
    convolution, matrix = (tf32 or fp32, fp32) if in_fp32 else (half or fp32, half or fp32)
    return Rates(bandwidth * _GIGA, fp32 * _TERA, convolution * _TERA, matrix * _TERA)


def _has(card: Card, precision: Precision) -> bool:
    """Whether the card has tensor cores for it."""
    return card.half_tflops is not None and (precision == "fp16" or (precision == "bf16" and card.bf16))


def remark(card: Card, precision: Precision) -> str:
    """What is to be said about this precision on this card, "" if nothing."""
    if precision == "fp32" or _has(card, precision):
        return ""
    if precision == "bf16":
        other = "; it has tensor cores for fp16" if card.half_tflops else ""
        return f"{card.name} has no bf16: PyTorch emulates it, slowly{other}. It may take much longer than said"
    return f"{card.name} has no tensor cores: {precision} saves memory and bytes, not arithmetic"


def kernel_time(work: StepWork, rates: Rates, precision: Precision, phase: Phase = "train", figures: Figures = FIGURES) -> float:
    """Seconds of all kernels, most likely value."""
    total = work.launches * KERNEL_US * _MICRO
    for name, tally in work.by_call.items():
        kind = kind_of(name, precision, phase)
        total += rates.roofline(tally, kind) / figures.reached[kind]
    return total


def together(kernels: float, host: float) -> float:
    """Seconds of a step whose kernels and whose host take so long."""
    return float((kernels**OVERLAP + host**OVERLAP) ** (1 / OVERLAP))


def step_time(
    work: StepWork, card: Card, calibration: Calibration, precision: Precision, *, phase: Phase = "train",
    figures: Figures = FIGURES,
) -> Interval:  # fmt: skip
    """Seconds of an eager training step, or of a batch of an evaluation pass, of counted `work` on `card`.

    Narrower where `calibration` has the bandwidth of this card, and the host's time for a call.
    """
    rates = rates_of(card, calibration, precision)
    kernels = kernel_time(work, rates, precision, phase, figures)
    wider = 1.0 if card.name == EVIDENCE or calibration.bandwidth_gbs else ANOTHER_CARD
    slow = rates
    if card.laptop and not calibration.bandwidth_gbs:
        slow = replace(rates, **{name: rate * SLOWEST_LAPTOP for name, rate in asdict(rates).items() if name != "bandwidth"})
    slowest = kernel_time(work, slow, precision, phase, figures)
    host = figures.host_us
    if calibration.launch_us:
        host = Interval(*(calibration.launch_us * factor for factor in (figures.host_off[0], 1.0, figures.host_off[1])))
    calls = work.launches * _MICRO
    return Interval(
        together(kernels * figures.kernels_off[0] / wider, calls * host.low),
        together(kernels, calls * host.point),
        together(slowest * figures.kernels_off[1] * wider, calls * host.high),
    )


def clips_of(dataset: str, split: str) -> tuple[int, int] | None:
    """Training and test clips of a recipe's protocol; None where it is not known what data will come, or its number of clips."""
    benchmark = BENCHMARKS.get(dataset)
    if benchmark is None:
        return None
    found = [protocol for protocol in PROTOCOLS if protocol.classes == benchmark.classes]
    if len(found) > 1:
        chosen = {rule.protocol for rule in SPLIT_RULES if (rule.name, rule.classes) == (split, benchmark.classes)}
        found = [protocol for protocol in found if protocol.name in chosen]
    return (found[0].train, found[0].test) if len(found) == 1 else None


@dataclass(frozen=True)
class Duration:
    """Predicted times of one run on one card, in seconds.

    step, evaluation_batch   one training step, and one batch of an evaluation pass
    batch_size               clips of the step
    steps, evaluations       of them in an epoch, None where the number of clips is not known
    epochs                   of the run
    remarks                  what else is to be said
    unit                     what an epoch is called: that of a zero-shot system is a cycle, evaluated by a classifier of its own
    """

    step: Interval
    evaluation_batch: Interval
    batch_size: int
    steps: int | None
    evaluations: int | None
    epochs: int
    remarks: tuple[str, ...] = ()
    unit: Literal["epoch", "cycle"] = "epoch"

    @property
    def epoch(self) -> Interval | None:
        """All steps and one evaluation of all test clips; None where the number of clips is not known."""
        if self.steps is None or self.evaluations is None:
            return None
        train, test = _times(self.step, self.steps), _times(self.evaluation_batch, self.evaluations)
        return Interval(train.low + test.low, train.point + test.point, train.high + test.high)

    @property
    def run(self) -> Interval | None:
        """All epochs, each with an evaluation."""
        return _times(self.epoch, self.epochs) if self.epoch else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: intervals as [low, point, high]."""

        def three(interval: Interval | None) -> list[float] | None:
            return None if interval is None else [float(f"{value:.4g}") for value in asdict(interval).values()]

        return {
            "step_s": three(self.step), "evaluation_batch_s": three(self.evaluation_batch), "steps_per_epoch": self.steps,
            "evaluation_batches": self.evaluations, "epoch_s": three(self.epoch), "epochs": self.epochs, "run_s": three(self.run),
            "measured": False, "remarks": list(self.remarks),
        }  # fmt: skip

    def facts(self) -> Iterator[tuple[str, str]]:
        """Name and sentence of each figure, for a person."""
        clips = self.batch_size / self.step.point
        yield "step", f"{_told(self.step)}; {clips:,.0f} clips/s. Predicted: no such step has been timed on a GPU"
        if self.unit == "cycle":
            yield "classifier", f"{_told(self.evaluation_batch)} after each cycle, with its look at the clips"
        else:
            yield "evaluation", f"{_told(self.evaluation_batch)} a batch"
        if self.epoch is None or self.run is None:
            yield self.unit, "depends on how many clips your data has"
        elif self.unit == "cycle":
            yield self.unit, f"{_told(self.epoch)}: {self.steps:,} steps and the classifier"
            yield "run", f"{_told(self.run)}: {self.epochs} cycles, half of them on the validation split, of one seed"
        else:
            yield self.unit, f"{_told(self.epoch)}: {self.steps:,} steps and {self.evaluations:,} batches of evaluation"
            yield "run", f"{_told(self.run)}: {self.epochs} epochs, each evaluated"
        for text in self.remarks:
            yield "note", text


def duration_of(costs: Costs, config: RunConfig, settings: Settings, card: Card, calibration: Calibration) -> Duration:
    """The times of a run of `config` under `settings`, on `card`.

    Batches are made beside the step by threads of the loader (beforehand with num_worker 0): the slower of the two counts.
    """
    step = step_time(costs.work(settings, "train"), card, calibration, settings.precision)
    evaluation = step_time(costs.work(settings, "eval"), card, calibration, settings.precision, phase="eval")
    loading = settings.batch_size / (LOADER_CLIPS_PER_S * max(config.num_worker, 1))
    step = Interval(*(value + loading if config.num_worker == 0 else max(value, loading) for value in asdict(step).values()))
    steps, evaluations = None, None
    if counts := clips_of(config.dataset, config.split):
        most = min(config.max_clips or max(counts), DEBUG_CLIPS if config.debug else max(counts))
        train, test = (min(count, most) for count in counts)
        steps = train * config.repeat // settings.batch_size
        evaluations = -(-test // settings.test_batch_size)
    told = (remark(card, settings.precision), card.launch_note, LAPTOP if card.laptop else "")
    remarks = tuple(filter(None, (*told, SEQUENCES if config.stage == "segment" else "")))
    return Duration(step, evaluation, settings.batch_size, steps, evaluations, config.num_epoch, remarks)


SEQUENCES = "a batch of evaluation is the longest sequence, and whole sequences of a step are reckoned as long: yours take less"
LAPTOP = "rates of a laptop chip depend on the power that its maker allows: the long end reckons with the lowest clock"


def _times(interval: Interval, n: int) -> Interval:
    return Interval(interval.low * n, interval.point * n, interval.high * n)


def _told(interval: Interval) -> str:
    return f"{told_seconds(interval.point)} ({told_seconds(interval.low)} to {told_seconds(interval.high)})"


def told_seconds(seconds: float) -> str:
    """Seconds for a person, to two digits: "38 ms", "4.2 s", "12 min", "5.4 h", "21 days"."""
    for unit, size, least in (("days", 86400.0, 172800.0), ("h", 3600.0, 5400.0), ("min", 60.0, 90.0), ("s", 1.0, 1.0)):
        if seconds >= least:
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{_two_digits(seconds * 1000)} ms"


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
