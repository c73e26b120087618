"""What `planner.duration` knows of time, and how far it is right: the official code's steps on an H200 against counted work.

    python benchmarks/duration_check.py --out benchmarks/results/duration_check.csv     # no GPU; two minutes

No step of ours has been timed on a GPU. The official code's have; what they do is counted in the plain forms (`plain.py`), which
compute the same and are no exact stand-in: FreqMixFormer's makes 47,939 calls where a profiler saw 37,695 kernels, MS-G3D's 912
and 2,041. From the two follow the figures of `planner.duration` (`derived`), printed here. A row for each official step says
whether the predicted interval holds the measured time; "left out" is the same by figures derived from the other four models,
save `KERNEL_US`, which is CTR-GCN's. Exit 1 if the figures in `planner.duration` are not those derived.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.step import arguments
from benchmarks.step_counts import counted
from benchmarks.step_table import OFFICIAL
from benchmarks.step_task import EAGER, task
from engine.environment import describe, machine_line
from engine.launch import guarded
from engine.step import Precision
from planner.card import cards
from planner.card.budget import Interval
from planner.card.calibration import pessimistic
from planner.duration import FIGURES, KERNEL_US, Figures, Kind, kernel_time, kind_of, rates_of, step_time, together
from planner.steps.work import StepWork

Cell = tuple[str, Precision, int]
"""Model, precision, clips of a step."""
MS = 1000.0
CARD = cards.find("H200")
SMALL = 16
"""Clips at which the official steps wait for the host: their kernels take 25 of 70 ms (CTR-GCN)."""
FRAMES = "64"

KERNELS: dict[Cell, tuple[float, int]] = {
    ("ctrgcn", "fp32", 64): (76, 2744),
    ("ctrgcn", "fp32", 16): (25, 2837),
    ("ctrgcn", "bf16", 64): (75, 3924),
    ("msg3d", "fp32", 32): (69, 2041),
    ("msg3d", "bf16", 32): (51, 2931),
    ("skateformer", "fp32", 128): (189, 2931),
    ("skateformer", "bf16", 128): (140, 3925),
    ("hypergcn", "fp32", 64): (109, 3682),
    ("hypergcn", "bf16", 64): (74, 5845),
    ("freqmixformer", "fp32", 128): (766, 37695),
}
"""ms of all kernels of an official step, and their number. Source: a profile on the H200 of `step_table.OFFICIAL`, the same day.

Hyper-GCN's are those of the step captured in a CUDA graph: under the profiler they took up to 171 and 82 ms.
"""
FORWARD, BACKWARD = "convolution", "convolution_backward"
BATCH_NORM = ("native_batch_norm", "native_batch_norm_backward")
OPERATORS: tuple[tuple[Kind, Cell, tuple[str, ...], float], ...] = (
    ("convolution", ("ctrgcn", "fp32", 64), (FORWARD, BACKWARD), 15.4 + 6.0),
    ("convolution", ("ctrgcn", "bf16", 64), (BACKWARD,), 9.2),
    ("convolution", ("msg3d", "fp32", 32), (FORWARD, BACKWARD), 21.6 + 4.7),
    ("convolution", ("skateformer", "fp32", 128), (BACKWARD,), 21.9),
    ("convolution", ("hypergcn", "fp32", 64), (BACKWARD,), 105 * 109 / 171),  # the share that it had under the profiler
    ("convolution", ("freqmixformer", "fp32", 128), (BACKWARD,), 25),
    ("matrix", ("ctrgcn", "fp32", 64), ("bmm",), 7.5),
    ("matrix", ("ctrgcn", "bf16", 64), ("bmm",), 5.9),
    ("matrix", ("msg3d", "fp32", 32), ("bmm",), 10.8),
    ("matrix", ("skateformer", "fp32", 128), ("mm", "addmm", "bmm"), 35 + 17.5 + 27.7),
    ("batch_norm", ("ctrgcn", "fp32", 64), BATCH_NORM, 12.9 + 5.7),
    ("batch_norm", ("msg3d", "fp32", 32), BATCH_NORM, 9.4 + 4.3),
    ("batch_norm", ("hypergcn", "fp32", 64), BATCH_NORM[1:], 14.4),
    ("batch_norm", ("freqmixformer", "fp32", 128), BATCH_NORM[1:], 41),
    ("batch_norm_bf16", ("ctrgcn", "bf16", 64), BATCH_NORM, 21.1 + 9.2),
)
"""ms that operators of one kind took of an official step, from the same profile, by the names that the plain form has for them.

