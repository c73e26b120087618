"""`python -m orchestrator sweep FILE`: many runs over several GPUs and Docker hosts, with a queue that survives a crash."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

from rich.console import Console

from orchestrator import sweep_hosts, sweep_journal
from orchestrator.arguments import Parser
from orchestrator.errors import EXIT_FAILED, EXIT_USAGE, OrchestratorError
from orchestrator.figures import Grid
from orchestrator.files import writable, write
from orchestrator.foreground import say
from orchestrator.page import document, table
from orchestrator.report import drawn, narrowed
from orchestrator.signals import told_of_signals
from orchestrator.sweep_figures import sweep_grid, sweep_summary
from orchestrator.sweep_file import Sweep, read_sweep
from orchestrator.sweep_hosts import Answer, Host
from orchestrator.sweep_queue import conduct
from orchestrator.sweep_states import DONE, FAILED, RUNNING, State, states_of
from orchestrator.terminal import console_of_stdout, piped

_ANSWER_SECONDS = 10.0
_EPILOG = """FILE holds slots (docker context and GPU) and runs: docs/docker.md, "Sweeps", and docs/cluster/sweep.yaml.
Killed at any moment, the same command goes on: what is done is not repeated, and containers that run are found again.

exit codes: 0 all runs are done, 1 a run failed, or an image is missing, 2 wrong arguments or file, 65 the journal is damaged,
66 a path does not exist, 69 no Docker engine answers, 73 the folder is in use, or holds other runs, 74 the journal, or the page
of --html, could not be written, 77 no permission to use the engine, 130 or 143 interrupted: the runs have saved their states"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = Parser(
        prog="python -m orchestrator sweep",
        description="Run a list of runs over several GPUs and Docker hosts.",
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("file", type=Path, metavar="FILE", help="YAML: slots and runs")
    add("--folder", type=Path, metavar="DIR", help="where its journal, logs and runs are (default work_dir/sweeps/FILE's name)")
    add("--retry-failed", action="store_true", help="let failed runs wait anew")
    add("--status", action="store_true", help="only print where each run stands")
    add("--html", type=Path, metavar="PAGE", help="with --status: also write it as a page to read in a browser")
    return result


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    return piped(lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    given = parser().parse_args(argv)
    if given.html is not None and not given.status:
        raise OrchestratorError("--html goes with --status", "add --status", exit_code=EXIT_USAGE)
    folder = given.folder or Path("work_dir/sweeps") / given.file.stem
    sweep = read_sweep(given.file, folder)
    if given.status:
        return _status(sweep, folder, given)
    console = console_of_stdout()
    heard: list[signal.Signals] = []
    with told_of_signals(heard.append), sweep_journal.opened(folder) as journal:
        states = conduct(sweep, journal, heard, again=given.retry_failed)
    _show(sweep_grid(sweep, states, {}), console)
    console.print(sweep_summary(sweep, states), markup=False, highlight=False, soft_wrap=True)
    return 0 if all(state.state == DONE for state in states.values()) else EXIT_FAILED


def _status(sweep: Sweep, folder: Path, given: argparse.Namespace) -> int:
    page = None if given.html is None else writable("html", given.html)
    events, at_work = sweep_journal.looked_at(folder)
    states = states_of(events)
    grid, told = sweep_grid(sweep, states, _last_lines(states)), sweep_summary(sweep, states)
    if page is not None:
        write(page, document(f"Sweep {given.file.stem}: {told}", datetime.now().astimezone(), [table(grid)]))
    console = console_of_stdout()
    _show(grid, console)
    waits = any(states.get(run.name, State()).state not in (DONE, FAILED) for run in sweep.runs)
    idle = "; no process is at work on it: the same command without --status goes on" if waits and not at_work else ""
    console.print(told + idle, markup=False, highlight=False, soft_wrap=True)
    return 0


def _show(grid: Grid, console: Console) -> None:
    console.print(drawn(narrowed(grid, console.width), console.width))
    console.print()


def _last_lines(states: Mapping[str, State]) -> dict[str, str]:
    """What the runs at work wrote last, as far as their engines answer soon."""
    at_work = {state.container: name for name, state in states.items() if state.state == RUNNING}
    answers: SimpleQueue[Answer] = SimpleQueue()
    hosts = {context: Host(context, answers) for context in {states[name].context for name in at_work.values()}}
    for container, name in at_work.items():
        hosts[states[name].context].ask("line", container, partial(sweep_hosts.last_line, name=container))
    lines: dict[str, str] = {}
    until = time.monotonic() + _ANSWER_SECONDS
    for _ in at_work:
        try:
            answer = answers.get(timeout=max(until - time.monotonic(), 0.0))
        except Empty:
            break
        name = at_work[answer.about]
        if answer.error is None:
            lines[name] = answer.value
        else:
            say(f"{name} on {answer.host}: {sweep_hosts.told(answer.error).what}")
    for host in hosts.values():
        host.leave()
    return lines
