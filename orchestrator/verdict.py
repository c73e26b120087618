"""Did a container prove its model? Pure judgement of what a finished container left: exit state and log.

A smoke test passes only if all of these hold: exit code 0, not killed for memory (a child may be, while its parent exits
0), a log without warnings, errors and tracebacks, and a result line in which the container says that every assertion held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.log import DISK_FULL, LIMIT, NETWORK, OLD_IMAGE, READ_ONLY, UNCLEAN, Log

REQUIRED = frozenset({
    "parameter_count", "forward", "loss_fingerprint", "backward", "optimizer_step", "same_logits_after_reload", "trains",
})  # fmt: skip
"""Assertions that every smoke test makes (`smoke_tests/smoke.py`)."""
VRAM_ASSERTIONS = {"fits_vram_limit", "measured_within_vram_limit"}
_NO_FIGURE = 1e18  # nothing that is counted or measured here comes near it
VRAM_KEYS = {
    "limit_gib", "recipe", "batch", "word", "reason", "predicted_mib", "interval", "usable_mib", "measured_allocated_mib",
    "measured_reserved_mib", "measured_note",
}  # fmt: skip
"""What a container says of GPU memory (`smoke_tests/vram.py`)."""
_MISBEHAVIOUR = {
    READ_ONLY: (
        "it tried to write outside /tmp and its work folder",
        "write to the work folder: the root of a container is read-only",
    ),
    NETWORK: (
        "it tried to reach the network",
        "bring what it needs into the image, or mount it: a container has no network",
    ),
}
_REBUILD = "rebuild the image: its smoke test is older than this command"


@dataclass(frozen=True)
class Finished:
    """What is known about a container when it has stopped, or was stopped.

    seconds   wall time from start to stop
    log       stdout and stderr
    """

    exit_code: int
    oom_killed: bool
    timed_out: bool
    seconds: float
    log: Log


@dataclass(frozen=True)
class Verdict:
    """The outcome of one model's smoke test. `result` is the container's own JSON line, {} without one; `command` the
    `docker run` line that repeats it by hand.
    """

    model: str
    passed: bool
    reason: str
    next_step: str = ""
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)
    log_tail: tuple[str, ...] = ()
    image_bytes: int = 0
    command: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "model": self.model,
            "passed": self.passed,
            "reason": self.reason,
            "next_step": self.next_step,
            "seconds": round(self.seconds, 2),
            "image_bytes": self.image_bytes,
            "command": self.command,
            "result": self.result,
            "log_tail": list(self.log_tail),
        }


def failed_assertions(result: dict[str, Any]) -> list[str]:
    """Names of the assertions that do not hold, or were not made."""
    assertions = result.get("assertions")
    if not isinstance(assertions, dict):
        assertions = {}
    wrong = [str(name) for name, holds in assertions.items() if holds is not True]
    return wrong + [f"{name} (not made)" for name in sorted(REQUIRED - assertions.keys())]


def vram_of(result: dict[str, Any]) -> dict[str, Any] | None:
    """What a container says about GPU memory, None where it says nothing, not all of it, or what cannot be."""
    vram = result.get("vram")
    return vram if isinstance(vram, dict) and vram.keys() >= VRAM_KEYS and _is_vram(vram) else None


def _is_vram(vram: Mapping[str, Any]) -> bool:
    """Whether all values are of the kinds that `smoke_tests/vram.py` writes."""
    predicted, interval = vram["predicted_mib"], vram["interval"]
    measured = [vram["measured_allocated_mib"], vram["measured_reserved_mib"]]
    return (
        all(isinstance(vram[name], str) for name in ("recipe", "word", "reason", "measured_note"))
        and all(is_figure(vram[name]) for name in ("limit_gib", "batch", "usable_mib"))
        and (measured == [None, None] or all(map(is_figure, measured)))
        and all(isinstance(phases, dict) and phases.keys() >= {"train", "eval"} for phases in (predicted, interval))
        and all(is_figure(predicted[phase]) and _are_bounds(interval[phase]) for phase in ("train", "eval"))
    )


def _are_bounds(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_figure, value))


def is_figure(value: Any) -> bool:
    """A number that can be written as one; JSON also has 1e999, which is infinite, and integers without end."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _NO_FIGURE