Only kinds whose work in the plain form is that of the official code: SkateFormer's and Hyper-GCN's additions and copies are not.
"""
REST: tuple[tuple[Cell, float], ...] = (
    (("ctrgcn", "fp32", 64), 15.4 + 6.0 + 12.9 + 5.7 + 7.5),
    (("msg3d", "fp32", 32), 21.6 + 4.7 + 9.4 + 4.3 + 10.8),
    (("freqmixformer", "fp32", 128), 25.0 + 41.0),
)
"""Steps of which all but the kind "other", or nearly all, is known, and the ms of that: what is left of `KERNELS` is "other"."""


@dataclass(frozen=True)
class Evidence:
    """The counted work of the plain forms for each official step that has one."""

    work: Mapping[Cell, StepWork]

    def measured(self) -> dict[Cell, float]:
        """ms of the official eager steps."""
        return {cell: OFFICIAL[cell[0], cell[1], "eager", cell[2]][0] for cell in self.work}

    def without(self, model: str) -> Evidence:
        return Evidence({cell: work for cell, work in self.work.items() if cell[0] != model})

    def reached(self) -> dict[Kind, list[float]]:
        """Share of the data sheet's rates that kernels of each kind reached, for each cell that tells of it."""
        shares: dict[Kind, list[float]] = {kind: [] for kind in get_args(Kind)}
        for kind, cell, names, ms in OPERATORS:
            if cell in self.work:
                shares[kind].append(self._share(cell, names, ms))
        for cell, others in REST:
            if cell in self.work:
                names = tuple(name for name in self.work[cell].by_call if kind_of(name, cell[1]) == "other")
                shares["other"].append(self._share(cell, names, KERNELS[cell][0] - others))
        return shares

    def _share(self, cell: Cell, names: Iterable[str], ms: float) -> float:
        rates, calls, seconds = rates_of(CARD, pessimistic(), cell[1]), 0, 0.0
        for name in names:
            tally = self.work[cell].by_call[name]
            calls += tally.calls
            seconds += rates.roofline(tally, kind_of(name, cell[1]))
        return seconds / (ms / MS - calls * KERNEL_US * 1e-6)

    def kernels(self, cell: Cell, figures: Figures) -> float:
        """Predicted ms of all kernels."""
        return MS * kernel_time(self.work[cell], rates_of(CARD, pessimistic(), cell[1]), cell[1], figures=figures)

    def derived(self) -> Figures:
        """The figures of `planner.duration`, from these cells alone."""
        shares = self.reached()
        if not shares["batch_norm_bf16"]:  # CTR-GCN left out
            shares["batch_norm_bf16"] = shares["batch_norm"]
        figures = Figures({kind: _rounded(statistics.median(known)) for kind, known in shares.items()}, (1, 1),
                          Interval(0, 0, 0), (1, 1))  # fmt: skip
        off = [KERNELS[cell][0] / self.kernels(cell, figures) for cell in KERNELS if cell in self.work]
        small = {cell: ms for cell, ms in self.measured().items() if cell[2] == SMALL}
        by_call = [ms * 1000 / self.work[cell].launches for cell, ms in small.items()]
        by_kernel = [ms * 1000 / _kernels_of(cell) for cell, ms in small.items()]
        typical = statistics.median(by_kernel)
        return Figures(
            figures.reached, (_rounded(min(off)), _rounded(max(off))),
            Interval(*(_rounded(value, 3) for value in (min(by_call), statistics.median(by_call), max(by_call)))),
            (_rounded(min(by_kernel) / typical), _rounded(max(by_kernel) / typical)),
        )  # fmt: skip


def _kernels_of(cell: Cell) -> int:
    """Kernels of that model's official step in that precision, which hardly change with the clips."""
    return next(count for (model, precision, _), (_, count) in KERNELS.items() if (model, precision) == cell[:2])


def _rounded(value: float, digits: int = 2) -> float:
    return float(f"{value:.{digits}g}") if value < 1 else round(value, digits - 1 if value < 10 else 1)


def count() -> Evidence:
    """Count the plain form's step for each official eager step; no GPU, two minutes."""
    work: dict[Cell, StepWork] = {}
    cells = [(model, precision, batch) for model, precision, mode, batch in OFFICIAL if mode == "eager"]
    for model, precision in dict.fromkeys(cell[:2] for cell in cells):
        sizes = sorted(batch for *other, batch in cells if tuple(other) == (model, precision))
        words = ["--model", model, "--device", "meta", "--frames", FRAMES, "--batch", str(sizes[0]), "--precision", precision]
        asked = task(arguments().parse_args(words))[0].without_dropout().having(**EAGER, forward_batch_size=None)
        for batch, step in zip(sizes, counted(asked, *sizes, plain=True), strict=True):
            work[model, precision, batch] = step.work.counted  # type: ignore[index]
        print(f"counted {model} {precision} {sizes}", file=sys.stderr, flush=True)
    return Evidence(work)


COLUMNS = (
    "model", "precision", "batch", "calls_plain", "gb_plain", "matrix_gflop_plain", "kernels_predicted_ms", "kernels_measured_ms",
    "low_ms", "point_ms", "high_ms", "measured_ms", "measured_over_point", "inside", "left_out_low_ms", "left_out_point_ms",
    "left_out_high_ms", "left_out_over_point", "left_out_inside",
)  # fmt: skip


