"""Clips as pictures: self-contained SVG without scripts, for reports and for looking at data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared_data.skeletons import Skeleton

# (left, middle, right) shades of each person, told apart also by brightness alone.
_SHADES = (("#7fb3ff", "#2f6fd0", "#123a7a"), ("#ffb27a", "#d9691f", "#7a3408"))
_MARGIN = 6.0


@dataclass(frozen=True)
class _View:
    """Maps metres to the picture: x to the right, y up, seen from the front; one scale for all frames."""

    scale: float
    left: float
    top: float

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) metres -> (..., 2) picture units."""
        x = (points[..., 0] - self.left) * self.scale + _MARGIN
        y = (self.top - points[..., 1]) * self.scale + _MARGIN
        return np.stack([x, y], -1)


def clip_svg(clip: np.ndarray, skeleton: Skeleton, *, frames: int = 8, height: int = 150, title: str = "") -> str:
    """A film strip of `frames` frames, evenly spaced over the `clip` (T, M, V, 3). Persons absent in a frame are left out."""
    clip = _clean(clip)
    picked = sorted(set(np.linspace(0, len(clip) - 1, max(1, frames)).round().astype(int).tolist())) if len(clip) else []
    view, width = _fit(clip, height)
    cells = []
    for cell, frame in enumerate(picked):
        shapes = "".join(_path(d, colour) for d, colour in _figure(view, clip[frame], skeleton) if d)
        cells.append(
            f'<g transform="translate({cell * width:.0f} 0)">{shapes}'
            f'<text x="{width / 2:.0f}" y="{height + 11}" text-anchor="middle">{frame}</text></g>'
        )
    return _svg(width * max(1, len(cells)), height + 14, "".join(cells), title or f"{len(clip)} frames")


def animated_svg(
    clip: np.ndarray,
    skeleton: Skeleton,
    *,
    fps: float = 30.0,
    frames: int = 60,
    height: int = 220,
    title: str = "",
) -> str:
    """The `clip` (T, M, V, 3) in a loop, thinned to at most `frames` pictures at the true speed; a few ten kB."""
    clip = _clean(clip)
    view, width = _fit(clip, height)
    count = min(len(clip), max(1, frames))
    picked = np.linspace(0, max(0, len(clip) - 1), count).round().astype(int)
    drawn = [_figure(view, clip[frame], skeleton) for frame in picked]
    seconds = max(len(clip) / fps, 0.1)
    shapes = []
    for part in range(len(drawn[0]) if drawn else 0):
        values = ";".join(figure[part][0] or "M0 0" for figure in drawn)
        animate = (
            f'<animate attributeName="d" dur="{seconds:.2f}s" repeatCount="indefinite" calcMode="discrete" values="{values}"/>'
        )
        shapes.append(_path(drawn[0][part][0] or "M0 0", drawn[0][part][1], animate))
    return _svg(width, height, "".join(shapes), title or f"{len(clip)} frames at {fps:g} per second")


def _clean(clip: np.ndarray) -> np.ndarray:
    """float64 without NaN or inf, which no browser can draw."""
    return np.nan_to_num(np.asarray(clip, np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _fit(clip: np.ndarray, height: int) -> tuple[_View, float]:
    """The view that shows all people of all frames at `height`, and its width."""
    present = clip.any((-1, -2))  # (T, M)
    points = clip[present].reshape(-1, 3)
    if not len(points):
        return _View(1.0, 0.0, 0.0), 40.0
    low, high = points.min(0), points.max(0)
    scale = (height - 2 * _MARGIN) / max(float(high[1] - low[1]), 1e-6)
    widest = 3.0 * height
    scale = min(scale, (widest - 2 * _MARGIN) / max(float(high[0] - low[0]), 1e-6))
    width = max(40.0, float(high[0] - low[0]) * scale + 2 * _MARGIN)
    return _View(scale, float(low[0]), float(high[1])), width


def _side(skeleton: Skeleton, joint: int) -> int:
    name = skeleton.joint_names[joint]
    return 0 if name.startswith("left") else 2 if name.startswith("right") else 1


def _figure(view: _View, people: np.ndarray, skeleton: Skeleton) -> list[tuple[str, str]]:
    """(path data, colour) for left, middle and right of every person of one frame (M, V, 3); empty data if absent."""
    parts = []
    for number, person in enumerate(people):
        shades = _SHADES[number % len(_SHADES)]
        data = ["", "", ""]
        if person.any():
            points = view(person).round(1)
            for child, parent in skeleton.edges:
                (x1, y1), (x2, y2) = points[child], points[parent]
                data[_side(skeleton, child)] += f"M{x1:g} {y1:g}L{x2:g} {y2:g}"
        parts += list(zip(data, shades, strict=True))
    return parts


def _path(data: str, colour: str, inside: str = "") -> str:
    return f'<path d="{data}" stroke="{colour}">{inside}</path>'


def _svg(width: float, height: float, content: str, title: str) -> str:
    safe = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" fill="none" stroke-width="2.5" stroke-linecap="round">'
        f'<title>{safe}</title><g font-family="sans-serif" font-size="9" fill="none">{content}</g>'
        "<style>text{fill:#777;stroke:none}</style></svg>"
    )
