"""Annotation pickles of pyskl and mmaction2 (``ntu60_3danno.pkl``, ``ntu60_hrnet.pkl`` ...), read without being run.

    split         protocol and part -> names: {"xsub_train": [...], "xsub_val": [...], ...}; plain train/val or train/test as well
    annotations   one dict per clip: frame_dir (its name), label (from 0), total_frames, keypoint (M, T, V, C);
                  2-D files add keypoint_score (M, T, V)

Three-dimensional Kinect joints are camera coordinates in metres, not centred; two-dimensional COCO joints become rows of x, y
and score, in pixels. float16 becomes float32. Every frame is data, T differs from clip to clip, M too.

Such a file is one pickle: all its clips are found before the first can be used. Their values stay in the mapped file, so the
memory needed is that of the index (about 1 KB per clip); the pages of the file come and go. Two optional keys of our own writer
are read as well: ``about`` (text) and ``class_names`` (a list).

Source: ``formats.md`` section 12.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared_data.classes import class_names
from shared_data.errors import DataError, UsageError, nearest
from shared_data.findings import ERROR, WARNING, Finding
from shared_data.formats import labels as label_rows
from shared_data.formats.fourkeys import MAX_FRAMES
from shared_data.formats.look import Look
from shared_data.formats.options import MAX_CLASSES, refuse_options
from shared_data.formats.pickled_numpy import PickledArray
from shared_data.formats.pickles import first_keys, read_pickle
from shared_data.formats.ragged import RaggedBuilder
from shared_data.formats.sample_names import (
    MAX_NAME,
    name_findings,
    names_by_action,
    numbers_in,
    placed,
    renumbered,
    texts_in,
)
from shared_data.formats.source import Reading, Source, Split, ticker
from shared_data.skeletons import SKELETONS, Skeleton

KEYS = ("split", "annotations")
NEEDED = ("frame_dir", "label", "total_frames", "keypoint")
TEST_WORDS = ("val", "test")
MAX_PEOPLE = 8
NAMED = 3  # how many names a message spells out
EXPECTED = "a pickled dict of split (name -> list of clip names) and annotations (list of dicts)"
FIVE_POINTS = "(M, T, 25 or 20, 3) or (M, T, 17, 2) with keypoint_score"


@dataclass(frozen=True)
class _Clip:
    """One annotation, checked but for its values. `score` is None for three-dimensional joints."""

    name: str
    label: int
    keypoint: PickledArray
    score: PickledArray | None


def recognise(seen: Look) -> str | None:
    """Why this is the layout, or None: the start of the pickle is scanned, not run, for the keys of such a file.

    Raises `DataError` for a pickle that is no data: the reason is worth more than "no known layout".
    """
    if seen.kind != "pickle":
        return None
    keys = [key for key in first_keys(seen.path) if key in KEYS]
    return f"a pickled dict with the key{'s' if len(keys) > 1 else ''} {' and '.join(keys)}" if keys else None


def read(path: Path, how: Reading) -> Source:
    """Read the protocol `how.options.split` of the file; "auto" is the only one there is.

    Raises `DataError` for what cannot be decoded or is hostile, `UsageError` naming the protocols if the choice is not clear.
    """
    refuse_options(path, "pyskl", how.options, "skip_list", "repair")
    content = read_pickle(path)
    try:
        if not isinstance(content, dict) or not set(KEYS) <= set(content):
            raise DataError("not an annotation file", expected=EXPECTED)
        pair = _pair(content["split"], how.options.split, path)
        wanted = {split: texts_in(content["split"][key], f"split {key}") for split, key in pair.items()}
        clips, findings = _clips(content["annotations"], path.stat().st_size)
        skeleton = _skeleton(clips)
    except DataError as error:
        raise placed(error, path) from None
    chosen: dict[str, list[_Clip]] = {}
    for split, names in wanted.items():
        chosen[split], found = _of_split(names, clips, pair[split])
        findings += found
    both = sorted({*wanted["train"]} & {*wanted["test"]})
    if both:
        text, step = f"{len(both)} clips are in both splits: {_first(both)}", "results on them mean nothing"
        findings.append(Finding("split-overlap", WARNING, text, count=len(both), next_step=step))
    decoded: dict[str, tuple[np.ndarray, int | None]] = {}
    for split, part in chosen.items():
        labels, width, found = label_rows.decode(np.array([clip.label for clip in part], np.int64), pair[split], len(part))
        decoded[pair[split]] = labels, width
        findings += found
    named = {key: [clip.name for clip in chosen[split]] for split, key in pair.items()}
    anew = renumbered((named[key], labels) for key, (labels, _) in decoded.items())
    for key, (labels, _) in decoded.items():
        findings += name_findings(named[key], labels, key, anew=bool(anew))
    classes, found = label_rows.class_count(decoded, how.options.num_classes or _named_classes(content))
    findings += found
    people = max((clip.keypoint.shape[0] for part in chosen.values() for clip in part), default=1)
    splits, tick = {}, ticker(how.progress, sum(map(len, chosen.values())))
    for split, part in chosen.items():
        sink = how.sinks(split, skeleton.joints, np.dtype(np.float32))
        builder = RaggedBuilder(sink, joints=skeleton.joints, max_people=people, padded=False)
        for clip in part:
            try:
                builder.add(_rows(clip)[None])
            except DataError as error:
                raise placed(error, path) from None
            tick()
        ids = np.array([clip.name for clip in part], dtype="U")
        splits[split] = Split(builder.finish(decoded[pair[split]][0], ids, frames=None), (len(part),), builder.scan)
    about = content.get("about")
    about = about if isinstance(about, str) else ""
    known = _class_names(content, classes, anew)
    return Source("pyskl", how.reason, skeleton, classes, known, splits, findings, about)


def protocols_in(splits: Any) -> dict[str, dict[str, str]]:
    """Protocol -> {"train": its key, "test": its key}; the protocol of plain "train" and "val" is "train/val"."""
    if not isinstance(splits, dict) or not all(isinstance(key, str) and len(key) <= MAX_NAME for key in splits):
        raise DataError("split is no dict of names", expected=EXPECTED)
    found = {}
    for key in splits:
        if key == "train" or key.endswith("_train"):
            stem = key.removesuffix("train")
            test = next((stem + word for word in TEST_WORDS if stem + word in splits), None)
            if test:
                found[stem.rstrip("_") or f"train/{test}"] = {"train": key, "test": test}
    return found


def _pair(splits: Any, wanted: str, path: Path) -> dict[str, str]:
    found = protocols_in(splits)
    if not found:
        raise DataError(f"no pair of splits, found: {_first(list(splits))}", expected="NAME_train and NAME_val")
    if len(found) == 1 and (wanted == "auto" or "train/val" in found or "train/test" in found):  # one nameless division
        return next(iter(found.values()))
    if wanted not in found:
        what = (
            "the file divides its clips in several ways" if wanted == "auto" else f"no split {wanted!r}{nearest(wanted, found)}"
        )
        step = f"choose one with --split, for example --split {next(iter(found))}"
        raise UsageError(what, where=str(path), expected=f"one of {', '.join(found)}", next_step=step)
    return found[wanted]


def _clips(annotations: Any, size: int) -> tuple[dict[str, _Clip], list[Finding]]:
    """Every annotation by its name. Raises `DataError` for one that is no annotation at all."""
    if not isinstance(annotations, list):
        raise DataError("annotations is no list", expected=EXPECTED)
    clips: dict[str, _Clip] = {}
    twice, miscounted, nbytes = [], [], 0
    for number, annotation in enumerate(annotations):
        where = f"annotation {number}"
        if not isinstance(annotation, dict) or not set(NEEDED) <= set(annotation):
            raise DataError("not the annotation of a clip", where=where, expected=f"a dict with {', '.join(NEEDED)}")
        clip = _clip(annotation, where)
        # Arrays may be shared: a small file could otherwise stand for any number of rows.
        nbytes += clip.keypoint.nbytes + (clip.score.nbytes if clip.score else 0)
        if nbytes > size:
            raise DataError("annotations share their arrays: more values than the file has bytes", where=where)
        if clip.name in clips:
            twice.append(clip.name)
        if annotation["total_frames"] != clip.keypoint.shape[1]:
            miscounted.append(clip.name)
        clips[clip.name] = clip
    findings = []
    for code, names, what in (
        ("name-twice", twice, "annotations repeat the name of another"),
        ("frame-count", miscounted, "annotations whose total_frames is not the length of their keypoint array"),
    ):
        if names:
            text = f"{len(names)} {what}: {_first(names)}"
            findings.append(Finding(code, ERROR, text, "annotations", len(names), next_step="repair the file at its source"))
    return clips, findings


def _clip(annotation: Mapping[str, Any], where: str) -> _Clip:
    (name,) = texts_in([annotation["frame_dir"]], f"{where}, frame_dir")
    where = f"{where} ({name})"
    label, keypoint, score = annotation["label"], annotation["keypoint"], annotation.get("keypoint_score")
    if type(label) is not int or not -(2**62) < label < 2**62:
        raise DataError("a label that is no integer", where=where, expected="a class id from 0")
    if type(annotation["total_frames"]) is not int:
        raise DataError("total_frames is no integer", where=where)
    shape = keypoint.shape if isinstance(keypoint, PickledArray) else ()
    joints = {3: ("ntu25", "ucla20"), 2: ("coco17",)}.get(shape[3], ()) if len(shape) == 4 else ()
    if not joints or shape[2] not in [SKELETONS[known].joints for known in joints if known in SKELETONS]:
        raise DataError(f"keypoint of shape {shape}", where=where, expected=FIVE_POINTS)
    if not 1 <= shape[0] <= MAX_PEOPLE or not 1 <= shape[1] <= MAX_FRAMES:
        raise DataError(f"keypoint of shape {shape}", where=where, expected=f"M to {MAX_PEOPLE}, T from 1 to {MAX_FRAMES}")
    if shape[3] == 3:
        return _Clip(name, label, keypoint, None)
    if not isinstance(score, PickledArray) or score.shape != shape[:3]:
        raise DataError("no keypoint_score of the shape of keypoint", where=where, expected=f"shape {shape[:3]}")
    return _Clip(name, label, keypoint, score)


def _rows(clip: _Clip) -> np.ndarray:
    """(T, M, V, 3): xyz, or x, y and score."""
    values = numbers_in(clip.keypoint, clip.name)
    if clip.score:
        values = np.concatenate([values, numbers_in(clip.score, clip.name)[..., None]], axis=-1)
    return values.transpose(1, 0, 2, 3)


def _skeleton(clips: Mapping[str, _Clip]) -> Skeleton:
    """The one skeleton of all clips."""
    joints = {clip.keypoint.shape[2]: name for name, clip in clips.items()}
    if len(joints) != 1:
        told = ", ".join(f"{count} in {name}" for count, name in list(joints.items())[:NAMED]) or "none"
        raise DataError(f"clips of different numbers of joints: {told}", expected="one skeleton in all annotations")
    return next(layout for layout in SKELETONS.values() if layout.joints in joints)


def _of_split(names: list[str], clips: Mapping[str, _Clip], where: str) -> tuple[list[_Clip], list[Finding]]:
    """The clips of a split in its order, and what is wrong with its list."""
    findings = []
    missing = [name for name in names if name not in clips]
    twice = [name for name, count in Counter(names).items() if count > 1]
    for code, wrong, what in (
        ("annotation-missing", missing, "names in the split have no annotation"),
        ("split-twice", twice, "names are more than once in the split"),
    ):
        if wrong:
            text = f"{len(wrong)} {what}: {_first(wrong)}"
            findings.append(Finding(code, ERROR, text, where, len(wrong), next_step="repair the file at its source"))
    return [clips[name] for name in dict.fromkeys(names) if name in clips], findings


def _named_classes(content: Mapping[str, Any]) -> int | None:
    names = content.get("class_names")
    if not isinstance(names, list) or not 0 < len(names) <= MAX_CLASSES:
        return None
    return len(names) if all(isinstance(name, str) for name in names) else None


def _class_names(content: Mapping[str, Any], classes: int, anew: Mapping[int, int]) -> tuple[str, ...]:
    """The names in the file if there is one for each class, else those of the actions numbered `anew`, else the usual ones."""
    if _named_classes(content) == classes:
        return tuple(content["class_names"])
    return names_by_action(anew, classes) if anew else class_names(classes)


def _first(names: list[str]) -> str:
    return ", ".join(str(name)[:60] for name in names[:NAMED]) + (" ..." if len(names) > NAMED else "")
