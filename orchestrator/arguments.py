"""Words of a command line."""

from __future__ import annotations

import argparse
import difflib
from typing import Any

from orchestrator.cage import memory_bytes
from orchestrator.errors import EXIT_USAGE, OrchestratorError


class Parser(argparse.ArgumentParser):
    """Names the nearest right flag, and leaves by `OrchestratorError`."""

    def error(self, message: str) -> Any:
        wrong = message.rpartition(": ")[2].split()[0] if message.startswith("unrecognized") else ""
        flags = [option for action in self._actions for option in action.option_strings]
        close = difflib.get_close_matches(wrong, flags, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise OrchestratorError(message + hint, f"see `{self.prog} --help`", exit_code=EXIT_USAGE)


def amount(text: str) -> str:
    """An amount of memory in Docker's notation, as it is; raises on anything else."""
    memory_bytes(text)
    return text
