"""Drawn test clips with what they are and what the model took them for."""

from __future__ import annotations

from html import escape

from engine.report.reading import Examples, Run
from shared_data import draw
from shared_data.errors import LabError
from shared_data.skeletons import Skeleton, skeleton

FRAMES, FRAMES_MOVING, HEIGHT = 6, 48, 150


def clip_cards(run: Run) -> str:
    """A card for each example, mistakes last; "" if there are none or their layout is unknown (then with a note)."""
    examples = run.examples
    if examples is None or not len(examples.ids):
        return ""
    try:
        layout = skeleton(examples.skeleton)
    except LabError as error:
        return f'<p class="soft">The clips cannot be drawn: {escape(error.what)}.</p>'
    if examples.clips.shape[3] != layout.joints:
        return (
            f'<p class="soft">The clips cannot be drawn: they have not the {layout.joints} joints of {escape(layout.name)}.</p>'
        )
    cards = "".join(_card(run, examples, layout, n) for n in range(len(examples.ids)))
    return f'<div class="clips">{cards}</div>'


def _card(run: Run, examples: Examples, layout: Skeleton, n: int) -> str:
    truth, guess = (_name(run, int(values[n])) for values in (examples.labels, examples.predictions))
    right = int(examples.labels[n]) == int(examples.predictions[n])
    verdict = '<span class="good">✓ recognised</span>' if right else f'<span class="bad">✗ taken for {escape(guess)}</span>'
    label = f"{truth}, clip {examples.ids[n]}"
    moving = draw.animated_svg(examples.clips[n], layout, frames=FRAMES_MOVING, height=HEIGHT, title=f"{label}, moving")
    strip = draw.clip_svg(examples.clips[n], layout, frames=FRAMES, height=HEIGHT, title=f"{label}, film strip")
    return (
        f'<div class="card clip"><header><span><b>{escape(truth)}</b> '
        f'<span class="soft">{escape(str(examples.ids[n]))}</span></span>'
        f'{verdict}</header><div class="pictures"><div class="moving">{draw.embedded(moving)}</div>'
        f'<div class="strip">{draw.embedded(strip)}</div></div></div>'
    )


def _name(run: Run, label: int) -> str:
    names = run.metrics.get("class_names")
    if isinstance(names, list) and 0 <= label < len(names) and names[label]:
        return str(names[label])
    return f"class {label}"
