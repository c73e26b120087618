"""`sal segment train | test | predict`: an action for every frame of untrimmed sequences. Heavy imports stay inside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import ConfigError
from engine.launch import guarded
from sal import signature
from shared_data.errors import DataError, MissingInputError, nearest

if TYPE_CHECKING:
    import numpy as np

    from engine.segmentation.trained import Trained

USAGE = """usage: sal segment train MODEL --recipe NAME --data F [--init ENCODER] [flags of sal train]
       sal segment test MODEL --weights best.safetensors --data F [--split xsub]
       sal segment predict best.safetensors CLIP [--video NAME] [--out segments.csv] [--html page.html]

train    any encoder of the lab under a segmentation head, or a segmenter of its own (lasa); docs/segmentation.md
test     weights of such a run on the test sequences
predict  one sequence: NAME.txt of PKU-MMD, frames.npy (T, 150) or (T, people, joints, 3), or --video NAME of untrimmed data"""
VERBS = ("train", "test", "predict")


def run(argv: list[str]) -> int:
    """`sal segment VERB ...`."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    verb, *rest = argv
    if verb not in VERBS:
        raise ConfigError(f"no verb 'segment {verb}'{nearest(verb, VERBS)}", expected=" | ".join(VERBS))
    if verb == "predict":
        return signature.call(predict, rest, "sal segment predict")
    named = bool(rest) and not rest[0].startswith("-")
    return _launch(rest[named:], rest[0] if named else "", phase=verb)


def main(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 main.py …` in the folder of a model of kind "segmenter"."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _launch(words, model, phase=""))


def _launch(words: list[str], model: str, *, phase: str) -> int:
    from engine import models
    from sal.train import launch

    if model:
        models.find_for(model, "segment")  # names the nearest before anything else is looked at
    prog = f"sal segment {phase} MODEL" if phase else "python3 main.py"
    return launch(words, model=model, phase=phase, prog=prog, stage="segment")


def predict(
    weights: Path,
    clip: Path,
    *,
    video: str = "",
    layout: str = "auto",
    out: Path | None = None,
    html: Path | None = None,
    fps: float = 30.0,
    device: str = "auto",
    precision: str = "fp32",
) -> int:
    """Say what happens when in one sequence: its segments as a table, and a page with the skeleton beside them.

    Args:
        weights: best.safetensors of a run of sal segment train.
        clip: NAME.txt as PKU-MMD has it, frames.npy, or untrimmed data with --video.
        video: name of the sequence in untrimmed data.
        layout: auto, or one of those of untrimmed data in docs/your-data.md.
        out: table to write, .csv or .json; without it the segments are printed.
        html: page to write: the moving skeleton and the timeline.
        fps: frames per second of the recording.
        device: auto, cpu, cuda, or a GPU's number.
        precision: fp32, bf16 or fp16.
    """
    from engine.config import RunConfig, parse
    from engine.report.sequence import write_page
    from engine.segmentation.predictions import segments, write_segments
    from engine.segmentation.trained import told, trained

    if out is None and not 0 < fps < float("inf"):
        raise ConfigError(f"{fps} frames per second", where="--fps", expected="a number above 0")
    about = told(weights)
    settings = ["--weights", str(weights), "--device", device, "--precision", precision]
    config: RunConfig = parse(settings, model=str(about["model"]), phase="test", prog="sal segment predict", stage="segment")
    of = trained(config)
    name, frames, truth = _sequence(of, clip, video, layout)
    found = of.predict(name, frames, truth)
    if out is not None:
        write_segments(out, found, fps=fps)
        print(out)
    else:
        kind = "refined" if found.has_boundaries else "predicted"
        for one in segments(found, fps=fps):
            if one.kind == kind:
                print(f"{one.start_s:9.2f} s  {one.end_s:9.2f} s  {one.confidence:5.1%}  {one.class_name}")
    if html is not None:
        write_page(html, frames, of.skeleton, found, fps=fps)
        print(html)
    return 0


def _sequence(of: Trained, clip: Path, video: str, layout: str) -> tuple[str, np.ndarray, np.ndarray | None]:
    """Name, frames (T, M, V, 3) and, where it is known, the truth (T,) of the sequence that the command line names."""
    import numpy as np

    from shared_data.formats.npy import read_array, read_header
    from shared_data.formats.options import ReadOptions
    from shared_data.formats.pku_folder import Notes
    from shared_data.formats.pku_mmd import usable
    from shared_data.formats.pku_text import MAX_VIDEO_BYTES, parse_frames
    from shared_data.formats.untrimmed import open_sequences

    if not clip.exists():
        raise MissingInputError("no such file", where=str(clip), expected="NAME.txt, frames.npy, or untrimmed data with --video")
    shape = (of.people, of.skeleton.joints, 3)
    if video or clip.is_dir() or clip.suffix not in (".txt", ".npy"):
        source = open_sequences(clip, layout=layout, options=ReadOptions())
        found = {str(name): (part, n) for part in source.splits.values() for n, name in enumerate(part.ids)}
        if video not in found:
            raise ConfigError(
                f"no sequence {video!r}{nearest(video, found)}" if video else f"{len(found)} sequences, and none is named",
                where=str(clip), expected=f"--video {next(iter(found))}, say",
            )  # fmt: skip
        part, n = found[video]
        same = source.class_names == of.class_names
        return video, part.frames(n), part.labels(n) if same else None
    if clip.stat().st_size > MAX_VIDEO_BYTES:
        raise DataError(f"{clip.stat().st_size} bytes", where=str(clip), expected=f"at most {MAX_VIDEO_BYTES}")
    raw = clip.read_bytes()
    if clip.suffix == ".txt":
        frames = parse_frames(raw, str(clip))
    else:
        import io

        stream = io.BytesIO(raw)
        frames = read_array(stream, read_header(stream, len(raw), str(clip)))
        if frames.dtype.kind != "f" or frames.ndim < 2 or not len(frames) or frames[0].size != np.prod(shape):
            raise DataError(
                f"an array of shape {frames.shape} and type {frames.dtype}", where=str(clip),
                expected=f"(T, {np.prod(shape)}) or (T, {', '.join(map(str, shape))}) numbers",
            )  # fmt: skip
        frames = frames.reshape(-1, *shape).astype(np.float32)
    notes = Notes()
    if not usable(str(clip), frames, notes):
        raise DataError(next(notes.findings()).message, where=str(clip), expected="finite coordinates of at least one person")
    return clip.stem, frames, None
