"""One clip of a data file as a picture: an HTML page, a GIF or a PNG, by the ending of the file asked for."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from shared_data.atomic import whole_file
from shared_data.clips import Clips
from shared_data.datasets import DataSet, open_data
from shared_data.draw import MADE_BY, SHADES, SIDES, animated_svg, clip_svg, embedded, turned
from shared_data.errors import UsageError, nearest
from shared_data.formats.source import FAR

ENDINGS = (".html", ".gif", ".png")
_HEAD = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="{MADE_BY}">'
# How a picture of each kind begins, and what in its first bytes says that `show` drew it.
_OWN = {
    ".html": (_HEAD.encode(), _HEAD.encode()),
    ".gif": (b"GIF8", b"\x21\xfe" + bytes([len(MADE_BY)]) + MADE_BY.encode() + b"\0"),
    ".png": (b"\x89PNG\r\n\x1a\n", b"tEXtSoftware\0" + MADE_BY.encode()),
}
_START = 4096  # bytes
STRIP_FRAMES, MOVING_FRAMES = 10, 120
MAX_FRAMES = 1_000  # pictures that are ever drawn
MAX_FPS = 1_000.0

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.3rem; } table { border-collapse: collapse; } th { text-align: left; padding-right: 1.5rem; font-weight: 600; }
figure { margin: 1.5rem 0; overflow-x: auto; } figcaption { color: #666; } .key { font-weight: 600; margin-right: 1rem; }
"""


@dataclass(frozen=True)
class Found:
    """A clip and where it lies: row `number` (0-based) of a split."""

    split: str
    number: int
    clips: Clips


def show(
    data: DataSet | str | Path,
    clip: str,
    out: str | Path,
    *,
    split: str | None = None,
    frames: int | None = None,
    fps: float = 30.0,
    turn: float = 0.0,
) -> Path:
    """Draw one clip into the file `out` (.html, .gif or .png) and return its path. Of existing files, only pictures that were
    drawn here are replaced.

    data    an open data set or the path of a data file
    clip    its id (``a01_s01_e00_v01``, ``train_17``), or its row number together with `split`
    frames  pictures: of a film strip (default 10), or at most of a moving picture (default 120, at the true speed)
    turn    degrees by which to turn the people about the vertical axis
    Raises `UsageError` for a clip that is not there or an option out of range, `WriteError` if the picture cannot be written,
    `LabError` for GIF and PNG without Pillow, and what `open_data` raises.
    """
    out = Path(out)
    ending = out.suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(
            f"cannot draw into a file called {out.name}", where=str(out), expected=f"{', '.join(ENDINGS)} at the end"
        )
    if frames is not None and not 1 <= frames <= MAX_FRAMES:
        raise UsageError(f"{frames} frames were asked for", expected=f"1 to {MAX_FRAMES}")
    if not 0 < fps <= MAX_FPS:  # NaN fails this too
        raise UsageError(f"{fps} frames per second were asked for", expected=f"more than 0, at most {MAX_FPS:g}")
    if not np.isfinite(turn):
        raise UsageError(f"a turn of {turn} degrees was asked for", expected="a number of degrees")
    if not isinstance(data, DataSet):
        data = open_data(data)
    found = find(data, clip, split)
    points = found.clips.clip(found.number)
    if in_pixels(points):
        points = points * (1, -1, 0)  # images count y downwards, and a score is no depth
    if turn:
        points = turned(points, turn)
    content: bytes
    if ending == ".html":
        text = page(data, found, points, frames=frames, fps=fps)
        content = text.encode("utf-8", "replace")  # the name of a file need not be text
    else:
        from shared_data import raster  # Pillow is only loaded where it is needed

        if ending == ".png":
            content = raster.clip_png(points, data.skeleton, frames=frames or STRIP_FRAMES)
        else:
            content = raster.clip_gif(points, data.skeleton, fps=fps, frames=frames or MOVING_FRAMES)
    with whole_file(out, kind=f"picture drawn by `{MADE_BY}`", replaceable=is_own) as file:
        file.write(content)
    return out


def is_own(path: Path) -> bool:
    """Whether the file is a picture that `show` drew, by its ending and its first bytes."""
    start, mark = _OWN[path.suffix.lower()]
    with path.open("rb") as file:
        seen = file.read(_START)
    return seen.startswith(start) and mark in seen


