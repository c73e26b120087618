"""Lists of samples to leave out: a text file, one name per line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shared_data.errors import DataError, MissingInputError
from shared_data.findings import WARNING, Finding

MAX_LIST_BYTES = 16 << 20


def read_skip_list(path: Path, is_name: Callable[[str], bool], *, suffix: str = "") -> tuple[frozenset[str], list[Finding]]:
    """The names in `path` without their `suffix`, and a finding if there are lines that are no names.

    Blank lines and a missing last newline do not matter. The published lists begin with a heading, so a line that is no name
    is only a warning. Raises `MissingInputError`, or `DataError` for a file without a single name.
    """
    try:
        if not path.is_file():
            raise MissingInputError("no such skip list", where=str(path), next_step="check the path")
        size = path.stat().st_size
        if size > MAX_LIST_BYTES:
            raise DataError(
                "too large for a list of names", where=f"{path} ({size:,} bytes)", expected=f"{MAX_LIST_BYTES:,} at most"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise MissingInputError(f"cannot read the skip list: {error.strerror}", where=str(path)) from None
    lines = [line.strip() for line in raw.decode("utf-8-sig", "replace").splitlines()]
    lines = [line for line in lines if line]
    names = [line.removesuffix(suffix) for line in lines]
    known = frozenset(name for name in names if is_name(name))
    if not known:
        raise DataError("no sample names in the skip list", where=f"{path} ({size:,} bytes)", expected="one name per line")
    strange = [line for line, name in zip(lines, names, strict=True) if name not in known]
    if not strange:
        return known, []
    text = f"{len(strange)} lines of the skip list are no sample names, first: {strange[0][:60]!r}"
    return known, [Finding("skip-list", WARNING, text, str(path), len(strange), next_step="correct them if they should be")]
