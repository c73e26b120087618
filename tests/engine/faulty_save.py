"""One save whose system calls are counted, fail or kill the process: ``python faulty_save.py FOLDER MODE AT ERROR``.

FOLDER holds the bytes to save as ``new``. The calls are those of `engine.storage.write_atomically`, in the order they are made.
MODE "record" prints their names; "kill" kills the process in place of call AT, "killed after" right after it, "torn" in the
middle of it if it writes, "kill without links" in place of it where no file can have two names; "once" lets call AT fail with
the error number ERROR, "always" every call of that name from there on. Leaves with 0, or with the exit code of the `SaveError`,
which is printed.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import storage
from engine.errors import SaveError

NAMES = ("open", "write", "fchmod", "fsync", "posix_fadvise", "pread", "close", "link", "unlink", "replace", "ftruncate", "fstat")


class Watched:
    """The calls of this process from now on."""

    def __init__(self, mode: str, at: int, error: int) -> None:
        self.mode, self.at, self.error, self.made, self.failing = mode, at, error, [], ""
        for name in NAMES:
            real = getattr(os, name)
            setattr(os, name, self._in_place_of(name, real))
            accessor = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10 took the functions when it was imported
            if hasattr(accessor, name) and name != "open":
                setattr(accessor, name, staticmethod(getattr(os, name)))

    def _in_place_of(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            here = len(self.made) == self.at
            self.made.append(name)
            if self.mode.startswith("kill ") and name == "link":
                raise OSError(self.error, os.strerror(self.error))
            if self.mode in ("kill", "kill without links") and here:
                die()
            if self.mode == "torn" and here and name == "write":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                die()
            if self.mode in ("once", "always") and here:
                self.failing = name
            if self.failing == name and (here or self.mode == "always"):
                raise OSError(self.error, os.strerror(self.error))
            try:
                return real(*arguments, **options)
            finally:
                if self.mode == "killed after" and here:
                    die()

        return call


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, mode: str, at: int, error: int) -> int:
    content = (folder / "new").read_bytes()
    storage.PAUSES = (0.0, 0.0)
    watched = Watched(mode, at, error)
    try:
        storage.write_atomically(folder / "last.safetensors", content, previous=folder / "previous.safetensors")
    except SaveError as failed:
        print(failed)
        return failed.exit_code
    finally:
        watched.mode = ""
        if mode == "record":
            print(*watched.made)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
