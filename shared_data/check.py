"""Everything that can be told about a data file without training on it: `sal data check`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shared_data import inplace
from shared_data.clips import Clips
from shared_data.findings import ERROR, INFO, WARNING, Finding, errors_in, refuse_errors
from shared_data.formats.duplicates import duplicates
from shared_data.formats.options import ReadOptions
from shared_data.formats.ragged import nowhere
from shared_data.formats.reading import STORE, read_source, resolve, settle
from shared_data.formats.source import Progress, Reading, Split
from shared_data.protocols import nearly, recognise
from shared_data.store import open_store, sha256, verify

if TYPE_CHECKING:
    from rich.console import Console

_STYLE = {ERROR: "bold red", WARNING: "yellow", INFO: "dim"}


@dataclass(frozen=True)
class SplitReport:
    """One split in numbers.

    shape      of the array in the file
    lengths    (min, median, max) of stored frames per clip; `valid` the same of the official count
    people     number of clips with 0, 1, 2 ... people
    histogram  clips per class
    orders     measures of the layout fingerprint, one entry per order of the values
    """

    clips: int
    shape: tuple[int, ...]
    lengths: tuple[int, float, int]
    valid: tuple[int, float, int]
    people: tuple[int, ...]
    histogram: tuple[int, ...]
    orders: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class CheckReport:
    """The result of `check`; `ok` says whether the file may be trained on."""

    path: Path
    bytes: int
    sha256: str
    layout: str
    reason: str
    skeleton: str
    num_classes: int
    class_names: tuple[str, ...]
    protocol: str
    about: str
    splits: dict[str, SplitReport]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not errors_in(self.findings)

    def raise_if_bad(self) -> None:
        """Raise `DataError` (exit code 65) with key, row and reason of the first error, if there is one."""
        refuse_errors(self.findings, self.path)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("path", "splits", "findings")}
        return {
            "path": str(self.path),
            "ok": self.ok,
            **plain,
            "class_names": list(self.class_names),
            "splits": {name: {f: getattr(s, f) for f in s.__dataclass_fields__} for name, s in self.splits.items()},
            "findings": [finding.as_dict() for finding in self.findings],
        }

    def render(self, console: Console) -> None:
        """Print the report for people."""
        from rich.table import Table

        render_facts(console, {
            "file": f"{self.path} ({self.bytes / 2**20:,.1f} MiB)",
            "layout": f"{self.layout}: {self.reason}",
            "skeleton": self.skeleton,
            "classes": str(self.num_classes),
            "protocol": self.protocol or "none of the known ones",
            "about": self.about,
            "sha256": self.sha256,
        })  # fmt: skip

        table = Table()
        for column in ("split", "clips", "shape", "frames min/median/max", "people 1 / 2+", "clips per class min/max"):
            table.add_column(column)
        for name, split in self.splits.items():
            low, middle, high = split.lengths
            per_class = f"{min(split.histogram, default=0)} / {max(split.histogram, default=0)}"
            two = sum(split.people[2:])
            one = sum(split.people[1:2])
            table.add_row(
                name, f"{split.clips:,}", str(split.shape), f"{low} / {middle:g} / {high}", f"{one:,} / {two:,}", per_class
            )
        console.print(table)

        orders = [(name, order) for name, split in self.splits.items() for order in split.orders]
        if orders and any(finding.code in ("layout-scrambled", "layout-unconfirmed") for finding in self.findings):
            table = Table(title="order of the values: how clips look if decoded as ...", title_justify="left")
            for column in ("split", "order", "joint 2 at origin", "person 2 empty", "copied", "bone variation"):
                table.add_column(column)
            for name, order in orders:
                shares = [f"{order[key]:.3f}" for key in ("origin", "second_empty", "second_copied", "bone_variation")]
                table.add_row(name, order["order"], *shares)
            console.print(table)
        render_findings(console, self.findings)


def render_facts(console: Console, facts: Mapping[str, str]) -> None:
    """Print what is known of a file, a line each; nothing of what is empty."""
    from rich.markup import escape
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value:
            grid.add_row(f"[bold]{name}[/]", escape(value))
    console.print(grid)


def render_findings(console: Console, findings: Iterable[Finding]) -> None:
    """Print findings, the worst of them in colour, and what follows from them."""
    from rich.markup import escape

    findings = tuple(findings)
    for finding in findings:
        where = f"{finding.where}: " if finding.where else ""
        console.print(f"[{_STYLE[finding.severity]}]{finding.severity:8}[/]{escape(where + finding.message)}")
        if finding.next_step and finding.severity != INFO:
            console.print(f"        next: {escape(finding.next_step)}")
    warnings = sum(finding.severity == WARNING for finding in findings)
    if errors_in(findings):
        console.print("[bold red]not usable as it is[/]")
    elif warnings:
        console.print(f"[bold yellow]usable; read the {'warning' if warnings == 1 else f'{warnings} warnings'} first[/]")
    else:
        console.print("[bold green]good: ready to train on[/]")


def check(
    path: str | Path,
    *,
    layout: str = "auto",
    options: ReadOptions = ReadOptions(),
    progress: Progress | None = None,
) -> CheckReport:
    """Read `path` once, streaming and keeping no frames, and report. A good file that can be used in place then opens at once.

    Problems of single clips and labels become error findings of the report; what prevents reading altogether (truncated,
    wrong keys, wrong shape, hostile) raises `DataError`, a missing file `MissingInputError`. `CheckReport.raise_if_bad`
    turns the first case into the second.
    """
    path = Path(path)
    layout, reason = resolve(path, layout)
    if layout == STORE:
        return _check_store(path, reason, options)
    source = read_source(path, layout, Reading(options, reason, nowhere, progress))
    in_place = layout == inplace.LAYOUT and inplace.suits(path, options)
    if in_place:
        source = inplace.placed(source)
    clips, findings = settle(source, options)
    splits = {name: _split_report(clips[name], split, source.num_classes) for name, split in source.splits.items()}
    findings += duplicates(source.splits)
    if in_place and not errors_in(findings):
        inplace.keep_index(path, options, source=source, clips=clips, findings=findings)
    protocol, more = _judge_counts(splits, source.class_names)
    return CheckReport(
        path, size_of(path), sha256(path), layout, reason, source.skeleton.title, source.num_classes, source.class_names,
        protocol, source.about, splits, tuple(findings + more),
    )  # fmt: skip


def _check_store(path: Path, reason: str, options: ReadOptions) -> CheckReport:
    verify(path)
    stored = open_store(path)
    stored.refuse(path, options)
    classes = len(stored.class_names)
    splits = {name: _split_report(clips, None, classes) for name, clips in stored.clips.items()}
    protocol, more = _judge_counts(splits, stored.class_names)
    return CheckReport(
        path, size_of(path), sha256(path), STORE, reason, stored.skeleton.title, classes, stored.class_names,
        protocol, str(stored.attributes.get("about", "")), splits, (*stored.findings, *more),
    )  # fmt: skip


def _split_report(clips: Clips, split: Split | None, classes: int) -> SplitReport:
    known = clips.labels[(clips.labels >= 0) & (clips.labels < classes)]
    return SplitReport(
        clips=len(clips),
        shape=split.shape if split else clips.rows.shape,
        lengths=spread(clips.extent),
        valid=spread(clips.valid),
        people=tuple(np.bincount(clips.people, minlength=clips.max_people + 1).tolist()),
        histogram=tuple(np.bincount(known, minlength=classes).tolist()),
        orders=split.orders if split else (),
    )


def spread(values: np.ndarray) -> tuple[int, float, int]:
    """Smallest, median and largest; zeros of nothing."""
    return (int(values.min()), float(np.median(values)), int(values.max())) if len(values) else (0, 0.0, 0)


def _judge_counts(splits: dict[str, SplitReport], names: tuple[str, ...]) -> tuple[str, list[Finding]]:
    """The known protocol these counts belong to ("" if none), and findings about counts and unused classes."""
    train, test, classes = splits["train"], splits["test"], len(names)
    findings = []
    protocol, near = recognise(classes, train.clips, test.clips), nearly(classes, train.clips, test.clips)
    if protocol:
        text = f"{train.clips:,} + {test.clips:,} clips of {classes} classes: {protocol.name}, complete"
        findings.append(Finding("counts", INFO, text))
    elif near:
        text = f"{train.clips:,} + {test.clips:,} clips; {near.name} has {near.train:,} + {near.test:,}"
        findings.append(Finding("counts", WARNING, text, next_step="results will not be comparable with published ones"))
    for name, split in splits.items():
        unused = [k for k, count in enumerate(split.histogram) if not count]
        if unused and split.clips >= classes:
            few = ", ".join(names[k] for k in unused[:5]) + (" ..." if len(unused) > 5 else "")
            text = f"{len(unused)} of {classes} classes have no clip in {name}: {few}"
            findings.append(Finding("class-unused", WARNING, text, name, len(unused)))
    return protocol.name if protocol else "", findings


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
