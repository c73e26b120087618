"""A data file as read: both splits ragged, and everything that was noticed, before anything is decided about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared_data.clips import Clips
from shared_data.errors import DataError
from shared_data.findings import ERROR, INFO, ROWS_NAMED, WARNING, Finding, rows_finding
from shared_data.formats.options import ReadOptions
from shared_data.formats.ragged import Scan, SinkMaker, in_memory
from shared_data.skeletons import Skeleton

Progress = Callable[[int, int], None]  # clips done, clips in all
Tick = Callable[..., None]  # so many more clips are done; one, if not said
LONGEST_TEXT = 10_000  # characters of a name
FAR = 50.0  # a median |coordinate| beyond this is no distance in metres in front of a camera


@dataclass(frozen=True)
class Reading:
    """How a reader is called: the user's options, why this layout was chosen, where rows go, who is told of progress."""

    options: ReadOptions = ReadOptions()
    reason: str = "asked for"
    sinks: SinkMaker = in_memory
    progress: Progress | None = None


def ticker(progress: Progress | None, total: int) -> Tick:
    """A function to be told how many more clips are done; it tells `progress`."""
    done = 0

    def tick(clips: int = 1) -> None:
        nonlocal done
        done += clips
        if progress:
            progress(done, total)

    return tick


@dataclass(frozen=True)
class Split:
    """One split.

    clips   the ragged form; clip n is row n of the file, nothing dropped
    shape   of the array it came from; (N,) for a folder of clips
    scan    what is unusual about which clips
    orders  the measures of the layout fingerprint, empty where there is nothing to confuse
    """

    clips: Clips
    shape: tuple[int, ...]
    scan: Scan
    orders: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Source:
    """What a reader returns. `layout` is a name of `reading.LAYOUTS`; `reason` says why."""

    layout: str
    reason: str
    skeleton: Skeleton
    num_classes: int
    class_names: tuple[str, ...]
    splits: dict[str, Split]  # "train" and "test"
    findings: list[Finding] = field(default_factory=list)
    about: str = ""

    def __post_init__(self) -> None:
        """Raises `DataError` for names that cannot be written down, or are far too long."""
        named = [("the description", [self.about]), ("a class name", list(self.class_names))]
        named += [(f"a clip name of {name}", split.clips.ids.tolist()) for name, split in self.splits.items()]
        for what, texts in named:
            limit = LONGEST_TEXT if what != "a class name" else LONGEST_TEXT // 10
            longest = max(map(len, texts), default=0)
            if longest > limit or "\0" in "".join(texts) or not _encodable("".join(texts)):
                raise DataError(
                    f"{what} is no plain text, or has {longest:,} characters", where=self.layout,
                    expected=f"Unicode text of at most {limit:,} characters, without NUL",
                )  # fmt: skip


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def clip_findings(name: str, split: Split, *, drop: bool) -> list[Finding]:
    """Findings about single clips of the split `name`; NaN, inf and empty clips are only warnings if they are dropped."""
    scan, clips = split.scan, split.clips
    findings = []
    if len(clips) == (len(scan.unusable) if drop else 0):
        findings.append(Finding("split-empty", ERROR, f"the {name} split holds no {'usable ' if drop else ''}clips", name))
    severity, dropped = (WARNING, " (dropped)") if drop else (ERROR, "")
    policy = "" if drop else "repair or remove these clips, or leave them out with --on-bad drop"
    single = np.flatnonzero(clips.extent == 1).tolist()
    for code, level, what, rows in (
        ("clip-nan", severity, f"clips holding NaN{dropped}", scan.nan),
        ("clip-inf", severity, f"clips holding infinite values{dropped}", scan.inf),
        ("clip-empty", severity, f"clips without a single non-zero value{dropped}", scan.empty),
        ("person-order", WARNING, "clips in which person 1 never appears but person 2 does", scan.first_absent),
        ("gaps", INFO, "clips with all-zero frames inside (official pipelines then cut the last frames)", scan.gaps),
        ("leading", INFO, "clips that begin with all-zero frames", scan.leading),
        ("cancelled", INFO, "clips with a frame adding up to exactly 0 (officially not counted)", scan.cancelled),
        ("copied-person", INFO, "clips whose person 2 copies person 1 (as the NTU-120 scripts write)", scan.copied),
        ("one-frame", INFO, "clips of a single frame", single),
    ):
        if not rows:
            continue
        # In a folder of named clips a row number would mean nothing.
        told = f" ({', '.join(str(clips.ids[row]) for row in rows[:ROWS_NAMED])})" if len(split.shape) == 1 else ""
        step = policy if level == ERROR else ""
        findings.append(rows_finding(code, level, what + told, where=name, rows=rows, next_step=step))
    if scan.median_size > FAR:
        findings.append(
            Finding(
                "unit", WARNING, f"median coordinate {scan.median_size:.0f}: these look like millimetres or pixels", name,
                next_step="metres are expected: divide millimetres by 1000 (own clips: units = \"mm\" in dataset.toml)",
            )
        )  # fmt: skip
    return findings
