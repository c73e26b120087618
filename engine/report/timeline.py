"""The frames of a sequence from left to right: what is true, what a segmenter said, and how sure it was.

Runs are drawn, not frames, so a sequence of ten thousand frames takes a few kB. A class has the same colour on every page; hues
repeat in another tone and striped, and runs with room for it bear the number of their class, for whoever sees colours otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

from engine.report.charts import whole_ticks
from engine.segmentation.intervals import runs
from engine.segmentation.metrics import excluded
from engine.segmentation.predictions import UNKNOWN, Predictions

WIDTH, LEFT, RIGHT = 1060, 84, 62
SPAN = WIDTH - LEFT - RIGHT  # what the frames share
ROW, MISSES, GAP, CURVE, AXIS = 20, 4, 7, 32, 20
MOST_TOLD = 400  # runs of a row that each say their frames; of more than that only the class is said
MOST_POINTS = 300  # of a curve

# Nine hues that differ in lightness too; after the "muted" scheme of Paul Tol, "Colour Schemes", SRON/EPS/TN/09-002, the darkest
# of them lightened for a dark page.
HUES = ("#cc6677", "#4a3fa8", "#ddcc77", "#2a8a4a", "#88ccee", "#993366", "#44aa99", "#999933", "#aa4499")
TONES, STRIPES = 2, 3  # a hue as it is and paler; without, with one and with two stripes along the row


@dataclass(frozen=True)
class Drawing:
    """SVG shapes in a field of `WIDTH` by `height`."""

    shapes: str
    height: int


def drawing(one: Predictions, *, fps: float | None = None) -> Drawing:
    """The timeline of a single sequence. The refined row is left out where a network without boundaries says the same twice.

    fps  frames per second, for an axis in seconds instead of frames
    """
    frames, known = int(one.lengths[0]), one.truth != UNKNOWN
    rows = [("predicted", one.predicted)]
    if one.has_boundaries or (one.predicted != one.refined).any():
        rows.append(("refined", one.refined))
    shapes, y = [], 0
    if known.any():
        shapes.append(_row("truth", one.truth, one.class_names, y))
        y += ROW + GAP
    for name, labels in rows:
        shapes.append(_row(name, labels, one.class_names, y))
        if known.any():
            missed = known & (labels != one.truth)
            right = 1 - missed.sum() / known.sum()
            shapes.append(_misses(missed, y + ROW))
            shapes.append(f'<text class="tick" x="{WIDTH - RIGHT + 8}" y="{y + 15}">{right:.1%}</text>')
            y += MISSES
        y += ROW + GAP
    shapes.append(_curves(one, y))
    y += CURVE + 2
    shapes.append(_axis(frames, fps, y))
    return Drawing("".join(shapes), y + AXIS)


def timeline(one: Predictions, *, fps: float | None = None) -> str:
    """The `drawing` as a picture of its own."""
    drawn = drawing(one, fps=fps)
    label = escape(f"timeline of {one.ids[0]}")
    return f'<svg class="timeline" viewBox="0 0 {WIDTH} {drawn.height}" role="img" aria-label="{label}">{drawn.shapes}</svg>'


def legend(predictions: Iterable[Predictions]) -> str:
    """The classes that occur in `predictions`, by number; with what their colours are made of."""
    shown: dict[int, str] = {}
    idle: set[int] = set()
    for one in predictions:
        idle |= set(excluded(one.class_names))
        for labels in (one.truth, one.predicted, one.refined):
            shown |= {int(k): one.class_names[k] for k in np.unique(labels) if k != UNKNOWN}
    keys = "".join(
        f'<span><svg class="swatch" viewBox="0 0 18 14"><rect width="18" height="14" {_paint(k, idle)}/></svg>'
        f"{'' if k in idle else f'{k} '}{escape(name)}</span>"
        for k, name in sorted(shown.items())
    )
    striped = "".join(_gradient(k) for k in sorted(shown) if _stripes(k))
    definitions = f'<svg class="definitions" aria-hidden="true"><defs>{striped}</defs></svg>' if striped else ""
    return f'{definitions}<div class="classes">{keys}</div>'


def colour(class_id: int) -> str:
    """The hue of a class in its tone, as #rrggbb."""
    hue = HUES[class_id % len(HUES)]
    if class_id // len(HUES) % TONES == 0:
        return hue
    return "#" + "".join(f"{(int(hue[at : at + 2], 16) + 255) // 2:02x}" for at in (1, 3, 5))


def _stripes(class_id: int) -> int:
    return class_id // (len(HUES) * TONES) % STRIPES


def _gradient(class_id: int) -> str:
    """The colour with sharp stripes across the height, which a row squeezed to thousands of frames leaves as they are."""
    edges = {1: (0.36, 0.64), 2: (0.18, 0.38, 0.62, 0.82)}[_stripes(class_id)]
    stops, tones = [], [colour(class_id), "#ffffff"]
    for n, (start, end) in enumerate(pairwise((0.0, *edges, 1.0))):
        stops += [f'<stop offset="{at:g}" stop-color="{tones[n % 2]}"/>' for at in (start, end)]
    return f'<linearGradient id="class-{class_id}" x1="0" y1="0" x2="0" y2="1">{"".join(stops)}</linearGradient>'


def _paint(class_id: int, idle: Collection[int]) -> str:
    """How a class is filled; those that are no action, `idle`, alike."""
    if class_id in idle:
        return 'class="idle"'
    return f'fill="url(#class-{class_id})"' if _stripes(class_id) else f'fill="{colour(class_id)}"'


