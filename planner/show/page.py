"""The answers as one HTML file, `plan.html`: bars of what each recipe takes of the card. No script, no address outside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from engine.report.style import CSS
from planner.answers import Answer, Question
from planner.card.budget import COMFORTABLE, FITS, GIB
from planner.duration import told_seconds
from planner.show.table import UNKNOWN, card_name, facts, footnote, grouped, next_step, percent, remarks
from planner.verdict import Verdict

OWN = """
.plan td { vertical-align: middle; } .plan svg { width: 320px; height: 26px; }
.comfortable { fill: var(--good); color: var(--good); } .fits { fill: var(--one); color: var(--one); }
.tight { fill: var(--two); color: var(--two); } .no { fill: var(--bad); color: var(--bad); } .faded { opacity: .35; }
.mark { stroke: var(--soft); stroke-dasharray: 3 3; } details summary { cursor: pointer; } .plan dl { margin: 6px 0; }
.plan dt { font-weight: 600; } .plan dd { margin: 0 0 4px; }
"""
BEGINS = (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Will it train on '
)
"""How such a page begins."""
ARROW = '<path class="no" d="M306 5 L320 13 L306 21 Z"/>'
"""Behind a bar that does not fit the page."""
WIDTH, SCALE = 320, 1.25
"""Pixels of a bar, and the share of the usable memory at its end."""


def page(answers: Sequence[Answer], question: Question) -> str:
    """The document."""
    card = escape(card_name(question))
    rows = "".join(_row(answer) for answer in answers)
    said = "".join(f"<li><b>{escape(grouped(names))}</b>: {escape(text)}</li>" for text, names in remarks(answers).items())
    return (
        f"{BEGINS}{card}?</title><style>{CSS}{OWN}</style></head>\n<body><main><h1>Will it train on {card}?</h1>"
        f'<p class="soft lead">Bars: what training reserves, likely (dark) and at most (pale); the lines are {COMFORTABLE:.0%}, '
        f"{FITS:.0%} and all of the {question.budget.usable / GIB:.2f} GiB that the card can give. A recipe opens for "
        "all figures.</p>"
        '<figure class="card plan"><table><tr><th>recipe</th><th>training</th><th>verdict</th><th class="num">GiB train</th>'
        '<th class="num">eval</th><th class="num">largest batch</th><th class="num">longest window</th>'
        '<th class="num">epoch</th></tr>'
        f"{rows}</table></figure><h2>What makes the tight ones fit</h2><ul>{said or '<li>nothing is needed</li>'}</ul>"
        f"<p>Next: <code>{escape(next_step(question, answers[0] if len(answers) == 1 else None))}</code></p>"
        f'<p class="soft">{escape(footnote(answers, question))}</p></main></body></html>\n'
    )


def _row(answer: Answer) -> str:
    name = f"{answer.model} {answer.recipe}"
    verdict = answer.verdict
    if verdict is None:
        return f'<tr><td>{escape(name)}</td><td colspan="7">not judged: {escape(answer.problem)}</td></tr>'
    epoch = answer.duration.epoch if answer.duration else None
    figures = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts(answer, verdict))
    return (
        f"<tr><td><details><summary>{escape(name)}</summary><dl>{figures}</dl>{_ladder(answer, verdict)}</details></td>"
        f'<td>{_bar(verdict)}</td><td class="{verdict.word}"><b>{verdict.word}</b> {percent(verdict.share)}</td>'
        f'<td class="num">{verdict.train.point / GIB:.2f}</td><td class="num">{verdict.eval.point / GIB:.2f}</td>'
        f'<td class="num">{verdict.largest_batch or "none"}</td>'
        f'<td class="num">{UNKNOWN if answer.window is None else answer.window or "none"}</td>'
        f'<td class="num">{told_seconds(epoch.point) if epoch else UNKNOWN}</td></tr>'
    )


def _ladder(answer: Answer, verdict: Verdict) -> str:
    """The levers one by one, where they were asked for."""
    rows = "".join(
        f"<li>{escape(rung.option.flags or 'as asked')}: at most {percent(verdict.budget.share(rung.peak))}, "
        f"numbers {'change' if rung.option.changes else 'stay'}{' (what --fit takes)' if rung.chosen else ''}</li>"
        for rung in answer.ladder
    )
    return f"<p>Levers, the cheapest first</p><ol>{rows}</ol>" if rows else ""


def _bar(verdict: Verdict) -> str:
    point, high = verdict.train.point / verdict.budget.usable, verdict.train.high / verdict.budget.usable
    return (
        f'<svg viewBox="0 0 {WIDTH} 26" role="img" aria-label="{high:.0%} of the card at most">'
        f'<rect class="{verdict.word} faded" x="0" y="6" width="{_x(high):.1f}" height="14"/>'
        f'<rect class="{verdict.word}" x="0" y="6" width="{_x(point):.1f}" height="14"/>{"".join(_marks())}'
        f"{ARROW if high > SCALE else ''}</svg>"
    )


def _marks() -> Iterator[str]:
    for share in (COMFORTABLE, FITS, 1.0):
        yield f'<line class="mark" x1="{_x(share):.1f}" x2="{_x(share):.1f}" y1="2" y2="24"/>'


def _x(share: float) -> float:
    return min(share, SCALE) / SCALE * WIDTH
