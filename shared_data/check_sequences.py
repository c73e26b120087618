"""Everything that can be told about untrimmed sequences without training on them: `sal data check --untrimmed`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from shared_data.check import render_facts, render_findings, size_of, spread
from shared_data.findings import WARNING, Finding, errors_in
from shared_data.formats.options import ReadOptions
from shared_data.formats.ragged import nowhere
from shared_data.formats.sequence_file import STORE
from shared_data.formats.source import Progress, Reading
from shared_data.formats.untrimmed import open_sequences, read_untrimmed
from shared_data.sequence_store import verify_sequences
from shared_data.sequences import Sequences
from shared_data.store import sha256

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class SequenceSplitReport:
    """One split in numbers.

    lengths     (smallest, median, largest) frames per sequence
    people      sequences with 0, 1, 2 ... people
    background  share of the frames that are of class 0
    segments    runs of frames of one action; `segment_lengths` their (smallest, median, largest) frames
    histogram   frames per class
    """

    sequences: int
    frames: int
    lengths: tuple[int, float, int]
    people: tuple[int, ...]
    background: float
    segments: int
    segment_lengths: tuple[int, float, int]
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class SequenceReport:
    """The result of `check_sequences`; `ok` says whether the data may be trained on."""

    path: Path
    bytes: int
    sha256: str
    layout: str
    reason: str
    skeleton: str
    class_names: tuple[str, ...]
    about: str
    splits: dict[str, SequenceSplitReport]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not errors_in(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **plain,
            "path": str(self.path),
            "ok": self.ok,
            "class_names": list(self.class_names),
            "splits": {name: dataclasses.asdict(split) for name, split in self.splits.items()},
            "findings": [finding.as_dict() for finding in self.findings],
        }

    def render(self, console: Console) -> None:
        """Print the report for people."""
        from rich.table import Table

        render_facts(console, {
            "file": f"{self.path} ({self.bytes / 2**20:,.1f} MiB)",
            "layout": f"{self.layout}: {self.reason}",
            "skeleton": self.skeleton,
            "classes": f"{len(self.class_names)} with {self.class_names[0]}",
            "about": self.about,
            "sha256": self.sha256,
        })  # fmt: skip
        table = Table()
        for column in ("split", "videos", "frames min/median/max", "people 1 / 2+", "background", "segments", "frames of one"):
            table.add_column(column)
        for name, split in self.splits.items():
            table.add_row(
                name, f"{split.sequences:,}", _three(split.lengths), f"{sum(split.people[1:2]):,} / {sum(split.people[2:]):,}",
                f"{split.background:.0%}", f"{split.segments:,}", _three(split.segment_lengths),
            )  # fmt: skip
        console.print(table)
        render_findings(console, self.findings)


def check_sequences(
    path: str | Path, *, layout: str = "auto", options: ReadOptions = ReadOptions(), progress: Progress | None = None
) -> SequenceReport:
    """Read `path` once, keeping no frames, and report; of a store, compare all frames with their checksums.

    Raises `DataError` for what cannot be read at all or was damaged, `MissingInputError` if it is not there.
    """
    path = Path(path)
    source = read_untrimmed(path, layout, Reading(options, "", nowhere, progress))
    if source.layout == STORE:
        verify_sequences(path)
    splits = {name: _report(part, len(source.class_names)) for name, part in source.splits.items()}
    findings = [*source.findings, *_untrained(splits, source.class_names)]
    return SequenceReport(
        path, size_of(path), sha256(path), source.layout, source.reason, source.skeleton.title, source.class_names, source.about,
        splits, tuple(findings),
    )  # fmt: skip


def stored_info(path: Path) -> dict[str, Any]:
    """What a store of sequences says about itself without reading its frames, as plain values. Raises `DataError`."""
    source = open_sequences(path, layout=STORE)
    with h5py.File(path, "r", locking=False) as file:
        attributes = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        **{key: value for key, value in attributes.items() if key != "splits"},
        "classes": len(source.class_names),
        "class_names": list(source.class_names),
        "splits": {
            name: {
                "sequences": len(part),
                "frames": int(part.lengths.astype(np.int64).sum()),
                "rows_mib": round(part.clips.rows.nbytes / 2**20, 3),
                "two_people": int((part.clips.people > 1).sum()),
            }
            for name, part in source.splits.items()
        },
        "findings": [finding.as_dict() for finding in source.findings],
    }


def _report(part: Sequences, classes: int) -> SequenceSplitReport:
    changes = np.ones(len(part.classes), bool)
    changes[1:] = part.classes[1:] != part.classes[:-1]
    changes[part.first] = True
    starts = np.flatnonzero(changes)
    runs = np.diff(starts, append=len(changes))[part.classes[starts] > 0]
    histogram = np.bincount(part.classes, minlength=classes)
    return SequenceSplitReport(
        sequences=len(part),
        frames=len(part.classes),
        lengths=spread(part.lengths),
        people=tuple(np.bincount(part.clips.people, minlength=part.clips.max_people + 1).tolist()),
        background=float(histogram[0] / max(1, len(part.classes))),
        segments=len(runs),
        segment_lengths=spread(runs),
        histogram=tuple(histogram.tolist()),
    )


def _untrained(splits: dict[str, SequenceSplitReport], names: tuple[str, ...]) -> list[Finding]:
    """A finding about classes that are tested, but never trained on."""
    if not {"train", "test"} <= splits.keys():
        return []
    both = zip(splits["train"].histogram, splits["test"].histogram, names, strict=True)
    never = [name for trained, tested, name in both if tested and not trained]
    if not never:
        return []
    text = f"{len(never)} classes have frames in test, but none in train: {', '.join(never[:5])}{' ...' * (len(never) > 5)}"
    return [Finding("class-untrained", WARNING, text, "train", len(never))]


def _three(values: tuple[int, float, int]) -> str:
    low, middle, high = values
    return f"{low} / {middle:g} / {high}"
