"""`smoke_test_all.py`: arguments, a live table, a report, an exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.container import Limits, memory_bytes
from orchestrator.discovery import choose
from orchestrator.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, OrchestratorError, explain
from orchestrator.leftovers import sweep
from orchestrator.smoke import Plan, connect, smoke
from orchestrator.verdict import Verdict, vram_of

_EPILOG = """exit codes: 0 all passed, 1 a smoke test failed or its image is missing, 2 wrong arguments,
66 a data file is missing, 69 no Docker engine answers, 77 no permission to use it, 130 interrupted (nothing is left behind)"""
_NO_INPUT = 66
LARGEST_GIB = 4096
"""GiB: no GPU that is asked about has more."""
_COLOURS = {"comfortable": "green", "fits": "cyan", "tight": "yellow", "no": "red"}


class _Parser(argparse.ArgumentParser):
    """Names the nearest right flag."""

    def error(self, message: str) -> Any:
        import difflib

        wrong = message.rpartition(": ")[2].split()[0] if message.startswith("unrecognized") else ""
        flags = [option for action in self._actions for option in action.option_strings]
        close = difflib.get_close_matches(wrong, flags, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise OrchestratorError(message + hint, f"see `{self.prog} --help`", exit_code=EXIT_USAGE)


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _gib(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= LARGEST_GIB:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of a GPU's memory in GiB, such as 8")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def parser(prog: str = "smoke_test_all.py") -> argparse.ArgumentParser:
    """The command line."""
    result = _Parser(
        prog=prog,
        description="Run every model's smoke test inside its image.",
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("names", nargs="*", metavar="NAME", help="models to test (default: all with a Dockerfile)")
    result.add_argument("--use-gpus", action="store_true", help="give each container a GPU and test on it")
    result.add_argument("--gpu", default="0", metavar="N", help="which GPU, by number or UUID (default 0)")
    result.add_argument("--device", help="device inside the container (default: cpu, or cuda:0 with --use-gpus)")
    result.add_argument("--jobs", type=_count, metavar="N", help="containers at once (default: half the cores, at most 4)")
    result.add_argument("--timeout", type=_positive, default=600.0, metavar="S", help="seconds for each (default 600)")
    result.add_argument("--memory", default="4g", help="memory limit of each container (default 4g)")
    result.add_argument("--data", type=Path, metavar="FILE", help="run on this data file, mounted read-only")
    result.add_argument("--hyper-data", type=Path, metavar="FILE", help="the same for hypergcn alone")
    result.add_argument(
        "--vram-limit", type=_gib, metavar="GIB", help="also judge each model's main recipe on a GPU with so much memory (8)"
    )
    result.add_argument("--fail-fast", action="store_true", help="stop at the first failure")
    result.add_argument("--json", type=Path, metavar="FILE", help="also write the verdicts here")
    return result


def _plan(argv: Sequence[str] | None) -> tuple[Plan, Path | None]:
    given = parser().parse_args(argv)
    for file in (given.data, given.hyper_data):
        if file is not None and not file.is_file():
            raise OrchestratorError(f"no data file {file}", "give the path of an existing file", exit_code=_NO_INPUT)
    memory_bytes(given.memory)
    device = given.device or ("cuda:0" if given.use_gpus else "cpu")
    if device.startswith("cuda") and not given.use_gpus:
        raise OrchestratorError(f"--device {device} without a GPU", "add --use-gpus", exit_code=EXIT_USAGE)
    plan = Plan(
        models=choose(given.names),
        device=device,
        gpu=given.gpu if given.use_gpus else None,
        jobs=given.jobs,
        limits=Limits(memory=given.memory, timeout=given.timeout),
        data=given.data,
        hyper_data=given.hyper_data,
        fail_fast=given.fail_fast,
        vram_limit=given.vram_limit,
    )
    return plan, given.json


def _status(stages: dict[str, str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("model")
    table.add_column("stage")
    for model, stage in stages.items():
        table.add_row(model, stage)
    return table


def _megabytes(value: Any, unit: float = 1e6) -> str:
    return f"{value / unit:.0f}" if isinstance(value, (int, float)) and value else "-"


def report(verdicts: Sequence[Verdict], console: Console) -> None:
    """A table of all, then reason, next step and the end of the log of each failure."""
    table = Table(title="smoke tests")
    for column in ("model", "verdict", "s", "RSS MiB", "GPU MiB", "image MB", "torch", "parameters", "loss"):
        table.add_column(column, justify="left" if column in ("model", "verdict", "torch") else "right")
    for verdict in verdicts:
        result = verdict.result
        loss = result.get("loss")
        table.add_row(
            verdict.model,
            "[green]passed[/]" if verdict.passed else "[red]FAILED[/]",
            f"{verdict.seconds:.1f}",
            _megabytes(result.get("peak_rss_bytes"), 2**20),
            _megabytes(result.get("peak_cuda_bytes"), 2**20),
            _megabytes(verdict.image_bytes),
            str(result.get("versions", {}).get("torch", "-")),
            str(result.get("parameters", "-")),
            f"{loss:.6f}" if isinstance(loss, float) else "-",
        )
    console.print(table)
    if judged := [(verdict.model, vram) for verdict in verdicts if (vram := vram_of(verdict.result))]:
        _report_vram(judged, console)
    for verdict in verdicts:
        if verdict.passed:
            continue
        console.print(f"{verdict.model}: {verdict.reason}", style="red", markup=False, highlight=False)
        if verdict.next_step:
            console.print(f"  next: {verdict.next_step}", markup=False, highlight=False)
        for line in verdict.log_tail:
            console.print(f"  | {line}", markup=False, highlight=False)


def _report_vram(judged: Sequence[tuple[str, Mapping[str, Any]]], console: Console) -> None:
    """What each model's main recipe reserves of a GPU's memory, predicted and measured, and below it how a tight one fits."""
    table = Table(title=f"on {judged[0][1]['limit_gib']:g} GiB of GPU memory, MiB")
    for column in ("model", "recipe", "batch", "predicted, training", "predicted, evaluation", "measured", "verdict"):
        table.add_column(column, justify="right" if column == "batch" else "left")
    for model, vram in judged:
        predicted = (f"{vram['predicted_mib'][phase]:.0f} ({' to '.join(f'{bound:.0f}' for bound in vram['interval'][phase])})"
                     for phase in ("train", "eval"))  # fmt: skip
        allocated, reserved = vram["measured_allocated_mib"], vram["measured_reserved_mib"]
        measured = vram["measured_note"] if reserved is None else f"{allocated:.0f} allocated, {reserved:.0f} reserved"
        word = Text(vram["word"], style=_COLOURS.get(vram["word"], "magenta"))
        table.add_row(model, vram["recipe"], str(vram["batch"]), *predicted, measured, word)
    console.print(table)
    for model, vram in judged:
        if vram["reason"] and vram["word"] != "no":  # a "no" is told with the failures
            console.print(f"{model}: {vram['reason']}", markup=False, highlight=False)


def _run(argv: Sequence[str] | None, console: Console) -> int:
    plan, json_file = _plan(argv)
    client = connect()
    try:
        if swept := sweep(client):
            console.print(f"removed {len(swept)} container(s) that a killed run had left")
        stages = dict.fromkeys(plan.models, "waiting")
        with Live(_status(stages), console=console, transient=True, refresh_per_second=4) as live:

            def told(model: str, stage: str) -> None:
                stages[model] = stage
                live.update(_status(stages))

            verdicts = smoke(client, plan, told)
    finally:
        client.close()
    report(verdicts, console)
    if json_file is not None:
        json_file.write_text(json.dumps([verdict.as_dict() for verdict in verdicts], indent=2) + "\n")
    passed = sum(verdict.passed for verdict in verdicts)
    console.print(f"{passed} of {len(plan.models)} passed")
    return 0 if passed == len(plan.models) else EXIT_FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a log has no width
    try:
        return _run(argv, console)
    except KeyboardInterrupt:
        print("error: interrupted; no container is left", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        known = explain(error)
        print(f"error: {known}", file=sys.stderr)
        return known.exit_code
