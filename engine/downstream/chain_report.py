"""What a chain came to: one sealed record, and one page, with the published figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine import records
from engine.downstream import chain, suite
from engine.downstream.chain import Chain
from engine.downstream.selection import MEANING, RULES
from engine.report.parts import document, header, notice, pairs, section, table
from engine.storage import write_atomically

RECORD, PAGE = "report.json", "report.html"
TITLES = ("stage", *suite.TITLES)
WORDS = [title for title in TITLES if title not in ("top-1", "spread", "top-5", "published")]
"""Columns that are no numbers."""


def write(folder: Path, of: Chain) -> str:
    """Write the record and the page of the stages that are done; returns the table as text. Raises `SaveError`."""
    done = chain.found(of, folder)
    record = records.plain({"format": 1, "model": of.model, "chain": of.name, "stages": done})
    records.write_json(folder / RECORD, {**record, records.SEAL: records.fingerprint(record)})
    write_atomically(folder / PAGE, _page(of, done).encode())
    return _text(of, done)


def _text(of: Chain, done: Mapping[str, Mapping[str, Any]]) -> str:
    cells = [TITLES, *chain.rows(of, done)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(TITLES))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def _page(of: Chain, done: Mapping[str, Mapping[str, Any]]) -> str:
    lines = chain.rows(of, done)
    rules = [f"{rule}: {MEANING[rule]}" for rule in RULES if any(row[3] == rule for row in lines)]
    verdicts = [f"{name}: {said['collapse']['verdict']}" for name, said in done.items() if said.get("collapse")]
    stages = {
        stage.name: f"sal {stage.verb} {of.model} --recipe {stage.recipe}" + (f", from {stage.init}" if stage.init else "")
        for stage in of.stages
    }
    losses = {name: f"loss {said['last']['loss']:.4f} in the last epoch" for name, said in done.items() if "last" in said}
    title = f"{of.model}/{of.name}"
    return document(
        title,
        [
            header("Chain", title, {"stages": len(of.stages), "done": len(done)}), notice([of.about]),
            section("Top-1 in percent", table(TITLES, lines, left=WORDS)), notice([*rules, *verdicts]),
            section("Stages", pairs(stages)), section("Without labels", pairs(losses)),
        ],
    )  # fmt: skip
