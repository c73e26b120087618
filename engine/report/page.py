"""The page of a training or test run, from the run as read. Every string from outside goes through `escape`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from engine.report.charts import Series, confusion_matrix, line_chart
from engine.report.clips import clip_cards
from engine.report.parts import DASH, document, header, notice, pairs, section, table, tile
from engine.report.reading import Run, number

STREAMS = {"j": "joints", "b": "bones", "jm": "joint motion", "bm": "bone motion"}


def page(run: Run) -> str:
    """The document of `run`."""
    sections = [
        _headline(run), section("Curves", _curves(run)), _confusion(run), _classes(run), section("Clips", clip_cards(run)),
        section("Configuration", pairs(run.config)), section("Environment", pairs(_flat(run.environment))),
    ]  # fmt: skip
    title = f"{_text(run, 'model')} on {_text(run, 'dataset')}"
    return document(title, sections)


class Outcome(NamedTuple):
    """One set of weights on one set of clips; `metrics` as in metrics.json."""

    title: str
    note: str
    metrics: Mapping[str, Any]


def outcomes(run: Run) -> list[Outcome]:
    """What the run reached, the figure to quote first."""
    selection, test = run.metrics.get("selection"), run.metrics.get("test")
    found: dict[str, Any] = selection if isinstance(selection, dict) else {}
    if not found and run.evals:  # stopped early: the log knows
        found = {"last": run.evals[-1]}
        ranked = [entry for entry in run.evals if number(entry.get("top1")) is not None]
        if ranked:
            found[f"best_on_{_held_out(run)}"] = max(ranked, key=lambda entry: entry["top1"])
    honest = _held_out(run) == "validation"
    results = []
    if honest and isinstance(test, dict):
        results += [
            Outcome(
                f"Test top-1, {'last epoch' if name == 'last' else 'epoch chosen on validation'}",
                "The test set was looked at once, after training.",
                metrics,
            )
            for name, metrics in test.items()
            if isinstance(metrics, dict)
        ]
    for name, metrics in found.items():
        if not isinstance(metrics, dict):
            continue
        if name == "last":
            results.append(
                Outcome(f"{'Validation top-1' if honest else 'Top-1'}, last epoch", "No selection by any result.", metrics)
            )
        elif name == "best_on_test":
            note = "Selects the epoch on the test set itself, as the field does: optimistic. Quote it as such."
            results.append(Outcome("Top-1, best on test", note, metrics))
        else:
            note = "Selects the epoch on people or views held out of training."
            results.append(Outcome(f"Top-1, {name.replace('_', ' ')}", note, metrics))
    return results


def _headline(run: Run) -> str:
    kind = "Test" if run.config.get("phase") == "test" else "Training"
    tags = {
        "data": _text(run, "dataset"),
        "recipe": _text(run, "recipe"),
        "stream": STREAMS.get(_text(run, "stream"), _text(run, "stream")),
        "protocol": _text(run, "protocol"),
        "precision": run.config.get("precision"),
        "seed": run.config.get("seed"),
    }
    tiles = "".join(_tile(outcome, run, first=place == 0) for place, outcome in enumerate(outcomes(run)))
    top = header(f"{kind} run", f"{_text(run, 'model')} on {_text(run, 'dataset')}", tags)
    return f'{top}{notice(run.notes)}<div class="tiles">{tiles}</div>{_facts(run)}'


def _tile(outcome: Outcome, run: Run, *, first: bool) -> str:
    top1, top5, epoch = (number(outcome.metrics.get(name)) for name in ("top1", "top5", "epoch"))
    lines = []
    if epoch is not None and run.config.get("phase") != "test":
        lines.append(f"epoch {epoch + 1:g}" + (f" of {run.config['num_epoch']}" if "num_epoch" in run.config else ""))
    if top5 is not None:
        lines.append(f"top-5 {top5:.1%}")
    clips = sum(sum(row) for row in _confusion_counts(outcome.metrics)) or None
    if clips and top1 is not None:
        low, high = _wilson(top1, clips)
        lines.append(f"{clips:,} clips, 95 % interval {100 * low:.1f}{DASH}{100 * high:.1f}")
    return tile(outcome.title, top1, [" · ".join(lines), outcome.note], first=first)


def _wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of `count` (Wilson 1927)."""
    z = 1.96
    middle, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - spread) / (1 + z * z / count), (middle + spread) / (1 + z * z / count)


def _facts(run: Run) -> str:
    metrics = run.metrics
    peaks = [number(e.get("peak_reserved_mib")) or 0 for e in run.epochs]
    resident = [number(e.get("rss_mib")) or 0 for e in run.epochs]
    rates = sorted(rate for e in run.epochs if (rate := number(e.get("clips_per_s"))) is not None)
    memory = (max(peaks), "peak GPU memory (reserved)") if any(peaks) else (max(resident, default=0), "peak host memory")
    facts = [
        (_count(metrics.get("parameters")), "parameters"),
        (_count(metrics.get("clips_train")), "training clips"),
        (_count(metrics.get("clips_test")), "test clips"),
        (_count(metrics.get("num_classes")), "classes"),
        (_duration(number(metrics.get("seconds"))), "whole run"),
        (f"{rates[len(rates) // 2]:,.0f}" if rates else "", "training clips/s (median epoch)"),
        (f"{memory[0] / 1024:.2f} GiB" if memory[0] else "", memory[1]),
    ]
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in facts if value)
    return f'<div class="facts">{cells}</div>' if cells else ""


