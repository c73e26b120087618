"""The form in which verbs speak to programs."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console


class PipedConsole(Console):
    """A console that says a closed pipe (`sal plan | head`) as Python does; rich itself would leave with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))
