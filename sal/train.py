"""From a command line to a run: what `sal train`, `sal test` and every model's `main.py` call. Heavy imports stay inside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.launch import guarded, run

if TYPE_CHECKING:
    from engine.config import RunConfig
    from planner.fit import Fitted

RECORD = "fit.json"


def main(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 main.py …` in a model's folder. Exit codes: docs/exit-codes.md."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: launch(words, model=model, prog="python3 main.py"))


def launch(argv: Sequence[str], *, model: str = "", phase: str = "", prog: str = "sal train") -> int:
    """Parse, fit where asked, then train or test; returns 0 or raises."""
    from engine.config import parse

    config, choice = parse(argv, model=model, phase=phase, prog=prog), None
    if config.fit:
        from planner.fit import fitted

        choice = fitted(config, given(argv))
        config = choice.config
        for line in choice.lines:
            print(line, flush=True)
    try:
        return run(config)
    finally:
        _keep(config, choice)


def given(argv: Sequence[str]) -> set[str]:
    """The keys that a command line sets itself, also by the abbreviations that the parser takes."""
    from dataclasses import fields

    from engine.config import RunConfig

    flags = (word.split("=", 1)[0].split(".", 1)[0] for word in argv if word.startswith("--") and word != "--")
    words = {flag.removeprefix("--").replace("-", "_") for flag in flags}
    names = {field.name for field in fields(RunConfig)}
    return {name for name in names if any(name == word or (word not in names and name.startswith(word)) for word in words)}


def _keep(config: RunConfig, choice: Fitted | None) -> None:
    """Write into the folder of a run, however it ended, what was fitted; into no other run's folder.

    Here and not in the trainer, which knows no planner; the settings themselves are in `config.yaml` from the start.
    """
    import json

    from engine.assembly import work_dir
    from engine.storage import write_atomically

    folder = work_dir(config)
    try:
        ours = (folder / "config.yaml").read_text(encoding="utf-8") == config.to_yaml()
    except (OSError, ValueError):
        return  # refused before it began
    if ours and choice is not None:
        write_atomically(folder / RECORD, (json.dumps(choice.record, indent=1) + "\n").encode())
    elif ours:
        (folder / RECORD).unlink(missing_ok=True)  # of a run that was started over