def _curves(run: Run) -> str:
    held_out = _held_out(run)

    def both(name: str) -> list[Series]:
        return [Series("training", "one", _points(run.epochs, name)), Series(held_out, "two", _points(run.evals, name))]

    rates = _points(run.epochs, "lr")
    positive = [(x, y) for x, y in rates if y > 0]
    wide = len(positive) == len(rates) > 0 and max(y for _, y in rates) > 30 * min(y for _, y in rates)
    gpu = [Series(n, s, _points(run.epochs, k, 1 / 1024)) for n, s, k in
           (("allocated", "one", "peak_allocated_mib"), ("reserved", "two", "peak_reserved_mib"))]  # fmt: skip
    on_gpu = any(y > 0 for _, y in gpu[0].points)
    speed = [Series("training", "one", _points(run.epochs, "clips_per_s"))]
    host = [Series("process", "one", _points(run.epochs, "rss_mib", 1 / 1024))]
    charts = [
        line_chart("Top-1", both("top1"), lambda y: f"{100 * y:.1f}".removesuffix(".0") + " %"),
        line_chart("Loss", both("loss"), lambda y: f"{y:.3g}"),
        line_chart("Learning rate", [Series("per epoch", "one", rates)], lambda y: f"{y:.2g}", logarithmic=wide),
        line_chart("Speed, clips/s", speed, lambda y: f"{y:,.0f}" if y >= 100 else f"{y:.3g}"),
        line_chart("Peak GPU memory, GiB", gpu, lambda y: f"{y:.3g}") if on_gpu else "",
        line_chart("Host memory, GiB", host, lambda y: f"{y:.3g}"),
    ]
    drawn = "".join(charts)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def _points(events: Iterable[Mapping[str, Any]], name: str, factor: float = 1.0) -> list[tuple[float, float]]:
    """(epoch from 1, value) where the value is a finite number."""
    return [(e["epoch"] + 1.0, y * factor) for e in events if (y := number(e.get(name))) is not None]


def _confusion(run: Run) -> str:
    shown = _shown(run)
    if shown is None:
        return ""
    counts, names = shown.counts, shown.names
    text = (
        f"{escape(shown.title)}. Rows are the true classes, columns the predictions; each row is shown as shares of its clips. "
        "Blue is right, orange is wrong; point at a cell for its numbers."
    )
    return section(
        "Confusion matrix", f'<p class="soft lead">{text}</p><div class="card">{confusion_matrix(counts, names)}</div>'
    )


def _classes(run: Run) -> str:
    shown = _shown(run)
    if shown is None:
        return ""
    lines = []
    for k, row in enumerate(shown.counts):
        total = sum(row)
        share = row[k] / total if total else None
        others = sorted(((count, j) for j, count in enumerate(row) if j != k and count), key=lambda pair: (-pair[0], pair[1]))
        lines.append((share, k, total, others[:1]))
    lines.sort(key=lambda line: (line[0] is None, line[0] or 0.0, line[1]))
    rows = []
    for share, k, total, others in lines:
        confused = f"{shown.names[others[0][1]]} ({others[0][0] / total:.0%})" if others else DASH
        rows.append([str(k), shown.names[k], share, f"{total:,}", confused])
    text = f"{escape(shown.title)}, weakest first."
    titles = ("#", "class", "accuracy", "clips", "most often taken for")
    return section("Classes", f'<p class="soft">{text}</p>{table(titles, rows, left=("class", "most often taken for"))}')


class Shown(NamedTuple):
    """The confusion counts that the matrix and the table are made of, (K, K), and K class names."""

    title: str
    counts: list[list[int]]
    names: list[str]


def _shown(run: Run) -> Shown | None:
    for outcome in outcomes(run):
        counts = _confusion_counts(outcome.metrics)
        if counts:
            return Shown(outcome.title, counts, class_names(run, len(counts)))
    return None


def _confusion_counts(metrics: Mapping[str, Any]) -> list[list[int]]:
    """The matrix if it is one: square, whole numbers, not empty."""
    matrix = metrics.get("confusion")
    if not isinstance(matrix, list) or not matrix:
        return []
    square = all(isinstance(row, list) and len(row) == len(matrix) for row in matrix)
    if not square or not all(isinstance(c, int) and c >= 0 for row in matrix for c in row):
        return []
    return matrix


def class_names(run: Run, classes: int) -> list[str]:
    """K names; `class k` where the run has none."""
    given = run.metrics.get("class_names")
    names = [str(name) for name in given] if isinstance(given, list) else []
    return [names[k] if k < len(names) and names[k] else f"class {k}" for k in range(classes)]


def _held_out(run: Run) -> str:
    return "validation" if _text(run, "protocol") == "honest" else "test"


def _text(run: Run, name: str) -> str:
    """A fact of the run, from the metrics or, in a run stopped early, from the configuration."""
    value = run.metrics.get(name) or run.config.get(name) or (run.config.get("data") if name == "dataset" else None)
    if name == "dataset" and run.metrics.get(name) is None and run.config.get("data"):
        value = Path(str(run.config["data"])).stem
    return str(value) if value else DASH


def _count(value: Any) -> str:
    return f"{int(value):,}" if number(value) is not None else ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _flat(environment: Mapping[str, Any]) -> dict[str, Any]:
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
