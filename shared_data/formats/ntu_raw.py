"""NTU RGB+D 60 and 120 as published: a folder or zip of text files ``S001C001P001R001A001.skeleton``.

The clips are those of the NPZ files that CTR-GCN's preparation writes from the same files, in the same order of rows, with
the samples' names. Source: the published preparation, see `ntu_bodies`; the rules of the splits, see `protocols`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from shared_data.classes import class_names
from shared_data.errors import DataError, UsageError
from shared_data.findings import ERROR, INFO, WARNING, Finding
from shared_data.formats.listing import Listing, open_listing
from shared_data.formats.look import Look
from shared_data.formats.ntu_bodies import prepare
from shared_data.formats.ntu_text import JOINTS, MAX_BYTES, parse
from shared_data.formats.options import ReadOptions, refuse_options
from shared_data.formats.ragged import RaggedBuilder
from shared_data.formats.skip_list import read_skip_list
from shared_data.formats.source import Reading, Source, Split, ticker
from shared_data.protocols import NtuName, SplitRule, ntu_name, split_rule
from shared_data.skeletons import NTU25

SUFFIX = ".skeleton"
FRAMES = 300  # T of the published files, the longest sample
SETUPS_60, ACTIONS_60 = 17, 60  # the largest numbers of NTU-60
LAST_ACTION = 120
NAMED = 3  # how many files a message spells out


@dataclass
class _Aside:
    """Files that became no clip, or not as they are, by what was wrong."""

    damaged: list[str] = field(default_factory=list)
    bodyless: list[str] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)
    trailing: list[str] = field(default_factory=list)
    long: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # of the first damaged ones

    def findings(self, *, skip_list: bool) -> Iterator[Finding]:
        repair = "repair or copy these files again, or name them in a skip list"
        published = "" if skip_list else "the published lists leave out incomplete samples too; give one with --skip-list"
        reasons = f" ({'; '.join(self.reasons)})"
        for code, severity, names, what, step in (
            ("clip-damaged", ERROR, self.damaged, f"damaged files{reasons}", repair),
            ("clip-bodyless", WARNING, self.bodyless, "files without any body were left out", published),
            ("clip-noise", WARNING, self.noise, "files whose bodies are all seen for too few frames were left out", published),
            ("clip-trailing", WARNING, self.trailing, "files with text after the frames they declare, which was not read", ""),
            ("clip-cut", WARNING, self.long, f"clips longer than {FRAMES} frames, of which the rest was cut", ""),
        ):
            if names:
                yield Finding(code, severity, f"{len(names)} {what}: {_first(names)}", names[0], len(names), next_step=step)


def recognise(seen: Look) -> str | None:
    """Why this is the layout, or None."""
    clips = [name for name in seen.names if _clip_name(name)]
    if not clips or seen.kind not in ("folder", "zip"):
        return None
    return f"a {seen.kind} with {len(clips)} files named like {PurePosixPath(clips[0]).name}"


def read(path: Path, how: Reading) -> Source:
    """Read a folder or a zip; `how.options.split` must name the protocol.

    60 or 120 classes: as asked, else as the samples' names say. With 120, clips of a single person hold that person twice,
    as the published files do. Damaged files are collected in one error finding; files without a body are left out.
    """
    options = how.options
    refuse_options(path, "ntu_raw", options, "repair")
    if options.num_classes not in (None, 60, 120):
        raise UsageError(f"{options.num_classes} classes were asked for", where=str(path), expected="60 or 120 for NTU RGB+D")
    with open_listing(path, kind="zip of .skeleton files") as listing:
        files = listing.clips(_clip_name)
        if not files:
            raise DataError(
                "no NTU RGB+D samples found", where=str(path), expected="files named like S001C001P001R001A001.skeleton"
            )
        samples = {name: sample for name in files if (sample := ntu_name(name))}
        classes = options.num_classes or _classes(samples)
        rule = split_rule(options.split, classes)
        findings = _others(len(listing.names) - len(files))
        findings += _leave_out(samples, classes, rule, options)
        chosen = _divide(samples, rule)
        aside, splits, tick = _Aside(), {}, ticker(how.progress, len(samples))
        for split, names in chosen.items():
            builder = RaggedBuilder(how.sinks(split, JOINTS, np.dtype(np.float32)), joints=JOINTS, max_people=2)
            kept = []
            for name in names:
                clip = _clip(listing, files[name], name, aside, copy_person=classes == 120)
                if clip is not None:
                    builder.add(clip[None])
                    kept.append(name)
                tick()
            labels = np.array([samples[name].action - 1 for name in kept], np.int64)
            clips = builder.finish(labels, np.array(kept, dtype="U"), frames=FRAMES)
            splits[split] = Split(clips, (len(kept),), builder.scan)
    findings += aside.findings(skip_list=options.skip_list is not None)
    return Source("ntu_raw", how.reason, NTU25, classes, class_names(classes), splits, findings, rule.protocol)


def _clip(listing: Listing, file: str, name: str, aside: _Aside, *, copy_person: bool) -> np.ndarray | None:
    """One clip (T, P, 25, 3), T at most 300; None if there is none, which is noted in `aside`."""
    try:
        recording = parse(listing.read(file, limit=MAX_BYTES), listing.where(file))
    except DataError as error:
        aside.damaged.append(name)
        if len(aside.reasons) < NAMED:
            aside.reasons.append(f"{error.where.removeprefix(str(listing.path)).lstrip('/, ')}: {error.what}")
        return None
    if recording.trailing:
        aside.trailing.append(name)
    clip = prepare(recording)
    if clip is None:
        (aside.noise if len(recording.body) else aside.bodyless).append(name)
        return None
    if len(clip) > FRAMES:
        aside.long.append(name)
    if copy_person and clip.shape[1] == 1:
        clip = clip.repeat(2, axis=1)
    return clip[:FRAMES] if len(clip) else np.zeros((1, *clip.shape[1:]), np.float32)


def _classes(samples: dict[str, NtuName]) -> int:
    """120 if an action or setup is beyond NTU-60's, else 60."""
    known = [sample for sample in samples.values() if 1 <= sample.action <= LAST_ACTION]
    beyond = any(sample.action > ACTIONS_60 or sample.setup > SETUPS_60 for sample in known)
    return 120 if beyond else 60


