"""Large files that are either the old one or the new one, never half of each."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from shared_data.errors import LabError


class WriteError(LabError):
    """A file could not be written: disk full, no permission, in the way, or another command is writing it."""

    exit_code = 74


@contextlib.contextmanager
def whole_file(target: Path, *, kind: str, replaceable: Callable[[Path], bool]) -> Iterator[IO[bytes]]:
    """An empty file open for writing that becomes `target` when the block ends without an error.

    Until then it is the hidden file ``.<target>.partial`` (its ``name``), held under a lock that dies with the process; a killed
    run leaves it and the next one overwrites it. It is flushed to the disk, then renamed. A file that is at `target` already is
    only replaced if `replaceable` says so, a link never: what it points to would be neither kept up to date nor removed.
    Raises `WriteError` (exit code 74).
    """
    try:
        _check_target(target, kind, replaceable)
        partial = target.with_name(f".{target.name}.partial")
        with contextlib.ExitStack() as stack:
            # Left in reverse order: what is left of the partial file is removed while its lock is still held.
            file = stack.enter_context(_locked(partial))
            stack.callback(_remove, partial, file)
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(target)
            flush(target.parent)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if not isinstance(error, OSError) and "\0" not in str(target):
            raise
        raise WriteError(
            f"could not write the {kind}: {getattr(error, 'strerror', None) or error}",
            where=str(target),
            next_step="free some space or choose another place, then run the same command again",
        ) from error


def _check_target(target: Path, kind: str, replaceable: Callable[[Path], bool]) -> None:
    if target.is_symlink():
        raise WriteError(
            f"the target is a link, to {target.readlink()}; it is left alone", where=str(target), expected="the name of a file",
            next_step="name the file itself that is to be written",
        )  # fmt: skip
    if target.is_dir():
        raise WriteError("the target is a folder", where=str(target), expected="the name of a file to write")
    if not target.parent.is_dir():
        raise WriteError("the target's folder does not exist", where=str(target.parent), next_step="create it first")
    if target.exists() and not (target.is_file() and replaceable(target)):
        raise WriteError(
            f"the target exists and is no {kind} to be replaced; it is left alone",
            where=str(target),
            next_step="choose another name, or remove it first",
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """`path` open for writing and reading, emptied, locked. Not in append mode: a zip file goes back to its headers.

    A link of that name is not followed: what it points to belongs to somebody else. Between opening and locking, the run that
    held the lock may have removed the file or given it its final name: then it is not emptied, and `path` is opened anew.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666)

    while True:
        with open(path, "r+b", opener=opener) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WriteError("another command is writing this file", where=str(path)) from None
            if _is_at(path, file):
                file.truncate(0)
                yield file
                return


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether the open `file` is what has the name `path` now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _remove(path: Path, file: IO[bytes]) -> None:
    """Remove `path` if it is still this `file`: once ours has its final name, a file of that name is another run's."""
    with contextlib.suppress(OSError):
        if _is_at(path, file):
            path.unlink()


def flush(path: Path) -> None:
    """Make what was written to a file, or a rename in a folder, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