def _vram_reason(vram: dict[str, Any]) -> tuple[str, str]:
    """Why the model's main recipe does not do on the GPU memory asked about, and what to do."""
    what = f"{vram['recipe']} on {vram['limit_gib']:g} GiB of GPU memory"
    if vram["word"] == "no":
        return f"{what}: no; {vram['reason']}", "ask about a larger card, or give the recipe a smaller batch"
    reserved = vram["measured_reserved_mib"]
    seen = vram["measured_note"] if reserved is None else f"{reserved:g} MiB were measured here"
    return (
        f"{what}: predicted {vram['word']}, but {seen}; such a card has {vram['usable_mib']:g} MiB to give",
        "run sal calibrate on this GPU; until then believe the measurement",
    )


def judge(model: str, finished: Finished, *, timeout: float, memory: str, vram: bool = False) -> Verdict:
    """The verdict on one container; `vram` says that it was asked about GPU memory."""
    result = finished.log.result
    reason, next_step = _reason(model, finished, result, timeout=timeout, memory=memory, vram=vram)
    return Verdict(
        model, not reason, reason or "passed", next_step, finished.seconds, result or {}, () if not reason else finished.log.tail
    )


def _reason(
    model: str, finished: Finished, result: dict[str, Any] | None, *, timeout: float, memory: str, vram: bool
) -> tuple[str, str]:
    """Why it failed and what to do next; two empty strings when it passed."""
    return (
        _stopped(finished, timeout, memory)
        or _misbehaved(finished)
        or (_ended_with(finished, result, vram) if finished.exit_code else _said(model, finished, result, vram))
        or ("", "")
    )


def _stopped(finished: Finished, timeout: float, memory: str) -> tuple[str, str] | None:
    """It was not let run to its end."""
    if finished.log.size > LIMIT:
        return f"more than {LIMIT >> 20} MiB of log, stopped", "mend the cause: a smoke test says little"
    if finished.timed_out:
        return f"not finished after {timeout:g} s, stopped", "give more with --timeout, or look at the log"
    if finished.oom_killed:
        child = " (a child process; the test itself went on)" if finished.exit_code == 0 else ""
        return f"killed for memory at its limit of {memory}{child}", "give more with --memory, fewer at once with --jobs"
    return None


def _misbehaved(finished: Finished) -> tuple[str, str] | None:
    """It tried what it may not, whatever came of that."""
    ended = f"exit code {finished.exit_code}: " if finished.exit_code else ""
    for sign, (what, next_step) in _MISBEHAVIOUR.items():
        if sign in finished.log.signs:
            return f"{ended}{what}: {_brief(finished.log.signs[sign])}", next_step
    return None


def _ended_with(finished: Finished, result: dict[str, Any] | None, vram: bool) -> tuple[str, str]:
    """An exit code other than 0."""
    if DISK_FULL in finished.log.signs:
        return f"exit code {finished.exit_code}: a disk or tmpfs in the container is full", "see the log"
    if vram and OLD_IMAGE in finished.log.signs:
        return "the image is older than --vram-limit", _REBUILD
    if result is not None and (failed := failed_assertions(result)):
        return _failed(result, failed)
    return f"exit code {finished.exit_code}", "see the log"


def _said(model: str, finished: Finished, result: dict[str, Any] | None, vram: bool) -> tuple[str, str] | None:
    """Exit code 0: then the log must be clean, and its result say that all held."""
    log = finished.log
    if log.broken:
        return f"the log could not be read to its end: {log.broken}", "repeat"
    if UNCLEAN in log.signs:
        return f"the log is not clean: {_brief(log.signs[UNCLEAN])}", "mend the cause: a clean model logs no warnings"
    if result is None:
        return "no result line in the log", _REBUILD
    if log.results > 1 or result.get("model") != model:
        return f"{log.results} result lines in the log, the last of model {result.get('model')!r}, where one is due", _REBUILD
    if failed := failed_assertions(result):
        return _failed(result, failed)
    unsaid = vram_of(result) is None and result.get("vram", {}) is not None  # null: it has nothing whose memory is predicted
    return ("the result says nothing of GPU memory", _REBUILD) if vram and unsaid else None


def _brief(line: str) -> str:
    return line.strip()[:160]


def _failed(result: dict[str, Any], failed: list[str]) -> tuple[str, str]:
    """The assertions by name, or GPU memory in words where it is all that fails."""
    vram = vram_of(result)
    if vram is not None and set(failed) <= VRAM_ASSERTIONS:
        return _vram_reason(vram)
    return f"assertions that do not hold: {', '.join(failed)}", "see the log"