def _leave_out(samples: dict[str, NtuName], classes: int, rule: SplitRule, options: ReadOptions) -> list[Finding]:
    """Remove from `samples` what the skip list names and what has no place in the protocol, and say so."""
    findings: list[Finding] = []
    if options.skip_list:
        skipped, findings = read_skip_list(options.skip_list, lambda name: ntu_name(name) is not None, suffix=SUFFIX)
        here = [name for name in samples if name in skipped]
        text = f"{len(here)} of the {len(skipped)} samples in the skip list are here and were left out"
        findings.append(Finding("skip-list", INFO, text, str(options.skip_list), len(here)))
        for name in here:
            del samples[name]
    actions = {name: sample.action for name, sample in samples.items()}
    wrong = sorted(name for name, action in actions.items() if not 1 <= action <= LAST_ACTION)
    beyond = sorted(name for name, action in actions.items() if classes < action <= LAST_ACTION)
    nowhere = sorted({name for name, sample in samples.items() if rule.side(sample) is None} - {*wrong, *beyond})
    numbers = f"{rule.known.start} to {rule.known.stop - 1}"
    for code, severity, names, what, step in (
        ("label-range", ERROR, wrong, f"samples of actions outside 1 to {LAST_ACTION}", "remove or rename these files"),
        ("action-left-out", INFO, beyond, f"samples of actions beyond {classes} were left out, as asked", ""),
        ("split-unknown", WARNING, nowhere, f"samples with a {rule.part} outside {numbers} belong to neither split", ""),
    ):
        if names:
            text = f"{len(names)} {what}: {_first(names)}"
            findings.append(Finding(code, severity, text, names[0], len(names), next_step=step))
        for name in names:
            del samples[name]
    return findings


def _divide(samples: dict[str, NtuName], rule: SplitRule) -> dict[str, list[str]]:
    """Names of each split in the order of the published files' rows."""
    chosen: dict[str, list[str]] = {"train": [], "test": []}
    for name in sorted(samples, key=lambda name: rule.position(samples[name])):
        side = rule.side(samples[name])
        assert side is not None, "left out before"
        chosen[side].append(name)
    return chosen


def _others(count: int) -> list[Finding]:
    return [Finding("file-ignored", WARNING, f"{count} other files were ignored", count=count)] if count else []


def _first(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _clip_name(name: str) -> str | None:
    file = PurePosixPath(name)
    return file.stem if file.suffix == SUFFIX and ntu_name(file.stem) else None
