"""The page of a training or test run, from the run as read. Every string from outside goes through `escape`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any, NamedTuple

from engine.report.charts import Series, confusion_matrix, line_chart
from engine.report.clips import clip_cards
from engine.report.course import STREAMS, cost_charts, facts, flat, points, rate_chart, text
from engine.report.parts import DASH, document, header, notice, pairs, section, table, tile
from engine.report.reading import Run, number


def page(run: Run) -> str:
    """The document of `run`."""
    sections = [
        _headline(run), section("Curves", _curves(run)), _confusion(run), _classes(run), section("Clips", clip_cards(run)),
        section("Configuration", pairs(run.config)), section("Environment", pairs(flat(run.environment))),
    ]  # fmt: skip
    title = f"{text(run, 'model')} on {text(run, 'dataset')}"
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
        "data": text(run, "dataset"),
        "recipe": text(run, "recipe"),
        "stream": STREAMS.get(text(run, "stream"), text(run, "stream")),
        "protocol": text(run, "protocol"),
        "precision": run.config.get("precision"),
        "seed": run.config.get("seed"),
    }
    tiles = "".join(_tile(outcome, run, first=place == 0) for place, outcome in enumerate(outcomes(run)))
    top = header(f"{kind} run", f"{text(run, 'model')} on {text(run, 'dataset')}", tags)
    return f'{top}{notice(run.notes)}<div class="tiles">{tiles}</div>{facts(run)}'


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


def _curves(run: Run) -> str:
    held_out = _held_out(run)

    def both(name: str) -> list[Series]:
        return [Series("training", "one", points(run.epochs, name)), Series(held_out, "two", points(run.evals, name))]

    charts = [
        line_chart("Top-1", both("top1"), lambda y: f"{100 * y:.1f}".removesuffix(".0") + " %"),
        line_chart("Loss", both("loss"), lambda y: f"{y:.3g}"),
        rate_chart(run), *cost_charts(run),
    ]  # fmt: skip
    drawn = "".join(charts)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


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
    return "validation" if text(run, "protocol") == "honest" else "test"
