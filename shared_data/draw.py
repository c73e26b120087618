"""Clips as pictures: self-contained SVG without scripts, for reports and for looking at data.

`raster` draws the same figures as PNG and GIF.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import numpy as np

from shared_data.skeletons import Skeleton

# (left, middle, right) shades of each person, told apart also by brightness alone.
SHADES = (("#7fb3ff", "#2f6fd0", "#123a7a"), ("#ffb27a", "#d9691f", "#7a3408"))
SIDES = ("left", "middle", "right")
MADE_BY = "sal data show"  # what pictures say about their origin
LINE, DOT = 2.5, 5.0  # thickness of a bone, diameter of a joint
CAPTION = 14  # room for the frame number below a picture of a film strip
_MARGIN = 6.0


@dataclass(frozen=True)
class View:
    """Maps metres to the picture: x to the right, y up, seen from the front; one scale for all frames and both axes."""

    scale: float
    left: float
    top: float

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) metres -> (..., 2) picture units."""
        x = (points[..., 0] - self.left) * self.scale + _MARGIN
        y = (self.top - points[..., 1]) * self.scale + _MARGIN
        return np.stack([x, y], -1)


@dataclass(frozen=True)
class Strokes:
    """One colour of one person in one frame: bones (B, 2, 2) from child to parent and joints (J, 2), in picture units."""

    colour: str
    bones: np.ndarray
    joints: np.ndarray
    numbers: tuple[int, ...]  # which joints


def clip_svg(
    clip: np.ndarray, skeleton: Skeleton, *, frames: int = 8, height: int = 150, title: str = "", joints: bool = False
) -> str:
    """A film strip of `frames` frames, evenly spaced over the `clip` (T, M, V, 3). Persons absent in a frame are left out.

    joints  draw them too, each with its name as a tooltip
    """
    clip = clean(clip)
    view, width = fit(clip, height)
    cells = []
    for cell, frame in enumerate(spread(len(clip), frames)):
        drawn = strokes(view, clip[frame], skeleton)
        shapes = "".join(_path(_lines(part), part.colour) for part in drawn if len(part.bones))
        if joints:
            shapes += "".join(_named_joints(part, skeleton) for part in drawn)
        cells.append(
            f'<g transform="translate({cell * width:.0f} 0)">{shapes}'
            f'<text x="{width / 2:.0f}" y="{height + 11}" text-anchor="middle">{frame}</text></g>'
        )
    return _svg(width * max(1, len(cells)), height + CAPTION, "".join(cells), title or f"{len(clip)} frames")


def animated_svg(
    clip: np.ndarray,
    skeleton: Skeleton,
    *,
    fps: float = 30.0,
    frames: int = 60,
    height: int = 220,
    title: str = "",
    joints: bool = False,
) -> str:
    """The `clip` (T, M, V, 3) in a loop, thinned to at most `frames` pictures at the true speed; a few ten kB."""
    clip = clean(clip)
    view, width = fit(clip, height)
    drawn = [strokes(view, clip[frame], skeleton) for frame in thinned(len(clip), frames)]
    seconds = max(len(clip) / fps, 0.1)
    kinds: list[tuple[Callable[[Strokes], str], float]] = [(_lines, LINE), *([(_dots, DOT)] if joints else [])]
    shapes = []
    for part in range(len(drawn[0]) if drawn else 0):
        for outline, thickness in kinds:
            values = [outline(figure[part]) or "M0 0" for figure in drawn]
            animate = (
                f'<animate attributeName="d" dur="{seconds:.2f}s" repeatCount="indefinite" calcMode="discrete" '
                f'values="{";".join(values)}"/>'
            )
            shapes.append(_path(values[0], drawn[0][part].colour, thickness, animate))
    return _svg(width, height, "".join(shapes), title or f"{len(clip)} frames at {fps:g} per second")


def embedded(svg: str) -> str:
    """The `svg` for use inside HTML, where it needs no namespace declaration; without it the page holds no address at all."""
    return svg.replace(' xmlns="http://www.w3.org/2000/svg"', "")