def rows(evidence: Evidence) -> list[dict[str, Any]]:
    """One for each official eager step: what is counted, predicted and measured."""
    figures, found = evidence.derived(), []
    for cell, measured in evidence.measured().items():
        work = evidence.work[cell]
        row: dict[str, Any] = {
            "model": cell[0], "precision": cell[1], "batch": cell[2], "calls_plain": work.launches,
            "gb_plain": round(work.bytes / 1e9, 1), "matrix_gflop_plain": round(work.matrix_flops / 1e9),
            "kernels_predicted_ms": round(evidence.kernels(cell, figures), 1),
            "kernels_measured_ms": KERNELS.get(cell, ("", 0))[0], "measured_ms": measured,
        }  # fmt: skip
        for prefix, known in (("", figures), ("left_out_", evidence.without(cell[0]).derived())):
            time = step_time(work, CARD, pessimistic(), cell[1], figures=known)
            low, point, high = (MS * value for value in (time.low, time.point, time.high))
            row |= {f"{prefix}{name}_ms": round(v, 1) for name, v in (("low", low), ("point", point), ("high", high))}
            row[f"{prefix}over_point" if prefix else "measured_over_point"] = round(measured / point, 2)
            row[f"{prefix}inside"] = low <= measured <= high
        found.append(row)
    return found


def overlap(evidence: Evidence) -> list[tuple[Cell, float, float]]:
    """For each step of which kernels and host are known: the cell, ms by `together`, ms measured.

    The host's time is taken to be that of the small step.
    """
    measured = evidence.measured()
    hosts = {(model, precision): ms for (model, precision, batch), ms in measured.items() if batch == SMALL}
    return [
        (cell, together(kernels, hosts[cell[:2]]), measured[cell])
        for cell, (kernels, _) in KERNELS.items()
        if cell[2] != SMALL and cell[:2] in hosts
    ]


def differing(known: Figures, derived: Figures) -> list[str]:
    """What of `known` is not as derived."""
    return [
        f"{name}: {getattr(known, name)} in planner.duration, {getattr(derived, name)} derived"
        for name in ("reached", "kernels_off", "host_us", "host_off")
        if getattr(known, name) != getattr(derived, name)
    ]


def report(evidence: Evidence, found: list[dict[str, Any]]) -> list[str]:
    """What is printed and written above the rows."""
    derived = evidence.derived()
    lines = [
        f"share reached, {kind}: {' '.join(f'{share:.3f}' for share in sorted(shares))}; median {derived.reached[kind]}"
        for kind, shares in evidence.reached().items()
    ]
    lines += [
        f"kernels, measured over predicted: {derived.kernels_off[0]} to {derived.kernels_off[1]}",
        f"host, us per call: {derived.host_us.low} to {derived.host_us.high}, median {derived.host_us.point}; per official "
        f"kernel, of the median: {derived.host_off[0]} to {derived.host_off[1]}",
        "kernels and host together over measured: "
        + ", ".join(f"{model} {precision} {ours / step:.2f}" for (model, precision, _), ours, step in overlap(evidence)),
    ]
    for prefix, said in (("", "all models"), ("left_out_", "its own model left out")):
        inside = sum(row[f"{prefix}inside"] for row in found)
        off = sorted(abs(row[f"{prefix}over_point" if prefix else "measured_over_point"] - 1) for row in found)
        lines.append(
            f"figures of {said}: {inside} of {len(found)} steps inside; point off by {statistics.median(off):.0%} in the median, "
            f"{off[-1]:.0%} at most"
        )
    return lines


def main() -> int:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--out", type=Path, help="CSV file to write")
    out: Path | None = given.parse_args().out
    evidence = count()
    found = rows(evidence)
    lines = report(evidence, found)
    for row in found:
        print(
            f"{row['model']:14}{row['precision']:5}{row['batch']:>4}  predicted {row['point_ms']:7.1f} ms ({row['low_ms']:.1f} "
            f"to {row['high_ms']:.1f})  measured {row['measured_ms']:7.1f}  {'inside' if row['inside'] else 'OUTSIDE'}"
            f"  left out {row['left_out_point_ms']:7.1f}  {'inside' if row['left_out_inside'] else 'OUTSIDE'}"
        )
    print("\n".join(lines))
    if out:
        about = describe()
        with out.open("w", newline="") as file:
            head = (
                f"{machine_line(about)}", f"{about['date']}, revision {about['git']}",
                f"python benchmarks/duration_check.py --out {out.name}",
                "measured: official code, one NVIDIA H200, torch 2.11; predicted from the counted work of the plain forms. No "
                "step of this repository was timed on a GPU",
            )  # fmt: skip
            file.writelines(f"# {line}\n" for line in (*head, *lines))
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(found)
    for line in (wrong := differing(FIGURES, evidence.derived())):
        print(f"NOT as derived: {line}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(guarded(main))
