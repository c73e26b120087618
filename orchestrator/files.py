"""Files that are written at the end of a long run: refused before it where that cannot be, and never left half written."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

from orchestrator.errors import EXIT_UNWRITABLE, OrchestratorError


def writable(flag: str, path: Path) -> Path:
    """The file behind `path`, which need not exist; raises where it will not be possible to write it."""
    try:
        file = path.resolve()
        if file.is_dir():
            wrong, next_step = "this is a folder", "name a file in it"
        elif file.exists() and not file.is_file():
            wrong, next_step = "this is a device, a pipe or a socket", "name an ordinary file"
        elif not file.parent.is_dir():
            wrong, next_step = f"there is no folder {file.parent}", f"mkdir -p {file.parent}"
        else:
            if file.exists():
                file.open("ab").close()  # read-only ones stay as they are, though they could be replaced
            with tempfile.TemporaryFile(dir=file.parent):  # the folder may be read-only, or its disk
                return file
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        wrong, next_step = getattr(error, "strerror", None) or str(error), "name a file in a folder that you can write to"
    raise OrchestratorError(f"--{flag} {path} cannot be written: {wrong}", next_step, exit_code=EXIT_UNWRITABLE)


def write(file: Path, text: str) -> None:
    """Put `text` in place of `file`, which is the old one or the new one at any time, never half of each."""
    temporary = file.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as opened:
            opened.write(text.encode())
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