def spread(length: int, count: int) -> list[int]:
    """At most `count` different frames, evenly from the first to the last of `length`."""
    return sorted(set(np.linspace(0, length - 1, max(1, count)).round().astype(int).tolist())) if length else []


def thinned(length: int, count: int) -> list[int]:
    """Exactly min(length, count) frames in order, from the first to the last of `length`."""
    picked: list[int] = np.linspace(0, max(0, length - 1), min(length, max(1, count))).round().astype(int).tolist()
    return picked


def clean(clip: np.ndarray) -> np.ndarray:
    """float64 without NaN or inf, which nothing can draw."""
    return np.nan_to_num(np.asarray(clip, np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def turned(clip: np.ndarray, degrees: float) -> np.ndarray:
    """The `clip` (..., 3) as seen after turning it about the vertical axis; absent people stay all zero."""
    angle = np.deg2rad(degrees)
    x, y, z = np.moveaxis(np.asarray(clip, np.float64), -1, 0)
    return np.stack([np.cos(angle) * x + np.sin(angle) * z, y, np.cos(angle) * z - np.sin(angle) * x], -1)


def fit(clip: np.ndarray, height: int) -> tuple[View, float]:
    """The view that shows all people of all frames at `height`, and its width."""
    present = clip.any((-1, -2))  # (T, M)
    points = clip[present].reshape(-1, 3)
    if not len(points):
        return View(1.0, 0.0, 0.0), 40.0
    low, high = points.min(0), points.max(0)
    scale = (height - 2 * _MARGIN) / max(float(high[1] - low[1]), 1e-6)
    widest = 3.0 * height
    scale = min(scale, (widest - 2 * _MARGIN) / max(float(high[0] - low[0]), 1e-6))
    width = max(40.0, float(high[0] - low[0]) * scale + 2 * _MARGIN)
    return View(scale, float(low[0]), float(high[1])), width


def strokes(view: View, people: np.ndarray, skeleton: Skeleton) -> list[Strokes]:
    """Left, middle and right of every person of one frame (M, V, 3), all of them empty if the person is absent."""
    sides = [_side(skeleton, joint) for joint in range(skeleton.joints)]
    parts = []
    for number, person in enumerate(people):
        points = view(person).round(1)
        for side, colour in enumerate(SHADES[number % len(SHADES)]):
            edges = [edge for edge in skeleton.edges if sides[edge[0]] == side] if person.any() else []
            joints = tuple(joint for joint in range(skeleton.joints) if sides[joint] == side) if person.any() else ()
            bones = points[np.array(edges, int).reshape(-1, 2)]
            parts.append(Strokes(colour, bones, points[list(joints)], joints))
    return parts


def _side(skeleton: Skeleton, joint: int) -> int:
    name = skeleton.joint_names[joint]
    return 0 if name.startswith("left") else 2 if name.startswith("right") else 1


def _lines(part: Strokes) -> str:
    return "".join(f"M{x1:g} {y1:g}L{x2:g} {y2:g}" for (x1, y1), (x2, y2) in part.bones)


def _dots(part: Strokes) -> str:
    return "".join(f"M{x:g} {y:g}h0" for x, y in part.joints)  # a line of no length has round ends only


def _named_joints(part: Strokes, skeleton: Skeleton) -> str:
    start = f'<circle r="{DOT / 2:g}" fill="{part.colour}"'
    return "".join(
        f'{start} cx="{x:g}" cy="{y:g}"><title>{skeleton.joint_names[joint]}</title></circle>'
        for joint, (x, y) in zip(part.numbers, part.joints, strict=True)
    )


def _path(data: str, colour: str, thickness: float = LINE, inside: str = "") -> str:
    wide = "" if thickness == LINE else f' stroke-width="{thickness:g}"'
    return f'<path d="{data}" stroke="{colour}"{wide}>{inside}</path>'


def _svg(width: float, height: float, content: str, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" fill="none" stroke-width="{LINE:g}" stroke-linecap="round">'
        f'<title>{escape(title, quote=False)}</title><g font-family="sans-serif" font-size="9" fill="none">{content}</g>'
        "<style>text{fill:#777;stroke:none}</style></svg>"
    )
