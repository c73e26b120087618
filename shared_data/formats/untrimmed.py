"""Open untrimmed sequences of any layout: the one place that knows the readers of whole videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from shared_data.errors import DataError, UsageError, nearest
from shared_data.findings import ERROR, WARNING, Finding, refuse_errors
from shared_data.formats import lasa, nw_ucla, nw_ucla_joined, pku_mmd, sequence_file
from shared_data.formats.look import Look, look
from shared_data.formats.options import ReadOptions
from shared_data.formats.ragged import SinkMaker, in_memory
from shared_data.formats.reading import READERS
from shared_data.formats.source import Progress, Reading
from shared_data.sequences import SequenceSource


class SequenceReader(Protocol):
    """What every layout module of untrimmed data offers."""

    def recognise(self, seen: Look) -> str | None:
        """One clause that says why `seen` is of this layout, or None."""
        ...

    def read_sequences(self, path: Path, how: Reading) -> SequenceSource:
        """Read `path`, a video at a time. What is wrong with single videos is a finding, and they are left out."""
        ...


SEQUENCE_READERS: dict[str, SequenceReader] = {  # asked in this order
    "store": sequence_file,
    "lasa": lasa,
    "pku_mmd": pku_mmd,
    "nw_ucla": nw_ucla_joined,
}


def only_untrimmed(path: Path, layout: str = "auto") -> bool:
    """Whether this can be nothing but untrimmed sequences: no layout of clips has the same files, or the same name."""
    if layout != "auto":
        return layout in SEQUENCE_READERS and layout not in (*READERS, sequence_file.STORE)
    seen = look(path)
    return sequence_file.is_ours(seen) or bool(lasa.recognise(seen))


def open_sequences(
    path: str | Path,
    *,
    layout: str = "auto",
    options: ReadOptions = ReadOptions(),
    sinks: SinkMaker = in_memory,
    progress: Progress | None = None,
) -> SequenceSource:
    """Untrimmed sequences ready for a `SequenceLoader`, split as `options.split` says.

    A store is memory-mapped (`sinks` then is not asked for), anything else is read whole. NW-UCLA's clips are joined only if
    `layout` asks for it. Raises `DataError` for the first error finding, see `read_untrimmed`.
    """
    source = read_untrimmed(Path(path), layout, Reading(options, "", sinks, progress))
    refuse_errors(source.findings, path)
    return source


def read_untrimmed(path: Path, layout: str, how: Reading) -> SequenceSource:
    """The same with all findings, errors among them; with `options.on_bad` "drop", what is wrong was left out, a warning.

    Raises `MissingInputError`, `DataError` for what cannot be read at all, `UsageError` for options of no use.
    """
    if layout not in ("auto", *SEQUENCE_READERS):
        known = ("auto", *SEQUENCE_READERS)
        raise UsageError(f"unknown layout of sequences {layout!r}{nearest(layout, known)}", expected=", ".join(known))
    seen = look(path)
    reasons = {name: reader.recognise(seen) for name, reader in SEQUENCE_READERS.items() if layout in ("auto", name)}
    name = next((name for name, reason in reasons.items() if reason), None if layout == "auto" else layout)
    if name is None:
        raise DataError(
            f"no untrimmed sequences in this {seen.kind}",
            where=str(path),
            expected="skeleton/NAME.txt and label/NAME.txt, or features/NAME.npy, gt_arr/NAME.npy and mapping.txt, or a store",
            next_step="--layout nw_ucla joins the clips of NW-UCLA" if nw_ucla.recognise(seen) else "",
        )
    reason = reasons[name] if layout == "auto" else "asked for"
    source = SEQUENCE_READERS[name].read_sequences(path, replace(how, reason=str(reason)))
    findings = list(source.findings)
    if how.options.drop_bad:
        findings = [replace(each, severity=WARNING) if each.severity == ERROR else each for each in findings]
    for split in ("train", "test"):
        if split not in source.splits or not len(source.splits[split]):
            findings.append(Finding("split-empty", ERROR, f"the {split} split holds no usable sequences", split))
    return replace(source, findings=findings)
