"""Where each run of a sweep stands: what follows from the events of its journal, and from the exit code of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.sweep_file import Sweep

WAITING, RUNNING, RETRY, DONE, FAILED = "waiting", "running", "retry", "done", "failed"
FINAL = frozenset({2, 65, 66, 70, 76, 78, 126, 127})
"""Exit codes (docs/exit-codes.md) after which the same again would end the same."""
RESUME_ME = 85
"""Exit code of a run whose time limit was over: its state is saved, and it is not to blame."""
SAVED_OR_KILLED = frozenset({130, 137, 143})
"""What a run ends with that was asked to end."""


@dataclass(frozen=True)
class State:
    """One run.

    attempt    how often it was started; `failures`: how many of these count against its retries
    digest     of what was started
    context, gpus, container   of the last attempt
    begun      whether the container of the last attempt is known to have run
    lost       whether its engine stopped answering, and the run has waited for another one since
    home       the context where it first ran, and where its checkpoints are; None before that
    code, why  how the last attempt ended
    """

    state: str = WAITING
    attempt: int = 0
    failures: int = 0
    digest: str = ""
    context: str = ""
    gpus: str = ""
    container: str = ""
    begun: bool = False
    lost: bool = False
    home: str | None = None
    code: int | None = None
    why: str = ""


def states_of(events: Iterable[Mapping[str, Any]]) -> dict[str, State]:
    """Of all runs that a journal tells of."""
    result: dict[str, State] = {}
    for event in events:
        if "run" in event:
            result[event["run"]] = after(result.get(event["run"], State()), event)
    return result


def after(state: State, event: Mapping[str, Any]) -> State:
    """Where a run stands after an event of its own."""
    match event["event"]:
        case "start":  # it is about to be
            return replace(
                state, state=RUNNING, attempt=event["attempt"], digest=event["digest"], context=event["context"],
                gpus=event["gpus"], container=event["container"], begun=False, lost=False, code=None, why="",
            )  # fmt: skip
        case "begun":
            return replace(state, state=RUNNING, begun=True, lost=False, home=state.context if state.home is None else state.home)
        case "lost":
            return replace(state, state=WAITING, lost=True, why=event["why"])
        case "ended":
            return replace(
                state, state=event["state"], lost=False, failures=state.failures + event["counted"], code=event["code"],
                why=event["why"],
            )  # fmt: skip
        case "again":
            return replace(state, state=WAITING, failures=0, home=state.home if event["same"] else None)
    return state


def verdict(code: int, failures: int, sweep: Sweep, *, asked: bool) -> tuple[str, bool]:
    """The state of a run that ended with `code`, and whether this counts against its retries.

    failures   how many did before; `asked`: whether the sweep itself had asked it to end
    """
    if code == 0:
        return DONE, False
    if code == RESUME_ME or (asked and code in SAVED_OR_KILLED):
        return WAITING, False
    if code in FINAL or failures >= sweep.retries:
        return FAILED, True
    return RETRY, True
