"""Paths of this machine that a command line names."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import EXIT_NO_INPUT, OrchestratorError


def exists(path: Path, flag: str) -> bool:
    """Whether it is there; raises (exit 66) where that cannot be seen, as below a folder that is somebody else's."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        what = f"{flag}: {path} cannot be looked at: {error.strerror}"
        raise OrchestratorError(what, "give a path that you may read", exit_code=EXIT_NO_INPUT) from error
    return True
