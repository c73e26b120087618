"""A folder that is there with all its files, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from shared_data.atomic import WriteError, flush


@contextlib.contextmanager
def whole_folder(target: Path, *, kind: str) -> Iterator[Path]:
    """An empty folder that becomes `target` when the block ends without an error.

    Until then it is the hidden folder ``.<target>.partial``, held under a lock that dies with the process; what a killed run
    left there is cleared by the next one. Raises `WriteError` (exit code 74) if anything is at `target` already.
    """
    _require_free(target, kind)
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(partial):
            for left in partial.iterdir():
                left.unlink()
            try:
                yield partial
                _require_free(target, kind)
                partial.rename(target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            flush(target.parent)
    except OSError as error:
        raise WriteError(
            f"could not write the {kind}: {error.strerror or error}", where=str(target),
            next_step="free some space or choose another place, then run the same command again",
        ) from error  # fmt: skip


def _require_free(target: Path, kind: str) -> None:
    if target.is_symlink() or target.exists():
        raise WriteError(
            "something is there already; it is left alone", where=str(target), expected=f"the name of a new {kind}",
            next_step="choose another place, or remove it first",
        )  # fmt: skip


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """`folder`, made if need be, for this process alone. One that another process finished meanwhile is not touched."""
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            still_there = os.path.samestat(os.fstat(descriptor), folder.stat(follow_symlinks=False))
        except (BlockingIOError, FileNotFoundError):
            still_there = False
        if not still_there:
            raise WriteError("another command is writing this folder", where=str(folder))
        yield
    finally:
        os.close(descriptor)
