"""Inline SVG: line charts and the confusion matrix. Colours come from the page's CSS, so both themes work."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 30


@dataclass(frozen=True)
class Series:
    """One line: `name` for the legend, `style` a CSS class ("one", "two"), points (x, y) in order of x."""

    name: str
    style: str
    points: list[tuple[float, float]]


def line_chart(
    title: str, series: Sequence[Series], show: Callable[[float], str], *, logarithmic: bool = False, axis: str = "epoch"
) -> str:
    """A figure with `series` over epochs or what `axis` says (x, from 1); `show` writes a y value. Empty series are left out."""
    drawn = [line for line in series if line.points]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    x_low, x_high = min(xs), max(xs)
    ticks = _log_ticks(min(ys), max(ys)) if logarithmic else _ticks(min(ys), max(ys))
    low, high = min(ticks[0], *ys), max(ticks[-1], *ys)

    def px(x: float) -> float:
        span = x_high - x_low
        return LEFT + (WIDTH - LEFT - RIGHT) * ((x - x_low) / span if span else 0.5)

    def py(y: float) -> float:
        scale = math.log if logarithmic else float
        span = scale(high) - scale(low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * ((scale(y) - scale(low)) / span if span else 0.5)

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{escape(show(y))}</text>'
        for y in ticks
    ]
    for x in whole_ticks(x_low, x_high):
        parts.append(f'<text class="tick" x="{px(x):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{x}</text>')
    parts.append(f'<text class="tick" x="{LEFT - 8}" y="{HEIGHT - 10}" text-anchor="end">{escape(axis)}</text>')
    for line in drawn:
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        radius = 3 if len(line.points) <= 30 else 1.6
        parts += [
            f'<circle class="dot {line.style}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="{radius}">'
            f"<title>{escape(line.name)}, {escape(axis)} {x:g}: {escape(show(y))}</title></circle>"
            for x, y in line.points
        ]
    legend = " ".join(
        f'<span class="key {line.style}"></span>{escape(line.name)} <b>{escape(show(line.points[-1][1]))}</b>' for line in drawn
    )
    return (
        f'<figure class="card chart"><figcaption><span>{escape(title)}</span><span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title} over {axis}s")}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """About four round values around [low, high]; the axis of what cannot be negative starts at zero."""
    low = min(low, 0.0)
    span = (high - low) or abs(high) or 1.0
    raw = span / 4
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    step = max(1, (last - first) // 4)
    return [10.0**power for power in range(first, max(last, first + 1) + 1, step)]


def whole_ticks(low: float, high: float) -> list[int]:
    """At most eight whole numbers from `low` to `high`."""
    first, last = math.ceil(low), math.floor(high)
    step = next(s for power in itertools.count() for s in (10**power, 2 * 10**power, 5 * 10**power) if (last - first) / s <= 7)
    start = first if step == 1 else -(-first // step) * step
    return list(range(start, last + 1, step))


def confusion_matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Rows are the truth and sum to 1: right answers on the diagonal in one hue, wrong ones beside it in another.

    Up to 120 classes; each cell that is not empty tells its numbers when pointed at. Names are written where there is room.
    """
    classes = len(counts)
    cell = max(6, min(44, 780 // max(classes, 1)))
    named = classes <= 75
    across = classes <= 24
    left = 8 + (min(190, 6 * max((len(_short(name)) for name in names), default=1) + 16) if named else 34)
    top = 8 + (min(130, int(4.1 * max((len(_short(name)) for name in names), default=1)) + 16) if across else 26)
    size = classes * cell
    parts = [f'<rect class="field" x="{left}" y="{top}" width="{size}" height="{size}"/>']
    for row, line in enumerate(counts):
        total = sum(line)
        y = top + row * cell
        for column, count in enumerate(line):
            if not count:
                continue
            share = count / total
            kind = "right" if row == column else "wrong"
            x = left + column * cell
            tip = f"{names[row]} taken for {names[column]}" if row != column else f"{names[row]} recognised"
            parts.append(
                f'<rect class="{kind}" x="{x}" y="{y}" width="{cell}" height="{cell}" fill-opacity="{_strength(share):.2f}">'
                f"<title>{escape(tip)}: {count} of {total} ({share:.1%})</title></rect>"
            )
            if cell >= 30:
                tone = "strong" if _strength(share) > 0.55 else "weak"
                parts.append(
                    f'<text class="share {tone}" x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}">{100 * share:.0f}</text>'
                )
    parts += _labels(names, cell=cell, left=left, top=top, named=named, across=across)
    width, height = left + size + (70 if across else 10), top + size + 10
    return (
        f'<svg class="matrix" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        f'aria-label="confusion matrix of {classes} classes">{"".join(parts)}</svg>'
    )


def _strength(share: float) -> float:
    """Opacity: the square root shows rare confusions too."""
    return 0.06 + 0.94 * math.sqrt(share)


def _short(name: str) -> str:
    return name if len(name) <= 26 else name[:25] + "…"


def _labels(names: Sequence[str], *, cell: int, left: int, top: int, named: bool, across: bool) -> list[str]:
    """Class names beside the rows and above the columns; where there is no room, numbers, and not all of them."""
    size = 12 if cell >= 16 else max(8, cell - 1)
    every = 1 if cell >= 10 else 5
    parts = []
    for index, name in enumerate(names):
        middle = cell * index + cell / 2
        text = _short(name) if named else str(index)
        if named or index % every == 0:
            parts.append(
                f'<text class="label" font-size="{size}" x="{left - 6}" y="{top + middle + size * 0.36:.1f}" '
                f'text-anchor="end">{escape(text)}</text>'
            )
        if across:
            x, y = left + middle, top - 7
            parts.append(
                f'<text class="label" font-size="{size}" transform="translate({x:.1f} {y}) rotate(-40)">{escape(text)}</text>'
            )
        elif index % 5 == 0:
            parts.append(
                f'<text class="label" font-size="{max(size, 9)}" x="{left + middle:.1f}" y="{top - 7}" '
                f'text-anchor="middle">{index}</text>'
            )
    return parts
