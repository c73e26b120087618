"""Files that are either the old one or the new one, never half of each."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from engine.errors import SaveError


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, flush it to the disk, and rename it over `path`.

    raises `SaveError` (exit 74) naming the path and the bytes needed; the file that was there before is untouched
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise _save_error(path, len(content), error) from error


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _save_error(path: Path, size: int, error: OSError) -> SaveError:
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file size limit of this process is reached",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "no permission to write",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    return SaveError(
        f"could not write {size} bytes: {reason}",
        where=str(path),
        next_step="free some space (or point --work-dir elsewhere) and run the same command again; it resumes",
    )


def sweep_temporaries(folder: Path) -> None:
    """Remove what a killed writer left in `folder`; only the one writer of the folder may call this."""
    for leftover in folder.glob(".*.*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()
