"""Judges an input pipeline by what the official data reader returned for the same clips and the same random draws.

A fixture (``ctrgcn_ntu.npz``) holds the reader's outputs, its options and its draws; the clips lie beside it
(``clips_ntu.npz``, ``clips_ucla.zip``). One line per group and quantity, with the limits of the fixtures' README.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.parity.fixture import FixtureError
from engine.parity.lines import Line
from shared_data.clips import Clips
from shared_data.datasets import open_data
from shared_data.pipelines import NtuDraws, Pipeline, UclaDraws, pipeline
from shared_data.sampling import crop_length

VALUE_LIMIT, WSUM_LIMIT, SUMSQ_LIMIT, SUM_LIMIT = 1e-6, 1e-5, 1e-6, 1e-3

Group = Mapping[str, Any]


@dataclass
class Findings:
    """Judged lines, and notes that decide nothing."""

    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reader:
    """How the fixtures of one official reader map to a pipeline of ours.

    clips    file beside the fixture
    options  group metadata -> options of the pipeline
    draws    (rows of recorded draws, options of the group) -> draws of the pipeline
    checks   (group name, group, its clips, positions) -> further lines
    """

    pipeline: str
    clips: str
    options: Callable[[Group], dict[str, Any]]
    draws: Callable[[Sequence[Group], Group], Any]
    checks: Callable[[str, Group, Clips, np.ndarray], list[Line]]


def _ntu_options(options: Group) -> dict[str, Any]:
    stream = ("b" if options.get("bone") else "j") + ("m" if options.get("motion") else "")
    given: dict[str, Any] = {"stream": stream, "window": options["window"]}
    interval = tuple(options["p_interval"])
    given["p_interval"] = interval
    if len(interval) == 1:
        given["test_p_interval"] = interval
    return given


def _ntu_draws(rows: Sequence[Group], options: Group) -> NtuDraws:
    still = [0.0, 0.0, 0.0]
    angles = [row["angles"] if options.get("random_rot") else still for row in rows]
    start, length = ([row[name] for row in rows] for name in ("start", "length"))
    return NtuDraws(np.array(start, np.int64), np.array(length, np.int64), np.array(angles, np.float64))


def _ntu_checks(name: str, group: Group, clips: Clips, index: np.ndarray) -> list[Line]:
    """The valid counts, and the crop length that follows from each recorded uniform number."""
    rows, interval = group["draws"], group["options"]["p_interval"]
    valid = np.array([row["valid"] for row in rows])
    lines = [Line(f"{name} valid frames", _differing(clips.valid[index], valid), 0.0)]
    if len(interval) == 2:
        u = np.array([row["u"] for row in rows])
        length = crop_length(valid, u * (interval[1] - interval[0]) + interval[0])
        recorded = np.array([row["length"] for row in rows])
        lines.append(Line(f"{name} crop length", _differing(length, recorded), 0.0))
    return lines


def _ucla_options(options: Group) -> dict[str, Any]:
    return {"stream": options["data_type"], "window": options["frames"]}


def _ucla_draws(rows: Sequence[Group], options: Group) -> UclaDraws:
    x, y, scale, frames = ([row[key] for row in rows] for key in ("angle_x_deg", "angle_y_deg", "scale", "frames"))
    return UclaDraws(np.array(x), np.array(y), np.array(scale, np.float64), np.array(frames, np.int64))


def _no_checks(name: str, group: Group, clips: Clips, index: np.ndarray) -> list[Line]:
    return []


# (code, made from NW-UCLA) -> reader
READERS = {
    ("CTR-GCN", False): Reader("ctrgcn_ntu", "clips_ntu.npz", _ntu_options, _ntu_draws, _ntu_checks),
    ("CTR-GCN", True): Reader("ctrgcn_ucla", "clips_ucla.zip", _ucla_options, _ucla_draws, _no_checks),
}


def judge(fixture: str | Path) -> list[Line]:
    """The judged lines of `examine`."""
    return examine(fixture).lines


def examine(fixture: str | Path) -> Findings:
    """Runs our pipeline on the fixture's clips and compares. Raises `FixtureError` for a file that cannot be judged."""
    path = Path(fixture)
    meta, arrays = _open(path)
    reader = READERS.get((meta["code"], "UCLA" in meta["title"].upper()))
    if reader is None:
        known = ", ".join(f"{code}{' NW-UCLA' if ucla else ''}" for code, ucla in READERS)
        raise FixtureError(
            f"there is no pipeline yet for the reader {meta['title']!r} of {meta['code']}",
            where=str(path),
            expected=f"a fixture of {known}",
        )
    clip_file = path.parent / reader.clips
    if not clip_file.exists():
        raise FixtureError("the clips of the fixture are missing", where=str(clip_file), expected="the file beside the fixture")
    data = open_data(clip_file)
    found = Findings()
    for name, group in meta["groups"].items():
        split = data.train if name.startswith("train") else data.test
        try:
            parts = _locate(group["clips"], split, meta.get("names"), (data.train, data.test))
            values, labels = _run(reader, group, parts)
            for clips, rows, index in parts:
                if "draws" in group:
                    cut = {**group, "draws": [group["draws"][row] for row in rows]}
                    found.lines += reader.checks(name, cut, clips, index)
            _compare(found, name, group, arrays, (values, labels))
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise FixtureError(
                f"group {name} cannot be replayed: {type(error).__name__}: {error}",
                where=str(path),
                expected="clips, options and, for training groups, draws as the fixtures' README describes",
            ) from error
    return found


