"""Large files that are either the old one or the new one, never half of each; folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
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
        raise _failed(kind, target, error) from error


@contextlib.contextmanager
def whole_folder(target: Path, *, kind: str) -> Iterator[Path]:
    """An empty folder for files that becomes `target`, which must be new, when the block ends without an error.

    Until then it is the hidden folder ``.<target>.partial``, held under a lock as in `whole_file`; what a killed run left there
    is cleared by the next one. Raises `WriteError` (exit code 74).
    """
    _require_free(target, kind)
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked_folder(partial):
            for left in partial.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            try:
                yield partial
                _require_free(target, kind)
                partial.rename(target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            flush(target.parent)
    except OSError as error:
        raise _failed(kind, target, error) from error


def _failed(kind: str, target: Path, error: OSError | ValueError) -> WriteError:
    return WriteError(
        f"could not write the {kind}: {getattr(error, 'strerror', None) or error}",
        where=str(target),
        next_step="free some space or choose another place, then run the same command again",
    )


def _require_free(target: Path, kind: str) -> None:
    if target.is_symlink() or target.exists():
        raise WriteError(
            "something is there already; it is left alone", where=str(target), expected=f"the name of a new {kind}",
            next_step="choose another place, or remove it first",
        )  # fmt: skip


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
            if _is_at(path, file.fileno()):
                file.truncate(0)
                yield file
                return


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    """`path`, made if need be, for this process alone. One that another process finished meanwhile is not touched."""
    path.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = _is_at(path, descriptor)
        except BlockingIOError:
            ours = False
        if not ours:
            raise WriteError("another command is writing this folder", where=str(path))
        yield
    finally:
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether what is open as `descriptor` is what has the name `path` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _remove(path: Path, file: IO[bytes]) -> None:
    """Remove `path` if it is still this `file`: once ours has its final name, a file of that name is another run's."""
    with contextlib.suppress(OSError):
        if _is_at(path, file.fileno()):
            path.unlink()


def flush(path: Path) -> None:
    """Make what was written to a file, or a rename in a folder, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
