"""What the pages of all runs that take epochs have in common: facts, curves of what an epoch costs, environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from engine.report.charts import Series, line_chart
from engine.report.parts import DASH
from engine.report.reading import Run, number

STREAMS = {"j": "joints", "b": "bones", "jm": "joint motion", "bm": "bone motion"}
MOST_POINTS = 240


def text(run: Run, name: str) -> str:
    """A fact of the run, from the metrics or, in a run stopped early, from the configuration."""
    value = run.metrics.get(name) or run.config.get(name) or (run.config.get("data") if name == "dataset" else None)
    if name == "dataset" and run.metrics.get(name) is None and run.config.get("data"):
        value = Path(str(run.config["data"])).stem
    return str(value) if value else DASH


def facts(run: Run) -> str:
    """What the run is in numbers, as far as its files say."""
    metrics = run.metrics
    peaks = [number(e.get("peak_reserved_mib")) or 0 for e in run.epochs]
    resident = [number(e.get("rss_mib")) or 0 for e in run.epochs]
    rates = sorted(rate for e in run.epochs if (rate := number(e.get("clips_per_s"))) is not None)
    memory = (max(peaks), "peak GPU memory (reserved)") if any(peaks) else (max(resident, default=0), "peak host memory")
    told = [
        (_count(metrics.get("parameters")), "parameters"),
        (_count(metrics.get("clips_train")), "training clips"),
        (_count(metrics.get("clips_test")), "test clips"),
        (_count(metrics.get("sequences_train")), "training sequences"),
        (_count(metrics.get("sequences_test")), "test sequences"),
        (_count(metrics.get("num_classes")), "classes"),
        (_duration(number(metrics.get("seconds"))), "whole run"),
        (f"{rates[len(rates) // 2]:,.0f}" if rates else "", "training clips/s (median epoch)"),
        (f"{memory[0] / 1024:.2f} GiB" if memory[0] else "", memory[1]),
    ]
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in told if value)
    return f'<div class="facts">{cells}</div>' if cells else ""


def rate_chart(run: Run) -> str:
    """The learning rate of each epoch, on a logarithmic axis where it falls far."""
    rates = points(run.epochs, "lr")
    positive = [(x, y) for x, y in rates if y > 0]
    wide = len(positive) == len(rates) > 0 and max(y for _, y in rates) > 30 * min(y for _, y in rates)
    return line_chart("Learning rate", [Series("per epoch", "one", rates)], lambda y: f"{y:.2g}", logarithmic=wide)


def cost_charts(run: Run) -> list[str]:
    """Speed and memory of each epoch."""
    gpu = [Series(n, s, points(run.epochs, k, 1 / 1024)) for n, s, k in
           (("allocated", "one", "peak_allocated_mib"), ("reserved", "two", "peak_reserved_mib"))]  # fmt: skip
    on_gpu = any(y > 0 for _, y in gpu[0].points)
    speed = [Series("training", "one", points(run.epochs, "clips_per_s"))]
    host = [Series("process", "one", points(run.epochs, "rss_mib", 1 / 1024))]
    return [
        line_chart("Speed, clips/s", speed, lambda y: f"{y:,.0f}" if y >= 100 else f"{y:.3g}"),
        line_chart("Peak GPU memory, GiB", gpu, lambda y: f"{y:.3g}") if on_gpu else "",
        line_chart("Host memory, GiB", host, lambda y: f"{y:.3g}"),
    ]


def points(events: Iterable[Mapping[str, Any]], name: str, factor: float = 1.0) -> list[tuple[float, float]]:
    """(epoch from 1, value) where the value is a finite number."""
    return [(e["epoch"] + 1.0, y * factor) for e in events if (y := number(e.get(name))) is not None]


def thinned(course: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points for a long course: means of so many neighbours, at the place of the last of them."""
    size = -(-len(course) // most)
    rest, result = iter(course), []
    while piece := list(islice(rest, size)):
        result.append((piece[-1][0], sum(y for _, y in piece) / len(piece)))
    return result


def _count(value: Any) -> str:
    return f"{int(value):,}" if number(value) is not None else ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def flat(environment: Mapping[str, Any]) -> dict[str, Any]:
    """GPUs and packages as rows of their own, the command as one line."""
    rows: dict[str, Any] = {}
    for name, value in environment.items():
        if isinstance(value, dict):
            rows.update({str(inner): entry for inner, entry in value.items()})
        elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            rows.update({f"{name} {i}": ", ".join(map(str, entry.values())) for i, entry in enumerate(value)})
        else:
            rows[name] = " ".join(map(str, value)) if isinstance(value, list) else value
    return rows
