"""The page of a segmentation run: its scores beside published ones, its course, and timelines of the most telling sequences.

Scores are in percent everywhere: in metrics.json, in the log and on the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from engine import models
from engine.report.charts import Series, confusion_matrix, line_chart
from engine.report.course import cost_charts, facts, flat, points, rate_chart, text, thinned
from engine.report.parts import DASH, document, header, notice, pairs, section, table, tile
from engine.report.reading import Run, number
from engine.report.timeline import legend, timeline
from engine.segmentation.predictions import BEST, LAST, UNKNOWN, Predictions, read_predictions
from shared_data.errors import LabError

SHOWN = 12  # timelines on a page: a third each of the worst, of those in the middle and of the best
PARTS = ("raw", "refined")
TITLES = {"accuracy": "accuracy", "edit": "edit", "boundary_f1": "boundary F1"}
NOT_A_TERM = ("event", "epoch", "step", "loss", "lr", "seconds", "grad_norm")  # what an entry of a step holds beside the terms
ABOUT_SCORES = (
    "In percent. Raw is the most probable class of each frame; refined gives each stretch between two predicted boundaries the "
    "class that most of its frames have. Published figures may be of another split or of the best epoch on the test sequences; "
    "each says what it is of."
)
ABOUT_TIMELINES = (
    "The worst, the middle and the best by raw frame accuracy. To the right of a row stands how many of its frames are right; a "
    "red mark below it is a wrong frame. Point at a run for its class and frames; where there is room it bears the number of its "
    "class."
)


def page(run: Run) -> str:
    """The document of `run`."""
    kept, notes = _predictions(run)
    shares = np.array([_accuracy(one) for one in kept.each()]) if kept else np.zeros(0)
    title = f"{text(run, 'model')} on {text(run, 'dataset')}"
    kind = "Segmentation test" if run.config.get("phase") == "test" else "Segmentation run"
    tags = {
        "data": text(run, "dataset"), "split": text(run, "split"), "mode": text(run, "mode"), "recipe": text(run, "recipe"),
        "epochs": run.config.get("num_epoch"), "batch": run.config.get("batch_size"),
        "precision": run.config.get("precision"), "seed": run.config.get("seed"),
    }  # fmt: skip
    sections = [
        header(kind, title, tags), notice([*run.notes, *notes]), _tiles(run), facts(run),
        section("Scores", _scores(run)), section("Curves", _curves(run)), section("Timelines", _timelines(kept, shares)),
        section("Confusion matrix", _confusion(kept)), section("Sequences", _sequences(kept, shares)),
        section("Configuration", pairs(run.config)), section("Environment", pairs(flat(run.environment))),
    ]  # fmt: skip
    return document(title, sections)


def _predictions(run: Run) -> tuple[Predictions | None, list[str]]:
    """Those of the last epoch, else of the best; and what to know about them."""
    for name in (LAST, BEST):
        if (run.folder / name).exists():
            try:
                return read_predictions(run.folder / name), []
            except LabError as error:
                return None, [f"{name} cannot be read, so no timelines are drawn: {error.what}."]
    return None, [f"There is no {LAST}, so no timelines are drawn."]


def outcomes(run: Run) -> dict[str, Mapping[str, Any]]:
    """ "last" and "best" as in metrics.json, before them "test last" and "test best" of a run that was judged by held-out
    sequences until its end; of a run stopped early, its newest evaluation as "last"."""
    found = {name: run.metrics[name] for name in ("last", "best") if isinstance(run.metrics.get(name), dict)}
    if isinstance(tested := run.metrics.get("test"), dict):
        epochs = {name: {"epoch": outcome.get("epoch")} for name, outcome in found.items()}
        of_test = {name: tested[name] for name in ("last", "best") if isinstance(tested.get(name), dict)}
        found = {f"test {name}": epochs.get(name, {}) | outcome for name, outcome in of_test.items()} | found
    if not found and run.evals:
        entry = run.evals[-1]
        nested = {part: entry[part] for part in PARTS if isinstance(entry.get(part), dict)}
        found["last"] = {"epoch": entry["epoch"]} | (nested or {"raw": {name: entry[name] for name in score_names([entry])}})
    return found


def score_names(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The scores that occur in `entries`, in the order in which papers give them."""
    names = {name for entry in entries for name in entry}
    at = {name: value for name in names if (value := _threshold(name)) is not None}
    return [*(name for name in ("accuracy", "edit") if name in names), *sorted(at, key=at.__getitem__),
            *(name for name in ("boundary_f1",) if name in names)]  # fmt: skip


