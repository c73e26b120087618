"""What pages are made of: the document, its sections, lists and tables. Every string from outside is escaped here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from engine.report.style import CSS

DASH = "–"


def document(title: str, sections: Iterable[str], *, made_by: str = "") -> str:
    """The page around `sections`, which are HTML.

    made_by  what wrote it, near the beginning of the file: by it a page of one's own is known from a stranger's
    """
    maker = f'<meta name="generator" content="{escape(made_by)}">' if made_by else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{maker}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body><main>{''.join(sections)}</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A heading over `body`, which is HTML; nothing where that is empty."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def header(kind: str, title: str, tags: Mapping[str, Any]) -> str:
    """The top of a page; tags without a value are left out."""
    told = {name: str(value) for name, value in tags.items() if value not in (None, "", DASH)}
    chips = "".join(f'<span class="tag">{escape(name)} <b>{escape(value)}</b></span>' for name, value in told.items())
    return f'<header><p class="soft">{escape(kind)}</p><h1>{escape(title)}</h1><div class="tags">{chips}</div></header>'


def notice(lines: Iterable[str]) -> str:
    """What to know before reading on; nothing where there are no lines."""
    told = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f'<div class="notice">{told}</div>' if told else ""


def tile(name: str, share: float | None, lines: Sequence[str], *, first: bool = False) -> str:
    """A figure to be quoted, with what to know about it below."""
    value = DASH if share is None else f"{100 * share:.1f}&hairsp;%"
    small = "".join(f"<small>{escape(line)}</small>" for line in lines)
    return (
        f'<div class="card tile{" first" if first else ""}"><div class="name">{escape(name)}</div>'
        f'<div class="value">{value}</div>{small}</div>'
    )


def pairs(values: Mapping[str, Any]) -> str:
    """A two-column list of names and values."""
    rows = "".join(f"<div><span>{escape(name)}</span><b>{escape(_plain(value))}</b></div>" for name, value in values.items())
    return f'<div class="card pairs">{rows}</div>' if rows else ""


def table(titles: Sequence[str], rows: Iterable[Sequence[str | float | None]], *, left: Collection[str] = ()) -> str:
    """A table in which a number is a share with its bar and None says that there are no clips; columns in `left` are words."""
    styles = ["" if title in left else "num" for title in titles]
    head = "".join(f'<th class="{style}">{escape(title)}</th>' for title, style in zip(titles, styles, strict=True))
    lines = []
    for row in rows:
        cells = (f'<td class="{style}">{_cell(value)}</td>' for value, style in zip(row, styles, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _cell(value: str | float | None) -> str:
    if value is None:
        return "no clips"
    if isinstance(value, str):
        return escape(value)
    return f'{value:.1%}<span class="bar"><i style="width:{100 * value:.1f}%"></i></span>'


def _plain(value: Any) -> str:
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=str) if value else DASH
    return str(value)