def find(data: DataSet, clip: str, split: str | None = None) -> Found:
    """The clip called `clip`, or number `clip` of `split`. Raises `UsageError` naming what is near or possible."""
    splits = {"train": data.train, "test": data.test}
    if split is not None and split not in splits:
        raise UsageError(f"unknown part {split!r}{nearest(split, splits)}", expected=" or ".join(splits))
    places = [
        Found(name, int(number), clips)
        for name, clips in splits.items()
        if split in (None, name)
        for number in np.flatnonzero(clips.ids == clip)
    ]
    if len(places) == 1:
        return places[0]
    if places:
        where = ", ".join(f"{place.split} {place.number}" for place in places[:4])
        raise UsageError(
            f"{len(places)} clips are called {clip}", where=where, expected="a row number together with --part train or test"
        )
    if clip.isascii() and clip.isdigit() and len(clip) < 16:
        return _numbered(data, clip, split, splits)
    known = [str(name) for part, clips in splits.items() if split in (None, part) for name in clips.ids]
    raise UsageError(
        f"no clip is called {clip!r}{nearest(clip, known)}",
        where=str(data.path),
        expected=f"one of {len(known):,} ids like {known[0]}, or a row number with --part" if known else "a clip",
    )


def _numbered(data: DataSet, clip: str, split: str | None, splits: dict[str, Clips]) -> Found:
    ranges = ", ".join(f"{name} 0 to {len(clips) - 1}" for name, clips in splits.items())
    if split is None:
        raise UsageError(f"clip number {clip} of which part?", where=str(data.path), expected=f"--part, one of: {ranges}")
    if int(clip) >= len(splits[split]):
        raise UsageError(f"{split} has no clip number {clip}", where=str(data.path), expected=ranges)
    return Found(split, int(clip), splits[split])


def in_pixels(clip: np.ndarray) -> bool:
    """Whether a `clip` (T, M, V, 3) holds x, y in pixels of an image and a score, not metres."""
    seen = clip[clip.any((-1, -2))]
    if not len(seen):
        return False
    score = seen[..., 2]
    return bool(score.min() >= 0 and score.max() <= 1 and np.median(np.abs(seen[..., :2])) > FAR)


def page(data: DataSet, found: Found, points: np.ndarray, *, frames: int | None, fps: float) -> str:
    """The HTML page about a clip, `points` (T, M, V, 3) being what is drawn: no scripts, nothing from outside."""
    clips, n = found.clips, found.number
    label = int(clips.labels[n])
    name = data.class_names[label] if 0 <= label < len(data.class_names) else "unknown"
    raw = clips.clip(n)
    seen = raw[raw.any((-1, -2))]  # (rows, V, 3) of people who are there
    facts = {
        "clip": f"{clips.ids[n]}, number {n} of {found.split} in {data.path.name} ({data.layout})",
        "class": f"{label}: {name}",
        "layout": f"{data.skeleton.name}: {data.skeleton.title}",
        "frames": f"{clips.extent[n]} stored, {clips.valid[n]} valid, {len(raw) / fps:.1f} s at {fps:g} per second",
        "people": f"{clips.people[n]} of at most {clips.max_people}",
    }
    axes = (("x, to the right", " m"), ("y, up", " m"), ("z, away", " m"))
    if in_pixels(raw):
        axes = (("x, to the right", " pixels"), ("y, down", " pixels"), ("score", ""))
    for axis, (meaning, unit) in enumerate(axes):
        if len(seen):
            facts[meaning] = f"{seen[..., axis].min():.2f} to {seen[..., axis].max():.2f}{unit}"
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in facts.items())
    key = "".join(
        f'<span class="key" style="color:{colour}">person {person + 1}, {side}</span>'
        for person in range(min(int(clips.people[n]), len(SHADES)))
        for side, colour in zip(SIDES, SHADES[person], strict=True)
    )
    title = f"{name}, clip {clips.ids[n]}"
    moving = animated_svg(points, data.skeleton, fps=fps, frames=MOVING_FRAMES, height=320, title=f"{title}, moving", joints=True)
    strip = clip_svg(points, data.skeleton, frames=frames or STRIP_FRAMES, height=200, title=f"{title}, film strip", joints=True)
    return (
        f"{_HEAD}<title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1><table>{rows}</table><p>{key}</p>"
        f"<figure>{embedded(moving)}<figcaption>at the true speed</figcaption></figure>"
        f"<figure>{embedded(strip)}<figcaption>evenly spaced frames; point at a joint to read its name</figcaption></figure>"
        "</body></html>\n"
    )
