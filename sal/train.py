"""From a command line to a run: what `sal train`, `sal test` and every model's `main.py` call. Heavy imports stay inside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.launch import guarded, run

if TYPE_CHECKING:
    from engine.config import RunConfig


def main(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 main.py …` in a model's folder. Exit codes: docs/exit-codes.md."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: launch(words, model=model, prog="python3 main.py"))


def launch(argv: Sequence[str], *, model: str = "", phase: str = "", prog: str = "sal train") -> int:
    """Parse, fit where asked, then train or test; returns 0 or raises."""
    from engine.config import parse
    from engine.runfolder import FIT

    config, said, keep = parse(argv, model=model, phase=phase, prog=prog), given(argv), {}
    if "fit" not in said:
        config = _as_begun(config)
    if config.fit:
        from planner.fit import fitted

        choice = fitted(config, said)
        config, keep[FIT] = choice.config, choice.record
        for line in choice.lines:
            print(line, flush=True)
    return run(config, keep)


def _as_begun(config: RunConfig) -> RunConfig:
    """A run that is resumed is fitted as it was begun; what the fit changed would else be dropped without a word."""
    from dataclasses import replace

    from engine.assembly import work_dir
    from engine.runfolder import fit_to_resume

    fit = fit_to_resume(config, work_dir(config))
    if fit is None or fit == config.fit:
        return config
    print(f"fit: --fit {fit}, with which this run was begun; --fit '' goes on without", flush=True)
    return replace(config, fit=fit)


def given(argv: Sequence[str]) -> set[str]:
    """The keys that a command line sets itself, also by the abbreviations that the parser takes."""
    from dataclasses import fields

    from engine.config import RunConfig

    flags = (word.split("=", 1)[0].split(".", 1)[0] for word in argv if word.startswith("--") and word != "--")
    words = {flag.removeprefix("--").replace("-", "_") for flag in flags}
    names = {field.name for field in fields(RunConfig)}
    return {name for name in names if any(name == word or (word not in names and name.startswith(word)) for word in words)}
