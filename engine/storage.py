"""Files that are either the old one or the new one, never half of each, and that read back as they were written."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engine.errors import SaveError
from shared_data.atomic import flush

T = TypeVar("T")
TRANSIENT = frozenset((errno.EIO, errno.EAGAIN, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT))
"""Reasons that pass by themselves: a network file system that was away for a moment, a bus that hiccuped."""
PAUSES = (0.1, 0.5, 2.0, 8.0)
"""Seconds before each further attempt."""
NO_LINKS = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV))
"""How a file system says that a file has one name there: FAT, and some that a virtual machine shares with its host."""
NO_FOLDER_FLUSH = frozenset((errno.EINVAL, errno.ENOTSUP))
PIECE = 1 << 20  # bytes read back at a time


def write_atomically(path: Path, content: bytes, *, previous: Path | None = None) -> None:
    """Write `content` to a temporary file beside `path`, flush it, read it back from the disk, and rename it over `path`.

    previous   the name, in the same folder, under which the file that is now at `path` stays, once the new one is verified

    What fails for a reason that may pass is tried again. Raises `SaveError` (exit 74) naming the path and the bytes needed; the
    file that was there before is then untouched. At every moment `path` or `previous` is a whole file.
    """
    try:
        patiently(lambda: _write(path, content, previous), f"write {path}")
        patiently(lambda: _flush_folder(path.parent), f"flush {path.parent}")
    except OSError as error:
        raise _save_error(path, len(content), error) from error


def append_line(path: Path, line: bytes) -> None:
    """Add `line`, which ends with its newline, and hand it to the system at once; what fails leaves no part of it.

    Raises `SaveError` (exit 74).
    """

    def append() -> None:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            before = os.fstat(handle).st_size
            try:
                _write_all(handle, line)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)

    try:
        patiently(append, f"write {path}")
    except OSError as error:
        raise _save_error(path, len(line), error) from error


def patiently(work: Callable[[], T], what: str) -> T:
    """`work()`, tried again after each of `PAUSES` while it fails for a `TRANSIENT` reason; each time standard error says so.

    what   the words behind "could not"
    """
    for pause in PAUSES:
        try:
            return work()
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise
            print(f"note: could not {what} ({error.strerror}); trying again in {pause:g} s", file=sys.stderr, flush=True)
        time.sleep(pause)
    return work()


def sweep_temporaries(folder: Path) -> None:
    """Remove what a killed writer left in `folder`; only the one writer of the folder may call this."""
    for leftover in folder.glob(".*.*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def _write(path: Path, content: bytes, previous: Path | None) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        try:
            _write_all(handle, content)
            os.fchmod(handle, 0o644)
            os.fsync(handle)
            _require_same(handle, content)
        finally:
            os.close(handle)
        if previous is not None:
            _keep(path, previous)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _write_all(handle: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _require_same(handle: int, content: bytes) -> None:
    """Read the file back; raises OSError if it is not `content`."""
    if hasattr(os, "posix_fadvise"):  # what was flushed is forgotten by the system, and comes from the disk
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    at = 0
    while piece := os.pread(handle, PIECE, at):
        if piece != content[at : at + len(piece)]:  # a memoryview would be compared number by number
            break
        at += len(piece)
    if at != len(content):
        raise OSError(errno.EIO, f"what was written reads back differently from byte {at} on")


def _keep(path: Path, previous: Path) -> None:
    """Give the file at `path`, if there is one, the name `previous` too, in the place of what has that name."""
    second = path.with_name(f".{previous.name}.{os.getpid()}.tmp")
    second.unlink(missing_ok=True)
    try:
        second.hardlink_to(path)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        path.replace(previous)  # until the new file is renamed, `previous` alone is there
        return
    second.replace(previous)
    second.unlink(missing_ok=True)  # a rename to another name of the same file does nothing


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable, where the file system can."""
    try:
        flush(folder)
    except OSError as error:
        if error.errno not in NO_FOLDER_FLUSH:
            raise


def _save_error(path: Path, size: int, error: OSError) -> SaveError:
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file size limit of this process is reached",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "no permission to write",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    tried = f", also when tried {len(PAUSES)} times more" if error.errno in TRANSIENT else ""
    return SaveError(
        f"could not write {size} bytes: {reason}{tried}",
        where=str(path),
        next_step="free some space (or point --work-dir elsewhere) and run the same command again; it resumes",
    )
