"""The page of a zero-shot run, from its ``results.json`` alone. Every string from outside goes through `escape`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from engine import models
from engine.records import read_json
from engine.report.charts import Series, confusion_matrix, line_chart
from engine.report.parts import DASH, document, header, notice, pairs, section, table, tile
from engine.zeroshot import COLUMNS, PLAN, RESULTS, provenance
from engine.zeroshot.text import descriptions
from shared_data.errors import DataError, LabError, MissingInputError
from shared_data.findings import ERROR

Summary = Mapping[str, Any]
MEANINGS = (
    "Unseen classes among themselves", "Clips of seen classes, among all", "Clips of unseen classes, among all",
    "Harmonic mean of the two",
)  # fmt: skip
PUBLISHED = ("zsl", "seen_accuracy", "unseen_accuracy", "harmonic")  # the same columns in a model.toml


def is_run(folder: Path) -> bool:
    """Whether the folder is that of a zero-shot run."""
    return (folder / PLAN).exists() or (folder / RESULTS).exists()


def page(folder: Path) -> str:
    """The document of a run. Raises `MissingInputError` before its end, `DataError` for results that cannot be read."""
    if not (folder / RESULTS).exists():
        raise MissingInputError(
            "this zero-shot run has not come to its end", where=str(folder), expected=RESULTS,
            next_step="run the same command again to go on",
        )  # fmt: skip
    summary = read_json(folder / RESULTS)
    try:
        return _page(summary or {})
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(
            f"these are no results of a zero-shot run: {error!r}", where=str(folder / RESULTS),
            next_step="run the same command again; it writes them anew",
        ) from error  # fmt: skip


def _page(run: Summary) -> str:
    names = [descriptions.names(run["classes"])[k] for k in run["unseen"]]
    task = f"{run['classes']} classes, {len(names)} unseen"
    about = run["about"]
    tags = {"features": about.get("features"), "text": about.get("text"), "texts": about.get("mode"), "seeds": len(run["seeds"])}
    told = [f"Selection {run['selection']['rule']}: {run['selection']['meaning']}.", f"These figures are {run['caution']}."]
    told += [f"{row['phase']}: {row['message']}." for row in run["findings"] if row["severity"] == ERROR]
    sections = [
        header("Zero-shot run", f"{run['title']}: {task}", tags), notice(told), _tiles(run),
        section("Seeds", _seeds(run)),
        section("Accuracy on unseen classes after each cycle", _curves(run)),
        section("Unseen classes among themselves", _confusion(run, names)),
        section("Each unseen class", _classes(run, names)),
        section("The gate", _gates(run)),
        section("Not as published", _deviations(run)),
        section("What was noticed about the files", _findings(run)),
        section("Published figures", _published(run)),
        section("Settings", pairs({**run["plan"]["settings"], **_sources(about), "inputs": run["inputs"]})),
    ]  # fmt: skip
    return document(f"{run['title']}: {task}", sections)


def _sources(about: Mapping[str, Any]) -> dict[str, Any]:
    made = about.get("backbone", {})
    lines = {f"backbone ({phase})": provenance.words(one) for phase, one in made.items()}
    return {name: value for name, value in about.items() if name != "backbone"} | lines


def _tiles(run: Summary) -> str:
    many = len(run["seeds"]) > 1
    tiles = []
    for column, meaning in zip(COLUMNS, MEANINGS, strict=True):
        lines = [meaning]
        if many:
            lines.append(f"mean of {len(run['seeds'])} seeds, standard deviation {100 * run['spread'][column]:.1f} points")
        else:
            lines.append("one seed, which says little")
        if column == "ZSL":
            lines.append(f"chance {run['chance']:.1%}")
        tiles.append(tile(column, run["mean"][column], lines, first=column == "H"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _seeds(run: Summary) -> str:
    rows = [[str(row["seed"]), str(row["cycle"] + 1), *_percents(row)] for row in run["seeds"]]
    rows.append(["mean", "", *_percents(run["mean"])])
    if len(run["seeds"]) > 1:
        rows.append(["standard deviation", "", *_percents(run["spread"])])
    return table(("seed", "cycle that counts", *COLUMNS), rows, left=("seed",))


def _percents(values: Mapping[str, float]) -> list[str]:
    return [f"{100 * values[column]:.2f} %" for column in COLUMNS]


def _curves(run: Summary) -> str:
    drawn = []
    for row in run["seeds"]:
        series = [
            Series(name, style, [(n + 1.0, float(y)) for n, y in enumerate(row["curves"][phase])])
            for phase, name, style in (("test", "test", "one"), ("val", "validation", "two"))
        ]
        title = f"Seed {row['seed']}, cycle {row['cycle'] + 1} counts"
        drawn.append(line_chart(title, series, lambda y: f"{100 * y:.1f}".removesuffix(".0") + " %", axis="cycle"))
    text = "The validation's unseen classes are others, and its curve is another network's."
    return f'<p class="soft lead">{text}</p><div class="charts">{"".join(drawn)}</div>'


def _confusion(run: Summary, names: Sequence[str]) -> str:
    counts = [row[:-1] for row in _summed(run, "zsl")]
    text = (
        "All seeds together. Rows are the true classes, columns the predictions; each row is shown as shares of its clips. "
        "Blue is right, orange is wrong; point at a cell for its numbers."
    )
    return f'<p class="soft lead">{text}</p><div class="card">{confusion_matrix(counts, names)}</div>'


def _classes(run: Summary, names: Sequence[str]) -> str:
    alone, gated, seeds = _summed(run, "zsl"), _summed(run, "gzsl"), len(run["seeds"])
    rows: list[list[str | float | None]] = []
    for at, (zsl, gzsl) in enumerate(zip(alone, gated, strict=True)):
        others = [(count, j) for j, count in enumerate(zsl[:-1]) if j != at and count]
        most = max(others, key=lambda pair: (pair[0], -pair[1]), default=None)
        rows.append(
            [
                str(run["unseen"][at]), names[at], f"{sum(zsl) // seeds:,}", _share(zsl[at], zsl), _share(gzsl[at], gzsl),
                _share(gzsl[-1], gzsl), f"{names[most[1]]} ({most[0] / sum(zsl):.0%})" if most else DASH,
            ]
        )  # fmt: skip
    titles = ("#", "class", "clips", "ZSL", "U", "taken for a seen class", "among unseen ones most often taken for")
    text = "All seeds together. ZSL: among unseen classes; U: among all classes, behind the gate."
    return f'<p class="soft lead">{text}</p>{table(titles, rows, left=("class", titles[-1]))}'


def _summed(run: Summary, kind: str) -> list[list[int]]:
    """The counts of a kind over all seeds, (U, U + 1)."""
    tables = [row["confusions"][kind] for row in run["seeds"]]
    return [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]


def _share(count: int, row: Sequence[int]) -> float | None:
    return count / sum(row) if sum(row) else None


def _gates(run: Summary) -> str:
    rows: list[list[str | float | None]] = [
        [str(row["seed"]), row["gate"]["accuracy"], f"{row['gate']['temperature']:g}", f"{row['gate']['threshold']:g}"]
        for row in run["seeds"]
    ]
    text = "Told apart, seen or unseen: the share of right answers on a fifth of the validation clips, held out."
    return f'<p class="soft lead">{text}</p>{table(("seed", "accuracy", "temperature", "threshold"), rows, left=("seed",))}'


def _deviations(run: Summary) -> str:
    rows = [[row["name"], str(row["value"]), str(row["published"])] for row in run["deviations"]]
    return table(("setting", "here", "published"), rows, left=("setting", "here", "published")) if rows else ""


def _findings(run: Summary) -> str:
    rows = [[row["phase"], row["severity"], row["message"], Path(row["where"]).name] for row in run["findings"]]
    titles = ("phase", "severity", "what", "file")
    return table(titles, rows, left=titles) if rows else ""


def _published(run: Summary) -> str:
    """This run beside the rows of the model's toml for the same task; nothing for a split of the user's own."""
    if any(row["name"] == "test split" for row in run["deviations"]):
        return ""
    try:
        card = models.find(run["model"], "zeroshot")
    except LabError:
        return ""
    same = [
        row for row in card.toml.get("published", [])
        if (row["dataset"], row["unseen"]) == (f"ntu{run['classes']}", len(run["unseen"]))
    ]  # fmt: skip
    what = ", ".join(filter(None, (run["about"].get("mode"), run["about"].get("text"))))
    rows = [["this run", what, *_percents(run["mean"]), ""]]
    for row in same:
        known = ", ".join(str(row[key]) for key in ("text", "arch", "variant") if key in row)
        rows.append([card.title, known, *(f"{row[key]:.2f} %" if key in row else "" for key in PUBLISHED), row["source"]])
    titles = ("", "what", *COLUMNS, "source")
    return (
        f'<p class="soft lead">These figures are {escape(run["caution"])}.</p>{table(titles, rows, left=("", "what", "source"))}'
    )