def _row(caption: str, labels: np.ndarray, names: Sequence[str], y: int) -> str:
    """A row of runs, in units of frames across and of the row's height down."""
    found = list(zip(*(part.tolist() for part in runs(labels)), strict=True))
    shapes = _told(found, names) if len(found) <= MOST_TOLD else _merged(found, names)
    idle, numbers = excluded(names), []
    for k, start, end in found:
        middle, room = LEFT + SPAN * (start + end) / 2 / len(labels), SPAN * (end - start) / len(labels)
        if k not in (UNKNOWN, *idle) and room >= 7 * len(str(k)) + 6:
            tone = "dark" if _stripes(k) or _lightness(colour(k)) > 0.5 else "light"
            numbers.append(f'<text class="number {tone}" x="{middle:.1f}" y="{y + 14}">{k}</text>')
    return (
        f'<text class="label" font-size="12" x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(caption)}</text>'
        f'<rect class="field" x="{LEFT}" y="{y}" width="{SPAN}" height="{ROW}"/>'
        f'<g data-row="{escape(caption)}" transform="{_scaled(len(labels), y, ROW)}">{shapes}</g>{"".join(numbers)}'
    )


def _told(found: Sequence[tuple[int, int, int]], names: Sequence[str]) -> str:
    """Each run by itself, with its frames when pointed at."""
    idle, shapes = excluded(names), []
    for k, start, end in found:
        what = "nobody labelled this" if k == UNKNOWN else f"{names[k]} ({k})"
        paint = 'class="unknown"' if k == UNKNOWN else _paint(k, idle)
        tip = f"{what}: frames {start} to {end - 1}, {end - start} long"
        shapes.append(f'<rect x="{start}" width="{end - start}" height="1" {paint}><title>{escape(tip)}</title></rect>')
    return "".join(shapes)


def _merged(found: Sequence[tuple[int, int, int]], names: Sequence[str]) -> str:
    """All runs of a class as one shape."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for k, start, end in found:
        spans.setdefault(k, []).append((start, end))
    idle, shapes = excluded(names), []
    for k in sorted(spans.keys() - {UNKNOWN}):
        tip = f"{names[k]} ({k}): {len(spans[k])} runs"
        shapes.append(f'<path d="{_path(spans[k])}" {_paint(k, idle)}><title>{escape(tip)}</title></path>')
    return "".join(shapes)


def _misses(missed: np.ndarray, y: int) -> str:
    """Where a row is wrong, in a strip below it."""
    found = runs(missed.astype(np.int64), ignore=(0,))
    if not len(found.start):
        return ""
    tip = f"wrong in {int(missed.sum())} of {len(missed)} frames"
    spans = list(zip(found.start.tolist(), found.end.tolist(), strict=True))
    return f'<path class="miss" transform="{_scaled(len(missed), y, MISSES - 1)}" d="{_path(spans)}"><title>{tip}</title></path>'


def _path(spans: Iterable[tuple[int, int]]) -> str:
    return "".join(f"M{start} 0h{end - start}v1h{start - end}z" for start, end in spans)


def _scaled(frames: int, y: int, height: int) -> str:
    return f"translate({LEFT} {y}) scale({SPAN / frames:.8g} {height})"


def _curves(one: Predictions, y: int) -> str:
    """Confidence and, of a network that has it, the probability of a boundary, both from 0 to 1."""
    text = f'<text class="label" font-size="12" x="{LEFT - 8}" y="{{}}" text-anchor="end">{{}}</text>'
    parts = [f'<rect class="field" x="{LEFT}" y="{y}" width="{SPAN}" height="{CURVE}"/>', text.format(y + 13, "confidence")]
    parts.append(_curve(one.confidence, "one", y, "confidence: the probability of the predicted class"))
    if one.has_boundaries:
        parts.append(text.format(y + 27, "boundary"))
        parts.append(_curve(one.boundary, "two", y, "probability of a boundary", peaks=True))
    return "".join(parts)


def _curve(values: np.ndarray, style: str, y: int, name: str, *, peaks: bool = False) -> str:
    """A line in steps; of a long sequence, means or `peaks` of so many neighbours."""
    starts = np.arange(0, len(values), -(-len(values) // MOST_POINTS))
    ends = np.append(starts[1:], len(values))
    exact = values.astype(np.float64)
    heights = np.maximum.reduceat(exact, starts) if peaks else np.add.reduceat(exact, starts) / (ends - starts)
    points = []
    for start, end, height in zip(starts.tolist(), ends.tolist(), heights.tolist(), strict=True):
        at = f"{y + CURVE - 1 - (CURVE - 2) * height:.1f}"
        points += [f"{LEFT + SPAN * place / len(values):.1f},{at}" for place in (start, end)]
    return f'<polyline class="line {style}" points="{" ".join(points)}"><title>{escape(name)}</title></polyline>'


def _axis(frames: int, fps: float | None, y: int) -> str:
    """Marks in seconds, or in frames where nothing says how many there are in a second."""
    whole, unit, name = (frames / fps, " s", "time") if fps else (float(frames), "", "frame")
    parts = [f'<text class="label" font-size="12" x="{LEFT - 22}" y="{y + 14}" text-anchor="end">{name}</text>']
    for tick in whole_ticks(0, whole):
        x = f"{LEFT + SPAN * tick / whole:.1f}"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{y - 2}" y2="{y + 2}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{y + 14}" text-anchor="middle">{tick:,}{unit}</text>')
    return "".join(parts)


def _lightness(value: str) -> float:
    """Of #rrggbb, 0 to 1, as weighted for televisions (ITU-R BT.601)."""
    red, green, blue = (int(value[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue
