"""Clips as PNG and GIF, drawn with Pillow from the same figures as the SVG of `draw`. Pillow is the optional extra "draw"."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from shared_data.draw import CAPTION, DOT, LINE, MADE_BY, Strokes, clean, fit, spread, strokes, thinned
from shared_data.errors import LabError
from shared_data.skeletons import Skeleton

if TYPE_CHECKING:
    from PIL import Image as Pillow

_FINE = 3  # drawn this many times larger, then shrunk: Pillow draws lines with hard edges
_TICK = 10  # milliseconds in which a GIF counts


def clip_png(clip: np.ndarray, skeleton: Skeleton, *, frames: int = 8, height: int = 300) -> bytes:
    """A film strip of `frames` frames, evenly spaced over the `clip` (T, M, V, 3), the frame's number below each."""
    image_module = _pillow()
    from PIL import ImageDraw
    from PIL.PngImagePlugin import PngInfo

    clip = clean(clip)
    view, width = fit(clip, height)
    picked = spread(len(clip), frames)
    strip = image_module.new("RGB", (round(width) * max(1, len(picked)), height + CAPTION), "white")
    for cell, frame in enumerate(picked):
        left = cell * round(width)
        strip.paste(_picture(strokes(view, clip[frame], skeleton), width, height), (left, 0))
        pen = ImageDraw.Draw(strip)
        pen.text((left + width / 2, height + CAPTION / 2), str(frame), fill="#777", anchor="mm")
        if cell:
            pen.line((left, 0, left, strip.height), fill="#ddd")
    file, about = BytesIO(), PngInfo()
    about.add_text("Software", MADE_BY)
    strip.save(file, "PNG", pnginfo=about)
    return file.getvalue()


def clip_gif(clip: np.ndarray, skeleton: Skeleton, *, fps: float = 30.0, frames: int = 120, height: int = 300) -> bytes:
    """The `clip` (T, M, V, 3) in a loop, thinned to at most `frames` pictures at the true speed."""
    clip = clean(clip)
    view, width = fit(clip, height)
    picked = thinned(len(clip), frames)
    pictures = [_picture(strokes(view, clip[frame], skeleton), width, height).quantize(32) for frame in picked]
    if not pictures:
        pictures = [_picture([], width, height).quantize(2)]
    file = BytesIO()
    durations = _durations(len(clip) / fps, len(pictures))
    pictures[0].save(
        file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, disposal=2, comment=MADE_BY
    )
    return file.getvalue()


def _durations(seconds: float, count: int) -> list[int]:
    """`count` durations in milliseconds, multiples of a GIF's tick, that add up to `seconds` to the nearest tick."""
    ends = np.round(np.arange(count + 1) * seconds * 1000 / count / _TICK).astype(int) * _TICK
    return [max(_TICK, int(duration)) for duration in np.diff(ends)]


def _picture(parts: Sequence[Strokes], width: float, height: int) -> Pillow.Image:
    image_module = _pillow()
    from PIL import ImageDraw

    image = image_module.new("RGB", (round(width) * _FINE, height * _FINE), "white")
    pen = ImageDraw.Draw(image)
    for part in parts:
        for line in part.bones * _FINE:
            pen.line(line.reshape(-1).tolist(), fill=part.colour, width=round(LINE * _FINE))
        for x, y in part.joints * _FINE:
            pen.circle((x, y), DOT / 2 * _FINE, fill=part.colour)
    shrunk: Pillow.Image = image.resize((round(width), height), image_module.Resampling.LANCZOS)
    return shrunk


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise LabError(
            "PNG and GIF need Pillow, which is not installed", expected="a name ending in .html, which needs nothing",
            next_step="pip install pillow, or write an .html file",
        ) from None  # fmt: skip
    found: ModuleType = Image
    return found
