"""`smoke_test_all.py` and `python -m orchestrator smoke`: arguments, the run, the files asked for, an exit code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console

from orchestrator.arguments import Parser, amount, count, gib, positive
from orchestrator.connection import connect
from orchestrator.discovery import choose
from orchestrator.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NO_INPUT,
    EXIT_UNWRITTEN,
    EXIT_USAGE,
    OrchestratorError,
    guarded,
)
from orchestrator.figures import summary
from orchestrator.files import writable, write
from orchestrator.leftovers import sweep
from orchestrator.page import page
from orchestrator.report import report
from orchestrator.smoke import Plan, smoke
from orchestrator.smoke_container import Limits
from orchestrator.status import watched
from orchestrator.terminal import console_of_stdout, piped
from orchestrator.verdict import Verdict

PROG = "smoke_test_all.py"
_EPILOG = """exit codes: 0 all passed, 1 a smoke test failed or its image is missing, 2 wrong arguments,
66 a data file is missing, 69 no Docker engine answers, 73 the file of --json or --html cannot be written there (nothing is run),
74 it, or the standard output, could not be written in the end, 77 no permission to use the engine,
130 interrupted (no container is left behind, no file is written)"""


@dataclass(frozen=True)
class _Files:
    """What is written besides the terminal, in place of what is there; real paths, None for what nobody asked for."""

    json: Path | None = None
    html: Path | None = None

    def __str__(self) -> str:
        return " and ".join(str(file) for file in (self.json, self.html) if file is not None)


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line."""
    result = Parser(
        prog=prog,
        description="Run every model's smoke test inside its image.",
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("names", nargs="*", metavar="NAME", help="models to test (default: all with a Dockerfile)")
    result.add_argument("--use-gpus", action="store_true", help="give each container a GPU and test on it")
    result.add_argument("--gpu", metavar="N", help="which GPU with --use-gpus, by number or UUID (default 0)")
    result.add_argument("--device", help="device inside the container (default: cpu, or cuda:0 with --use-gpus)")
    result.add_argument(
        "--jobs", type=count, metavar="N", help="containers at once (default: half the cores, at most 4; with --use-gpus 1)"
    )
    result.add_argument("--timeout", type=positive, default=600.0, metavar="S", help="seconds for each (default 600)")
    result.add_argument("--memory", type=amount, default="4g", help="memory limit of each container (default 4g)")
    result.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="also train on this file, mounted read-only: NTU RGB+D, 25 joints, in a layout that `sal data check` knows",
    )
    result.add_argument("--hyper-data", type=Path, metavar="FILE", help="the same for hypergcn alone")
    result.add_argument(
        "--vram-limit", type=gib, metavar="GIB", help="also judge each model's main recipe on a GPU with so much memory (8)"
    )
    result.add_argument("--fail-fast", action="store_true", help="stop at the first failure")
    result.add_argument("--json", type=Path, metavar="FILE", help="also write the verdicts here")
    result.add_argument("--html", type=Path, metavar="FILE", help="also write them as a page to read in a browser")
    return result


def _asked(argv: Sequence[str] | None, prog: str) -> tuple[Plan, _Files]:
    given = parser(prog).parse_args(argv)
    for file in (given.data, given.hyper_data):
        if file is not None and not file.is_file():
            raise OrchestratorError(f"no data file {file}", "give the path of an existing file", exit_code=EXIT_NO_INPUT)
    device = given.device or ("cuda:0" if given.use_gpus else "cpu")
    if device.startswith("cuda") and not given.use_gpus:
        raise OrchestratorError(f"--device {device} without a GPU", "add --use-gpus", exit_code=EXIT_USAGE)
    if given.gpu is not None and not given.use_gpus:
        raise OrchestratorError(f"--gpu {given.gpu}, but no GPU is to be used", "add --use-gpus", exit_code=EXIT_USAGE)
    plan = Plan(
        models=choose(given.names),
        device=device,
        gpu=(given.gpu or "0") if given.use_gpus else None,
        jobs=given.jobs,
        limits=Limits(memory=given.memory, timeout=given.timeout),
        data=given.data,
        hyper_data=given.hyper_data,
        fail_fast=given.fail_fast,
        vram_limit=given.vram_limit,
    )
    return plan, _files(given)


def _files(given: argparse.Namespace) -> _Files:
    files = {flag: writable(flag, path) for flag in ("json", "html") if (path := getattr(given, flag)) is not None}
    taken = [file.resolve() for file in (given.data, given.hyper_data) if file is not None]
    for flag, file in files.items():
        if file in taken:
            raise OrchestratorError(f"--{flag} {file}: another flag names this file", "name two files", exit_code=EXIT_USAGE)
        taken.append(file)
    return _Files(**files)


def _written(files: _Files, verdicts: Sequence[Verdict], models: Sequence[str]) -> list[str]:
    """Write what was asked for; returns what could not be written, and why."""
    failures = []
    contents = (
        (files.json, lambda: json.dumps([verdict.as_dict() for verdict in verdicts], indent=2) + "\n"),
        (files.html, lambda: page(verdicts, models, datetime.now().astimezone())),
    )
    for file, content in contents:
        try:
            if file is not None:
                write(file, content())
        except OSError as error:
            failures.append(f"could not write {file}: {error.strerror or error}")
    return failures


def _verdicts(plan: Plan, files: _Files, console: Console) -> list[Verdict]:
    client = connect()
    try:
        if swept := sweep(client):
            console.print(f"removed {len(swept)} container(s) that a killed run had left")
        with watched(plan.models, console) as told:
            return smoke(client, plan, told)
    except KeyboardInterrupt:
        unwritten = f", and nothing was written to {files}" if str(files) else ""
        raise OrchestratorError(f"interrupted; no container is left{unwritten}", exit_code=EXIT_INTERRUPTED) from None
    finally:
        client.close()


def _run(argv: Sequence[str] | None, prog: str) -> int:
    plan, files = _asked(argv, prog)
    console = console_of_stdout()
    verdicts = _verdicts(plan, files, console)
    failures = _written(files, verdicts, plan.models)  # first: a terminal that has gone away costs no file
    report(verdicts, console)
    console.print(summary(verdicts, plan.models), markup=False, highlight=False, soft_wrap=True)
    if failures:
        raise OrchestratorError(
            "; ".join(failures),
            "make room or name another place, then repeat; the verdicts above are complete",
            exit_code=EXIT_UNWRITTEN,
        )
    return 0 if sum(verdict.passed for verdict in verdicts) == len(plan.models) else EXIT_FAILED


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command; returns its exit code."""
    return guarded(lambda: piped(lambda: _run(argv, prog)))