def _open(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
        complete = isinstance(meta, dict) and all(isinstance(meta.get(key), str) for key in ("code", "title"))
        if not (complete and isinstance(meta.get("groups"), dict) and meta["groups"]):
            raise KeyError("code, title and groups")
    except FileNotFoundError:
        raise FixtureError("no such file", where=str(path), expected="a fixture of an input pipeline") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise FixtureError(
            f"not a fixture of an input pipeline: {error}",
            where=str(path),
            expected="an NPZ file with the key meta: JSON text with code, title and groups",
        ) from None
    return meta, arrays


Part = tuple[Clips, np.ndarray, np.ndarray]  # clips, rows of the group, positions in these clips


def _locate(numbers: Sequence[int], split: Clips, names: Sequence[str] | None, splits: tuple[Clips, ...]) -> list[Part]:
    """Where the group's clips are: in `split` by number, or by name in whichever split has them."""
    if names is None:
        return [(split, np.arange(len(numbers)), np.array(numbers))]
    wanted = np.array([names[number] for number in numbers])
    parts = []
    for clips in splits:
        place = {str(name): position for position, name in enumerate(clips.ids)}
        rows = np.array([row for row, name in enumerate(wanted) if name in place], dtype=np.int64)
        if len(rows):
            parts.append((clips, rows, np.array([place[name] for name in wanted[rows]])))
    if sum(len(rows) for _, rows, _ in parts) != len(wanted):
        raise KeyError("a clip name that the clip file does not have")
    return parts


def _run(reader: Reader, group: Group, parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """Our output (n, 3, W, V, M) and labels (n,) for the rows of a group: replayed draws if it has some."""
    ours: Pipeline = pipeline(reader.pipeline, **reader.options(group["options"]))
    values: np.ndarray | None = None
    labels = np.empty(len(group["clips"]), dtype=np.int64)
    for clips, rows, index in parts:
        if "draws" in group:
            draws = reader.draws([group["draws"][row] for row in rows], group["options"])
            batch = ours.train(clips, index, draws)
        else:
            batch = ours.test(clips, index)
        if values is None:
            values = np.empty((len(labels), *batch.shape[1:]), dtype=np.float32)
        values[rows], labels[rows] = batch, clips.labels[index]
    if values is None:
        raise IndexError("a group without clips")
    return values, labels


def _compare(
    found: Findings, name: str, group: Group, arrays: Mapping[str, np.ndarray], ours: tuple[np.ndarray, np.ndarray]
) -> None:
    """Adds the lines of one group; `ours` are our values (n, 3, W, V, M) and labels (n,)."""
    values, labels = ours
    if list(values.shape[1:]) != list(group["shape"]):
        found.notes.append(f"{name}: shape {values.shape[1:]}, official {tuple(group['shape'])}")
        found.lines.append(Line(f"{name} shape", float("inf"), 0.0))
        return
    values = values + np.float32(0)  # -0 becomes 0
    flat = values.reshape(len(values), -1)
    exact = flat.astype(np.float64)
    size = flat.shape[1]
    weights = np.arange(size) * 0.6180339887498949 % 1 - 0.5
    rows = group.get("full_rows", [])
    if rows:
        found.lines.append(Line(f"{name} full", _largest(values[rows] - arrays[f"{name}/full"]), VALUE_LIMIT))
    sample = flat[:, :: group["stride"]] - arrays[f"{name}/sample"]
    squares, official = (exact**2).sum(1), arrays[f"{name}/sumsq"]
    # Relative, but never finer than what `VALUE_LIMIT` allows each of `size` values that are 0 in the official output.
    relative = (squares - official) / np.maximum(official, size * VALUE_LIMIT**2 / SUMSQ_LIMIT)
    found.lines += [
        Line(f"{name} sample", _largest(sample), VALUE_LIMIT),
        Line(f"{name} sum", _largest(exact.sum(1) - arrays[f"{name}/sum"]), SUM_LIMIT),
        Line(f"{name} sumsq", _largest(relative), SUMSQ_LIMIT),
        Line(f"{name} wsum", _largest(exact @ weights - arrays[f"{name}/wsum"]), WSUM_LIMIT),
    ]
    if "labels" in group:
        found.lines.append(Line(f"{name} labels", _differing(labels, np.array(group["labels"])), 0.0))
    codes = [zlib.crc32(row.astype("<f4").tobytes()) for row in flat]
    same = int(np.sum(np.array(codes) == arrays[f"{name}/crc32"]))
    found.notes.append(f"{name}: {same} of {len(codes)} clips have the official bits")


def _largest(difference: np.ndarray) -> float:
    """The largest absolute value; NaN if there is one."""
    return float(np.abs(difference).max())


def _differing(ours: np.ndarray, official: np.ndarray) -> float:
    """How many entries differ; infinite if the shapes do."""
    return float(np.sum(ours != official)) if ours.shape == official.shape else float("inf")