def _threshold(name: str) -> float | None:
    """50 of "f1_50"."""
    try:
        return float(name.removeprefix("f1_")) if name.startswith("f1_") else None
    except ValueError:
        return None


def _title(name: str) -> str:
    return TITLES.get(name) or f"F1@{name.removeprefix('f1_')}"


def _tiles(run: Run) -> str:
    """The figures to quote: of the last epoch, refined where that was done, on the test sequences once these were looked at."""
    found = outcomes(run)
    last = found.get("test last", found.get("last", {}))
    part = next((part for part in reversed(PARTS) if isinstance(last.get(part), dict)), None)
    if part is None:
        return ""
    scores, epoch = last[part], number(last.get("epoch"))
    lines = [
        f"last epoch, {part}" if epoch is None else f"epoch {epoch + 1:g}, the last one; {part}",
        "No selection by any result.",
    ]
    tiles = []
    for name in ("accuracy", "edit", "f1_50"):
        value = number(scores.get(name))
        tiles.append(tile(_title(name).capitalize(), None if value is None else value / 100, lines, first=name == "accuracy"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _scores(run: Run) -> str:
    rows: list[tuple[str, str, Mapping[str, Any]]] = []
    for name, outcome in outcomes(run).items():
        epoch = number(outcome.get("epoch"))
        what = f"{name.removeprefix('test ')} epoch" + ("" if epoch is None else f" ({epoch + 1:g})")
        told = [str(run.metrics.get("selection") or "").replace("_", " ")] if name.endswith("best") else []
        if "test" in run.metrics:
            told = ["on the test sequences" if name.startswith("test ") else "on held-out sequences", *told]
        rows += [(f"{what}, {part}", "; ".join(told), outcome[part]) for part in PARTS if isinstance(outcome.get(part), dict)]
    if not rows:
        return ""
    rows += _published(run)
    names = score_names(scores for _, _, scores in rows)
    cells = [[what, *(_percent(scores.get(name)) for name in names), told] for what, told, scores in rows]
    drawn = table(["", *map(_title, names), "what it is of"], cells, left=("", "what it is of"))
    return f'<p class="soft lead">{escape(ABOUT_SCORES)}</p>{drawn}'


def _published(run: Run) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(name, what it is of, scores) of the rows published of this data set: of this split, or of all where the run names none."""
    try:
        card = models.find(text(run, "model"), None)
    except LabError:
        return []
    dataset, split, found = text(run, "dataset"), text(run, "split"), []
    for row in card.toml.get("published", []):
        of = str(row.get("split", row.get("protocol", "")))
        if (row.get("by"), row.get("dataset")) == ("segmentation", dataset) and (split == DASH or of in ("", split)):
            told = [str(row[key]) for key in ("variant", "dataset", "split", "protocol", "note", "source") if row.get(key)]
            found.append((f"{card.title}, published", ", ".join(told), row))
    return found


def _percent(value: Any) -> str:
    found = number(value)
    return DASH if found is None else f"{found:.1f}"


def _curves(run: Run) -> str:
    nested = [entry[part] for entry in run.evals for part in PARTS if isinstance(entry.get(part), dict)]
    scores = score_names([*run.epochs, *run.evals, *nested])
    evals = [entry | _flattened(entry) for entry in run.evals]
    said = dict.fromkeys(name for entry in run.steps for name in entry)
    terms = [name for name in said if name not in (*NOT_A_TERM, *scores) and not name.endswith("_per_s")]

    def over_steps(name: str) -> Series:
        course = [(float(entry["step"]), y) for entry in run.steps if (y := number(entry.get(name))) is not None]
        return Series(name, "one", thinned(course))

    losses = [Series("training", "one", points(run.epochs, "loss")), Series("held out", "two", points(run.evals, "loss"))]
    charts = [
        line_chart("Loss", losses, lambda y: f"{y:.3g}"),
        *(_score_chart(run, evals, name) for name in scores),
        *(line_chart(f"Term {name}", [over_steps(name)], lambda y: f"{y:.3g}", axis="step") for name in terms),
        line_chart("Norm of the gradient", [over_steps("grad_norm")], lambda y: f"{y:.3g}", axis="step"),
        rate_chart(run), *cost_charts(run),
    ]  # fmt: skip
    drawn = "".join(charts)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def _flattened(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation says of the two parts: raw scores by name, refined ones as "refined name"."""
    raw, refined = (entry[part] if isinstance(entry.get(part), dict) else {} for part in PARTS)
    return {**raw, **{f"refined {name}": value for name, value in refined.items()}}


def _score_chart(run: Run, evals: Sequence[Mapping[str, Any]], name: str) -> str:
    found, refined = points(evals, name), points(evals, f"refined {name}")
    lines = (("raw", found), ("refined", refined)) if refined else (("training", points(run.epochs, name)), ("held out", found))
    title = _title(name)
    series = [Series(said, style, course) for (said, course), style in zip(lines, ("one", "two"), strict=True)]
    return line_chart(title[0].upper() + title[1:], series, lambda y: f"{y:.1f}".removesuffix(".0") + " %")


def _accuracy(one: Predictions) -> float:
    """The share of labelled frames that are right; NaN where there are none."""
    known = one.truth != UNKNOWN
    return float((one.predicted == one.truth)[known].mean()) if known.any() else float("nan")


def telling(shares: np.ndarray, most: int = SHOWN) -> list[int]:
    """At most `most` sequences in order of their accuracy `shares` (N,): as many of the lowest, the middle and the highest.

    Those without an accuracy (NaN) are only taken if none has one.
    """
    known = [n for n in np.argsort(shares, kind="stable").tolist() if not np.isnan(shares[n])] or list(range(len(shares)))
    if len(known) <= most:
        return known
    third = most // 3
    middle = (len(known) - third) // 2
    return known[:third] + known[middle : middle + third] + known[-third:]


def _timelines(kept: Predictions | None, shares: np.ndarray) -> str:
    if kept is None:
        return ""
    chosen = [(kept.one(n), shares[n]) for n in telling(shares)]
    cards = "".join(_card(one, share) for one, share in chosen)
    told = f'<p class="soft lead">{escape(ABOUT_TIMELINES)}</p>'
    return f'{told}{legend(one for one, _ in chosen)}<div class="timelines">{cards}</div>'


def _card(one: Predictions, share: float) -> str:
    said = f"{int(one.lengths[0]):,} frames{'' if np.isnan(share) else f', {share:.1%} right'}"
    caption = f'<figcaption><span>{escape(str(one.ids[0]))}</span><span class="legend">{said}</span></figcaption>'
    return f'<figure class="card chart">{caption}{timeline(one)}</figure>'


def _confusion(kept: Predictions | None) -> str:
    """Frames of all sequences, before refinement."""
    known = kept.truth != UNKNOWN if kept else np.zeros(0, bool)
    if kept is None or not known.any():
        return ""
    classes = len(kept.class_names)
    pairs_of = kept.truth[known] * classes + kept.predicted[known]
    counts = np.bincount(pairs_of, minlength=classes * classes).reshape(classes, classes)
    used = np.flatnonzero(counts.sum(0) + counts.sum(1))
    matrix = confusion_matrix(counts[np.ix_(used, used)].tolist(), [kept.class_names[k] for k in used])
    told = (
        "Frames, raw. Rows are the true classes, columns the predictions; each row is shown as shares of its frames. Blue is "
        "right, orange is wrong; point at a cell for its numbers. Classes that occur nowhere are left out."
    )
    return f'<p class="soft lead">{told}</p><div class="card">{matrix}</div>'


def _sequences(kept: Predictions | None, shares: np.ndarray) -> str:
    if kept is None or np.isnan(shares).all():
        return ""
    order = [n for n in np.argsort(shares, kind="stable").tolist() if not np.isnan(shares[n])]
    rows: list[list[str | float | None]] = [
        [str(kept.ids[n]), f"{int(kept.lengths[n]):,}", float(shares[n])] for n in order
    ]  # fmt: skip
    drawn = table(("sequence", "frames", "raw frame accuracy"), rows, left=("sequence",))
    return f'<p class="soft">Worst first.</p>{drawn}'
