"""From a command line to a run: what `sal train`, `sal test` and every model's `main.py` call. Heavy imports stay inside."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from engine.launch import guarded, run
from shared_data.errors import LabError

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.errors import OutOfMemoryError
    from engine.models import Stage


def main(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 main.py …` in a model's folder. Exit codes: docs/exit-codes.md."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: launch(words, model=model, prog="python3 main.py"))


def launch(
    argv: Sequence[str],
    *,
    model: str = "",
    phase: str = "",
    prog: str = "sal train",
    stage: Stage = "supervised",
    needs: Sequence[str] = (),
) -> int:
    """Parse, fit where asked, then train or test; returns 0 or raises.

    needs   settings that must be given
    """
    from engine import distributed
    from engine.assembly import work_dir
    from engine.config import parse
    from engine.errors import ConfigError, OutOfMemoryError
    from engine.runfolder import FIT, fit_to_resume
    from engine.weights import as_told
    from planner.expectation import expect

    wished, said = parse(argv, model=model, phase=phase, prog=prog, stage=stage), given(argv)
    if missing := [name for name in needs if not getattr(wished, name)]:
        raise ConfigError(f"{prog.removesuffix(' MODEL')} needs --{missing[0]}", next_step=f"{prog} --{missing[0]} ...")
    if wished.stage == "supervised":
        wished = as_told(wished)
    elif wished.stage == "segment" and wished.phase == "test":
        from engine.segmentation.trained import as_trained

        wished = as_trained(wished)
    begun = fit_to_resume(wished, work_dir(wished))
    if begun and "fit" not in said:
        wished = _as_begun(wished, begun["fit"])
    config, keep, lines = wished, {}, []
    if config.fit:
        distributed.require_alone(
            "--fit", "it reckons with the whole batch on one GPU",
            f"--fit '' and what `sal plan` says of {-(-config.batch_size // distributed.place().size)} clips (--batch)",
        )  # fmt: skip
        from planner.fit import fitted

        choice = fitted(config, said, begun)
        config, keep[FIT], lines = choice.config, choice.record, choice.lines
    try:
        return run(config, keep, lines=lines, expect=expect)
    except OutOfMemoryError as error:
        if distributed.place().size > 1:  # the advice is for one process with the whole batch
            raise
        full = error
    raise _with_advice(full, config, wished, said, shlex.join([*_verb(config, prog, model), *argv]))


def _verb(config: RunConfig, prog: str, model: str) -> list[str]:
    """The words before the flags of a command that does what `prog` did. Official scripts have words of their own."""
    if prog == "python3 main.py":
        return prog.split()
    verbs: dict[str, list[str]] = {"supervised": [config.phase], "segment": ["segment", config.phase]}
    return ["sal", *verbs.get(config.stage, [config.stage]), *filter(None, [model])]


def _with_advice(error: OutOfMemoryError, config: RunConfig, wished: RunConfig, said: set[str], command: str) -> OutOfMemoryError:
    """`error` with the command that is predicted to fit; as it is where nothing can be predicted.

    config   what ran
    wished   what was asked for, before any `--fit`
    said     the keys that `command` sets itself
    """
    from engine.assembly import choose_device
    from engine.errors import OutOfMemoryError
    from engine.memory import TRAINING, counted
    from planner.expectation import advice
    from planner.levers import WINDOW

    device = choose_device(config.device)
    if not counted(device):
        return error
    try:
        found = advice(config, wished, said, device, evaluation=error.part != TRAINING)
    except LabError:
        return error
    if not found.flags:
        return error
    if not found.fits:
        expected = "\n            ".join([f"nothing is predicted to be enough; nearest: {found.flags}", *found.lines])
        other = f"a larger GPU, or a smaller --batch-size; {WINDOW}"
        return OutOfMemoryError(error.what, part=error.part, expected=expected, next_step=other)
    words = [command, *(["--fit ''"] if config.fit else []), found.flags, *_to_go_on(config, found.again)]
    return OutOfMemoryError(error.what, part=error.part, next_step="\n            ".join([" ".join(words), *found.lines]))


def _to_go_on(config: RunConfig, changed: AbstractSet[str]) -> list[str]:
    """What a command needs so that it goes on with the run of `config`, though it has `changed` these settings."""
    from dataclasses import fields

    from engine.assembly import work_dir
    from engine.runfolder import has_state

    if config.phase != "train" or not has_state(work_dir(config)):
        return []
    another = any(field.name in changed and not field.metadata["volatile"] for field in fields(config))
    return [*(["--resume auto"] if config.resume == "never" else []), *(["--force"] if another and not config.force else [])]


def _as_begun(config: RunConfig, fit: str) -> RunConfig:
    """A run that is resumed is fitted as it was begun; what the fit changed would else be dropped without a word."""
    from dataclasses import replace

    if fit == config.fit:
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
