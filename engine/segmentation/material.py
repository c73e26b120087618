"""From settings to the sequences of a segmentation run: read, divided, and what a network is shown of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from engine.config import DEBUG_CLIPS, RunConfig
from engine.errors import ConfigError
from shared_data.errors import MissingInputError, nearest
from shared_data.formats.options import ReadOptions
from shared_data.formats.untrimmed import open_sequences
from shared_data.pipelines.lasa import motion_and_shape
from shared_data.pipelines.normalised import normalised
from shared_data.sequence_loader import Features
from shared_data.sequences import Sequences, SequenceSource
from shared_data.skeletons import Skeleton
from shared_data.validation import validation

PIPELINES: dict[str, Callable[[Skeleton], Features]] = {
    "normalised": lambda skeleton: partial(normalised, skeleton=skeleton),
    "lasa": lambda skeleton: motion_and_shape,
}
"""What a network is shown of a sequence: the coordinates of pretraining, or displacements and shape as DeST and LaSA do."""
CHANNELS = {"normalised": 3, "lasa": 6}
"""Per person and joint."""
LOOKED_AT = 16
"""Sequences of each split whose coordinates are in the fingerprint."""


@dataclass(frozen=True)
class Material:
    """The sequences of a run.

    held_out  what each epoch is judged by: the test sequences, or those held out of training under the honest protocol
    test      never looked at before the end under the honest protocol
    rule      by what `held_out` was chosen
    """

    source: SequenceSource
    train: Sequences
    held_out: Sequences
    test: Sequences
    rule: str

    @property
    def people(self) -> int:
        return self.train.clips.max_people

    @property
    def positive_weight(self) -> float:
        """Frames by boundaries of the training sequences."""
        frames = int(self.train.lengths.sum())
        marked = sum(int(self.train.boundaries(n).sum()) for n in range(len(self.train)))
        return frames / max(marked, 1)

    def fingerprint(self) -> int:
        """CRC-32 of names, lengths and classes of all sequences, and the coordinates of some of each split."""
        crc = 0
        for part in (self.train, self.held_out, self.test):
            crc = zlib.crc32("\n".join(part.ids.tolist()).encode(), crc)
            crc = zlib.crc32(np.ascontiguousarray(part.lengths, "<i8").data, crc)
            for n in range(len(part)):
                crc = zlib.crc32(np.ascontiguousarray(part.labels(n), "<i8").data, crc)
            for n in np.unique(np.linspace(0, len(part) - 1, min(LOOKED_AT, len(part))).round().astype(int)).tolist():
                crc = zlib.crc32(np.ascontiguousarray(part.frames(n), "<f4").data, crc)
        return crc


def load(config: RunConfig) -> Material:
    """The sequences that `config` names. Raises `MissingInputError`, `DataError`, `UsageError`, `ConfigError`."""
    if config.data is None:
        raise MissingInputError(
            "no data named", expected="--data with a folder of PKU-MMD's text files, or of arrays as DeST and LaSA have them, or "
            "a prepared store", next_step="see docs/segmentation.md",
        )  # fmt: skip
    options = ReadOptions(split=config.split or "auto", on_bad=config.on_bad)
    source = open_sequences(Path(config.data), layout=config.layout, options=options)
    train, test = source.splits["train"], source.splits["test"]
    held_out, rule = test, "the test sequences"
    if config.protocol == "honest":
        divided = validation(source, config.split or "auto")
        train, held_out, rule = divided.train, divided.val, divided.told
    if limit := config.max_clips or (DEBUG_CLIPS if config.debug else 0):
        train, held_out, test = (_thinned(part, limit) for part in (train, held_out, test))
    return Material(source, train, held_out, test, rule)


def _thinned(sequences: Sequences, limit: int) -> Sequences:
    """At most `limit` sequences, evenly spaced."""
    count = len(sequences)
    return sequences.subset(np.linspace(0, count - 1, min(limit, count)).round().astype(np.int64))


def features(config: RunConfig, skeleton: Skeleton) -> Features:
    """What the run's network is shown of a sequence. Raises `ConfigError` for a pipeline that is for clips, or none."""
    if config.pipeline not in PIPELINES:
        raise ConfigError(
            f"pipeline {config.pipeline!r} makes nothing of whole sequences{nearest(config.pipeline, PIPELINES)}",
            where="--pipeline", expected=" or ".join(PIPELINES),
        )  # fmt: skip
    return PIPELINES[config.pipeline](skeleton)
