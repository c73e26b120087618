"""All that was found about one encoder: its record, and its table with the published figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine import records
from engine.downstream.collapse import Collapse
from engine.downstream.results import Published, Result, published_of, result_of
from engine.downstream.selection import MEANING, RULES
from engine.report.parts import document, header, notice, section, table
from engine.storage import write_atomically
from shared_data.errors import DataError, MissingInputError

RECORD, TEXT, PAGE = "evaluation.json", "evaluation.txt", "evaluation.html"
FORMAT = 1
TITLES = ("evaluation", "setting", "selection", "top-1", "spread", "top-5", "published", "published selection", "source")


@dataclass(frozen=True)
class Judged:
    """All that was found about one encoder.

    encoder    what it is: model, weights and their SHA-256, pretraining ..., JSON values
    data       what it was judged on: data set, protocol, stream, numbers of clips ..., JSON values
    collapse   of the training clips' features, as `collapse_told` has it; None where it was not looked at
    """

    encoder: Mapping[str, Any]
    data: Mapping[str, Any]
    results: tuple[Result, ...]
    published: tuple[Published, ...] = ()
    collapse: Mapping[str, Any] | None = None


def collapse_told(found: Collapse) -> dict[str, Any]:
    """For a record: every number, and the verdict in words."""
    return {**asdict(found), "state": found.state, "verdict": found.verdict}


def as_json(judged: Judged) -> dict[str, Any]:
    """All of it as JSON values, the meaning of each rule of selection with it."""
    rules = {rule: MEANING[rule] for rule in RULES if any(result.rule == rule for result in judged.results)}
    return dict(
        records.plain({
            "format": FORMAT, "encoder": dict(judged.encoder), "data": dict(judged.data), "selection": rules,
            "results": [result.as_dict() for result in judged.results],
            "published": [asdict(row) for row in judged.published], "collapse": dict(judged.collapse or {}),
        })
    )  # fmt: skip


def write(folder: Path, judged: Judged) -> None:
    """Write the record, sealed, and its table as text and as a page. Raises `SaveError`."""
    record = as_json(judged)
    records.write_json(folder / RECORD, {**record, records.SEAL: records.fingerprint(record)})
    write_atomically(folder / TEXT, text(judged).encode())
    write_atomically(folder / PAGE, page(judged).encode())


def read(folder: Path) -> Judged:
    """What `write` wrote. Raises `MissingInputError`, and `DataError` for a record that was changed."""
    file = folder / RECORD
    record = records.read_json(file)
    if record is None:
        raise MissingInputError("no evaluation is recorded here", where=str(file), next_step="judge the encoder first")
    if not records.is_sealed(record) or record.get("format") != FORMAT:
        raise DataError(
            "the record of an evaluation is not as it was written", where=str(file),
            expected=f"one of format {FORMAT}, untouched", next_step="judge the encoder again",
        )  # fmt: skip
    results, published = tuple(map(result_of, record["results"])), tuple(map(published_of, record["published"]))
    return Judged(record["encoder"], record["data"], results, published, record["collapse"] or None)


def rows(judged: Judged) -> list[tuple[str, ...]]:
    """The cells under `TITLES`: a line for each result and published figure of its evaluation and setting; "" for none."""
    lines: list[tuple[str, ...]] = []
    for result in judged.results:
        spread = "" if result.spread is None else f"{100 * result.spread:.2f}"
        top5 = f"{100 * sum(result.top5) / len(result.top5):.2f}" if result.top5 else ""
        ours = (result.evaluation, result.setting, result.rule, f"{100 * result.mean:.2f}", spread, top5)
        same = [row for row in judged.published if (row.evaluation, row.setting) == (result.evaluation, result.setting)]
        theirs: list[tuple[str, ...]] = [(f"{100 * row.top1:.2f}", row.rule or "not told", row.source) for row in same]
        lines += [(*ours, *cells) for cells in theirs or [("", "", "")]]
    return lines


def text(judged: Judged) -> str:
    """The table for a terminal, in percent, then what its words mean."""
    cells = [TITLES, *rows(judged)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(TITLES))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([*(f"{name}: {value}" for name, value in _told(judged).items()), "", *lines, "", *_notes(judged)]) + "\n"


def page(judged: Judged) -> str:
    """The same as an HTML document of its own."""
    left = [title for title in TITLES if title not in ("top-1", "spread", "top-5", "published")]
    title = f"{judged.encoder.get('model', 'An encoder')} on {judged.data.get('dataset', 'its data')}"
    body = table(TITLES, rows(judged), left=left)
    return document(
        title, [header("Evaluation", title, _told(judged)), section("Top-1 in percent", body), notice(_notes(judged))]
    )


def _told(judged: Judged) -> dict[str, Any]:
    return {str(name): value for name, value in {**judged.encoder, **judged.data}.items()}


def _notes(judged: Judged) -> list[str]:
    rules = [f"{rule}: {MEANING[rule]}" for rule in RULES if any(result.rule == rule for result in judged.results)]
    many = any(len(result.top1) > 1 for result in judged.results)
    told = [f"{result.evaluation}, {result.setting}, {result.rule}: {result.note}" for result in judged.results if result.note]
    return [
        *rules, *(["spread: standard deviation over seeds"] if many else []), *told,
        *([str(judged.collapse["verdict"])] if judged.collapse else []),
    ]  # fmt: skip
