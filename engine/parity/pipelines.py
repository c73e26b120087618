"""Judges an input pipeline by what the official data reader returned for the same clips and the same random draws.

A fixture (``ctrgcn_ntu.npz``) holds the reader's outputs, its options and its draws; the clips lie beside it
(``clips_ntu.npz``, ``clips_ucla.zip``). One line per group and quantity, with the limits of the fixtures' README.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.parity.fixture import FixtureError
from engine.parity.lines import Line
from engine.parity.readers import READERS
from engine.parity.readers.contract import Arrays, Case, Group, Limits, Reader, differing, largest
from shared_data.clips import Clips
from shared_data.datasets import open_data


@dataclass
class Findings:
    """Judged lines, and notes that decide nothing."""

    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
    found = Findings()
    if reader.clips is not None:
        splits = _splits(path.parent / reader.clips)
        for name in meta["groups"]:
            with _replaying(path, f"group {name}"):
                case = _case(reader, name, splits, meta, arrays)
                found.lines += reader.checks(case)
                _compare(found, case, reader.replay(case), reader.limits(case))
    with _replaying(path, "what lies outside the groups"):
        found.lines += reader.whole(meta, arrays)
    return found


class _replaying:
    """Turns what a malformed fixture makes the replay raise into a `FixtureError`."""

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (KeyError, TypeError, IndexError, ValueError, AttributeError)):
            raise FixtureError(
                f"{self._what} cannot be replayed: {type(error).__name__}: {error}",
                where=str(self._path),
                expected="clips, options and, for training groups, draws as the fixtures' README describes",
            ) from error


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


def _splits(clip_file: Path) -> dict[str, Clips]:
    if not clip_file.exists():
        raise FixtureError("the clips of the fixture are missing", where=str(clip_file), expected="the file beside the fixture")
    data = open_data(clip_file)
    return {"train": data.train, "test": data.test}


def _case(reader: Reader, name: str, splits: Mapping[str, Clips], meta: Group, arrays: Arrays) -> Case:
    """The group with the clips it is about: by number in its split, or by name in whichever split has them."""
    group = meta["groups"][name]
    numbers = np.array(group["clips"], dtype=np.int64)
    if names := meta.get("names"):
        clips = _joined(list(splits.values()))
        place = {str(clip): position for position, clip in enumerate(clips.ids)}
        numbers = np.array([place[names[number]] for number in numbers], dtype=np.int64)
    else:
        clips = splits[reader.split(name, group)]
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(clips):
        raise IndexError(f"a clip number outside 0..{len(clips) - 1}")
    if group.get("draws") is not None and len(group["draws"]) != len(numbers):
        raise IndexError(f"{len(group['draws'])} draws for {len(numbers)} clips")
    return Case(name, group, clips, numbers, splits, meta, arrays)


def _joined(parts: Sequence[Clips]) -> Clips:
    """All clips of some splits as one."""
    before = np.cumsum([0, *(len(part.rows) for part in parts)])
    offset = np.concatenate([part.offset + start for part, start in zip(parts, before, strict=False)])
    rows, extent, valid, people, labels, ids = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "extent", "valid", "people", "labels", "ids")
    )
    return dataclasses.replace(
        parts[0], rows=rows, offset=offset, extent=extent, valid=valid, people=people, labels=labels, ids=ids
    )


def _compare(found: Findings, case: Case, values: np.ndarray, limits: Limits) -> None:
    """Adds the lines of one group; `values` are ours, (n, *shape)."""
    name, group, arrays = case.name, case.group, case.arrays
    values = np.ascontiguousarray(values, np.float32) + np.float32(0)  # -0 becomes 0
    if list(values.shape) != [len(case.index), *group["shape"]]:
        found.notes.append(f"{name}: shape {values.shape[1:]}, official {tuple(group['shape'])}")
        found.lines.append(Line(f"{name} shape", float("inf"), 0.0))
        return
    flat = values.reshape(len(values), -1)
    exact = flat.astype(np.float64)
    size = flat.shape[1]
    weights = np.arange(size) * 0.6180339887498949 % 1 - 0.5
    rows = group.get("full_rows", [])
    if rows:
        found.lines.append(Line(f"{name} full", largest(values[rows], arrays[f"{name}/full"]), limits.value))
    if group["stride"]:  # 0: only sums were recorded
        found.lines.append(Line(f"{name} sample", largest(flat[:, :: group["stride"]], arrays[f"{name}/sample"]), limits.value))
    squares, official = (exact**2).sum(1), arrays[f"{name}/sumsq"]
    # Relative, but never finer than what the limit of values allows each of `size` values that are 0 in the official output.
    relative = (squares - official) / np.maximum(official, size * limits.value**2 / limits.sumsq)
    found.lines += [
        Line(f"{name} sum", largest(exact.sum(1), arrays[f"{name}/sum"]), limits.sum),
        Line(f"{name} sumsq", float(np.abs(relative).max()), limits.sumsq),
        Line(f"{name} wsum", largest(exact @ weights, arrays[f"{name}/wsum"]), limits.wsum),
    ]
    if "labels" in group:
        found.lines.append(Line(f"{name} labels", differing(case.clips.labels[case.index], np.array(group["labels"])), 0.0))
    codes = [zlib.crc32(row.astype("<f4").tobytes()) for row in flat]
    same = int(np.sum(np.array(codes) == arrays[f"{name}/crc32"]))
    found.notes.append(f"{name}: {same} of {len(codes)} clips have the official bits")
