"""A page of one sequence: the skeleton moving, above its timeline with a mark at the frame that is shown.

Both move in one picture by one clock, without a script; a short script adds a slider, a button and the words for the shown frame.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

from engine.report.parts import document, header, section
from engine.report.timeline import LEFT, SPAN, WIDTH, drawing, legend
from engine.segmentation.predictions import Predictions
from shared_data.atomic import whole_file
from shared_data.draw import animated_svg, clean, embedded, fit
from shared_data.errors import UsageError
from shared_data.skeletons import Skeleton

MADE_BY = "sal segment"
MOST_PICTURES = 600
HEIGHT, PAD = 240, 10  # of the skeleton; around it

_SCRIPT = """
const svg = document.getElementById("sequence"), bar = document.getElementById("bar"), play = document.getElementById("play");
const said = document.getElementById("said"), step = +svg.dataset.step, fps = +svg.dataset.fps, pictures = +bar.max + 1;
const seconds = +svg.dataset.seconds, frames = +svg.dataset.frames;
let moving = !matchMedia("(prefers-reduced-motion: reduce)").matches;
function at(frame) {
  return [...svg.querySelectorAll("[data-row]")].map(row => {
    const run = [...row.querySelectorAll("rect")].find(r => +r.getAttribute("x") <= frame
      && frame < +r.getAttribute("x") + +r.getAttribute("width"));
    return run ? row.dataset.row + ": " + run.textContent.replace(/: frames .*$/, "") : "";
  }).filter(Boolean).join(" | ");
}
function tell(picture) {
  const frame = picture * step;
  said.textContent = "frame " + frame + ", " + (frame / fps).toFixed(1) + " s | " + at(frame);
}
function seek(picture) { svg.setCurrentTime((picture + 0.5) * seconds / pictures); bar.value = picture; tell(picture); }
function toggle(on) {
  moving = on;
  play.textContent = on ? "pause" : "play";
  if (on) svg.unpauseAnimations(); else svg.pauseAnimations();
}
function tick() {
  if (moving) {
    const picture = Math.min(pictures - 1, Math.floor(svg.getCurrentTime() % seconds / seconds * pictures));
    if (picture !== +bar.value) { bar.value = picture; tell(picture); }
  }
  requestAnimationFrame(tick);
}
document.getElementById("player").hidden = false;
play.onclick = () => toggle(!moving);
bar.oninput = () => { toggle(false); seek(+bar.value); };
svg.onclick = event => {
  const field = svg.querySelector(".field").getBoundingClientRect();
  const share = (event.clientX - field.left) / field.width;
  if (0 <= share && share < 1 && event.clientY >= field.top) { toggle(false); seek(Math.floor(share * frames / step)); }
};
toggle(moving); tell(0); requestAnimationFrame(tick);
"""


def write_page(
    path: Path,
    frames: np.ndarray,
    skeleton: Skeleton,
    predictions: Predictions,
    *,
    fps: float = 30.0,
    pictures: int = MOST_PICTURES,
) -> None:
    """Write the page of a sequence; an existing file is replaced only if it is such a page.

    frames       (T, M, V, 3) in metres, y up; absent people are zero
    predictions  of this sequence alone (`Predictions.one`)
    fps          frames per second
    pictures     of the skeleton at most; a longer sequence is shown in steps of several frames, and the page says so
    Raises `UsageError` for frames or predictions that do not fit, `WriteError`.
    """
    if len(predictions) != 1:
        raise UsageError(
            f"predictions of {len(predictions)} sequences", where=str(path), expected="those of one: Predictions.one"
        )
    if frames.ndim != 4 or frames.shape[2:] != (skeleton.joints, 3) or len(frames) != int(predictions.lengths[0]):
        raise UsageError(f"frames of shape {frames.shape}", where=str(path),
                         expected=f"({int(predictions.lengths[0])}, people, {skeleton.joints}, 3)")  # fmt: skip
    if not 0 < fps < float("inf") or pictures < 1:  # NaN fails this too
        raise UsageError(f"{pictures} pictures at {fps} frames per second", where=str(path), expected="numbers above 0")
    content = _page(frames, skeleton, predictions, fps, pictures).encode("utf-8", "replace")  # a name need not be text
    with whole_file(Path(path), kind="page of a segmented sequence", replaceable=_is_own) as file:
        file.write(content)


def _page(frames: np.ndarray, skeleton: Skeleton, one: Predictions, fps: float, pictures: int) -> str:
    step = -(-len(frames) // pictures)
    title = str(one.ids[0])
    tags = {"frames": f"{len(frames):,}", "length": f"{len(frames) / fps:.1f} s at {fps:g} per second", "skeleton": skeleton.name}
    told = (
        "Every frame is shown." if step == 1 else f"One frame of {step} is shown, at the true speed; the timeline has them all."
    )
    count = len(range(0, len(frames), step))
    controls = (
        '<div class="player" id="player" hidden><button id="play" type="button">pause</button>'
        f'<input id="bar" type="range" min="0" max="{count - 1}" value="0" aria-label="picture"></div>'
        f'<p class="soft said" id="said"></p><script>{_SCRIPT}</script>'
    )
    body = f'{legend([one])}<figure class="card">{_picture(frames, skeleton, one, fps, step)}{controls}</figure>'
    about = f'<p class="soft lead">{escape(told)} Point at a run for its class and frames.</p>'
    return document(title, [header("Segmented sequence", title, tags), section("Frames", about + body)], made_by=MADE_BY)


def _picture(frames: np.ndarray, skeleton: Skeleton, one: Predictions, fps: float, step: int) -> str:
    """Skeleton and timeline in one picture, so that they move by one clock."""
    shown = frames[::step]
    figure = animated_svg(shown, skeleton, fps=fps / step, frames=len(shown), height=HEIGHT, title=f"{one.ids[0]}, moving")
    width = fit(clean(shown), HEIGHT)[1]
    below = HEIGHT + 2 * PAD
    drawn = drawing(one, fps=fps)
    places = ";".join(f"{LEFT + SPAN * (n * step + 0.5) / len(frames):.2f} 0" for n in range(len(shown)))
    seconds = f"{max(len(shown) * step / fps, 0.1):.2f}"  # as the figure takes
    cursor = (
        f'<g><animateTransform attributeName="transform" type="translate" dur="{seconds}s" repeatCount="indefinite" '
        f'calcMode="discrete" values="{places}"/><line class="cursor" y1="-4" y2="{drawn.height - 16}"/></g>'
    )
    return (
        f'<svg class="timeline" id="sequence" viewBox="0 0 {WIDTH} {below + drawn.height}" data-step="{step}" data-fps="{fps:g}" '
        f'data-seconds="{seconds}" data-frames="{len(frames)}">'
        f'<rect class="paper" x="0" y="0" width="{WIDTH}" height="{HEIGHT + PAD}" rx="8"/>'
        f'<g transform="translate({(WIDTH - width) / 2:.1f} {PAD / 2:g})">{embedded(figure)}</g>'
        f'<g transform="translate(0 {below})">{drawn.shapes}{cursor}</g></svg>'
    )


def _is_own(path: Path) -> bool:
    with path.open("rb") as file:
        return f'<meta name="generator" content="{MADE_BY}">'.encode() in file.read(1024)
