"""HTML pages, of verdicts and others: no script, no address outside, readable on a phone. All that containers said is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape

from orchestrator.figures import FAILED, NONE, PASSED, Grid, plain, summary, verdict_grid, versions, vram_grid, vram_remarks
from orchestrator.verdict import Verdict

CSS = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --line: #d5dae2; --ink: #14181f; --soft: #5b6472;
  --good: #177a4b; --bad: #b8321f; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1216; --card: #181c22; --line: #2a303a; --ink: #e8ecf2; --soft: #98a2b3;
  --good: #57c78d; --bad: #ff7f6b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 8px; }
.soft { color: var(--soft); } .good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.wide, details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 16px;
  margin: 0 0 12px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; } .wide table { width: 100%; }
caption { text-align: left; font-weight: 600; padding-bottom: 6px; }
th, td { text-align: left; vertical-align: top; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); }
.wide th, .wide td { overflow-wrap: normal; }
thead th { color: var(--soft); font-weight: 600; font-size: 13px; vertical-align: bottom; }
tbody th { font-weight: 600; } tr:last-child > * { border-bottom: 0; }
.num { text-align: right; font-variant-numeric: tabular-nums; } td.num { white-space: nowrap; }
summary { cursor: pointer; font-weight: 600; } details h3 { font-size: 15px; margin: 16px 0 4px; }
dl { display: grid; grid-template-columns: fit-content(45%) 1fr; gap: 2px 16px; margin: 8px 0; }
dt { color: var(--soft); } dd { margin: 0; }
pre { overflow-x: auto; background: var(--page); border: 1px solid var(--line); border-radius: 8px; padding: 8px 12px;
  font-size: 13px; }
@media (max-width: 720px) { main { padding: 20px 12px; } }
"""
_STYLES = {PASSED: "good", FAILED: "bad", "comfortable": "good", "fits": "good", "no": "bad", "done": "good", "failed": "bad"}
_HEAD = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
)


def page(verdicts: Sequence[Verdict], models: Sequence[str], when: datetime) -> str:
    """The document. `models`: all that were asked about, in their order; `when`: the end of the run, with its time zone."""
    grid, vram = verdict_grid(verdicts), vram_grid(verdicts)
    parts = [_facts(_host(verdicts)), table(grid, links=True)]
    if vram is not None:
        parts.append(f"<h2>GPU memory</h2>\n{table(vram)}")
        remarks = "".join(f"<li>{_text(remark)}</li>" for remark in vram_remarks(verdicts))
        parts.append(f"<ul>{remarks}</ul>" if remarks else "")
    parts.append("<h2>Each model</h2>")
    titles = [column.title for column in grid.columns]
    parts += [
        _details(i, verdict, dict(zip(titles, row, strict=True)))
        for i, (verdict, row) in enumerate(zip(verdicts, grid.rows, strict=True))
    ]
    return document(f"Smoke tests: {summary(verdicts, models)}", when, parts)


def document(title: str, when: datetime, parts: Sequence[str]) -> str:
    """A page of these parts, which are HTML; the title is text."""
    told = _text(title)
    head = [
        f"{_HEAD}<title>{told}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n<h1>{told}</h1>",
        f'<p class="soft"><time datetime="{when.isoformat(timespec="seconds")}">{when:%Y-%m-%d %H:%M %Z}</time></p>',
    ]
    return "\n".join(part for part in (*head, *parts) if part) + "\n</main>\n</body>\n</html>\n"


def _text(value: object) -> str:
    """Anything, as text that is safe between tags and inside quoted attributes."""
    return escape(plain(str(value)))


def _host(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """What the containers found: device, GPU and versions; where they differ, all of them."""
    found: dict[str, list[str]] = {}
    for verdict in verdicts:
        told = {name: str(verdict.result[key]) for name, key in (("device", "device"), ("GPU", "gpu")) if verdict.result.get(key)}
        for name, value in {**told, **versions(verdict)}.items():
            if value not in found.setdefault(name, []):
                found[name].append(value)
    return {name: ", ".join(values) for name, values in found.items()}


def _facts(facts: Mapping[str, str]) -> str:
    return (
        "<dl>" + "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items()) + "</dl>"
        if facts
        else ""
    )


def table(grid: Grid, *, links: bool = False) -> str:
    """A table whose rows are headed by their first cell; it scrolls sideways by itself. `links`: to what is told of each."""
    numbers = [' class="num"' if column.number else "" for column in grid.columns]
    head = "".join(
        f'<th scope="col"{number}>{_text(column.title)}</th>' for column, number in zip(grid.columns, numbers, strict=True)
    )
    body = ""
    for i, (name, *cells) in enumerate(grid.rows):
        model = f'<a href="#m{i}">{_text(name)}</a>' if links else _text(name)
        body += f'<tr><th scope="row">{model}</th>'
        body += "".join(f"<td{number}>{_worded(cell)}</td>" for cell, number in zip(cells, numbers[1:], strict=True)) + "</tr>\n"
    title = _text(grid.title)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}"><table><caption>{title}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def _worded(word: str) -> str:
    """A verdict in its colour, anything else as it is."""
    return f'<span class="{_STYLES[word]}">{word}</span>' if word in _STYLES else _text(word)


def _details(i: int, verdict: Verdict, figures: Mapping[str, str]) -> str:
    """All that is known of one model; open where it failed."""
    word = PASSED if verdict.passed else FAILED
    parts = [f'<details id="m{i}"{"" if verdict.passed else " open"}><summary>{_text(verdict.model)}: {_worded(word)}</summary>']
    if not verdict.passed:
        parts.append(_facts({"reason": verdict.reason, "next step": verdict.next_step or NONE}))
    assertions = verdict.result.get("assertions")
    if isinstance(assertions, dict) and assertions:
        rows = "".join(
            f'<tr><th scope="row">{_text(name)}</th><td>{_held(holds is True)}</td></tr>' for name, holds in assertions.items()
        )
        parts.append(
            '<h3>Assertions</h3><table><thead><tr><th scope="col">assertion</th><th scope="col">result</th></tr></thead>'
            f"<tbody>{rows}</tbody></table>"
        )
    told_elsewhere = ("model", "verdict", "python", "torch", "CUDA")
    measured = {name: value for name, value in figures.items() if value != NONE and name not in told_elsewhere}
    parts.append(f"<h3>Figures</h3>{_facts(measured)}")
    if told := versions(verdict):
        parts.append(f"<h3>Versions</h3>{_facts(told)}")
    if verdict.command:
        parts.append(f'<h3>By hand</h3><pre tabindex="0">{_text(verdict.command)}</pre>')
    if verdict.log_tail:
        lines = "\n".join(_text(line) for line in verdict.log_tail)
        parts.append(f'<h3>End of the log</h3><pre tabindex="0">{lines}</pre>')
    return "\n".join(parts) + "\n</details>"


def _held(holds: bool) -> str:
    return '<span class="good">holds</span>' if holds else '<span class="bad">does not hold</span>'
