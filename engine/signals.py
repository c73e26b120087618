"""What asks a run to stop, signals and a time limit: a wish that is honoured between two steps, or a stop at once."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from engine.errors import TIME_IS_UP, ConfigError, Interrupted

SAME = 1.0
"""Seconds within which a second SIGINT is the same Ctrl-C: the terminal sends it to every process, torchrun sends it on."""
_LIMIT = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", re.ASCII)


class StopWish:
    """`signal_number` is the first signal received, or None; that a time limit is over counts as `TIME_IS_UP`.

    The same signal may come any number of times, as schedulers and torchrun send it. Only a second Ctrl-C interrupts at once.

    deadline   on the clock of `time.monotonic`; None: no time limit
    patient    nor does that: torchrun passes on to each process what a terminal or scheduler may have sent it already
    """

    def __init__(self, deadline: float | None = None, *, patient: bool = False) -> None:
        self._patient = patient
        self._first: int | None = None
        self._deadline = deadline
        self._interrupted: float | None = None

    @property
    def signal_number(self) -> int | None:
        if self._first is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._first = TIME_IS_UP
        return self._first

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._interrupted is None:
                self._interrupted = now
            elif now - self._interrupted >= SAME and not self._patient:
                raise KeyboardInterrupt
        if self._first is None:
            self._first = number


@contextmanager
def stop_wish(deadline: float | None = None, *, patient: bool = False) -> Iterator[StopWish]:
    """Listen inside the block; the arguments are `StopWish`'s."""
    wish = StopWish(deadline, patient=patient)
    with _handled(wish):
        yield wish


@contextmanager
def stopped_at_once(next_step: str) -> Iterator[None]:
    """End the block at the first signal with `Interrupted`: for work that loses little, as its files are whole at any time."""
    with _handled(_stop):
        try:
            yield
        except _Stopped as stopped:
            raise Interrupted(stopped.number, f"stopped by {signal.Signals(stopped.number).name}", next_step=next_step) from None


class _Stopped(KeyboardInterrupt):
    """Not an `Exception`: nothing on its way takes it for a fault that can be mended."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: FrameType | None) -> None:
    end_undisturbed()
    raise _Stopped(number)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGUSR1 go to `handler` inside the block (only the main thread can hear them)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, TIME_IS_UP)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def end_undisturbed() -> None:
    """What is sent twice shall not change the exit code of a process that is ending, its state saved."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, TIME_IS_UP):
            signal.signal(number, signal.SIG_IGN)


def deadline(time_limit: str) -> float | None:
    """When `time_limit` will be over, on the clock of `time.monotonic`; None for an empty one. Raises `ConfigError`."""
    return time.monotonic() + seconds(time_limit) if time_limit else None


def seconds(time_limit: str) -> int:
    """``3h50m``, ``1d2h``, ``90m``, ``45s`` or plain seconds. Raises `ConfigError` (exit 2)."""
    found = _LIMIT.fullmatch(time_limit)
    total = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True)) if found else 0
    if not total:
        raise ConfigError(f"time_limit is {time_limit!r}", expected="such as 3h50m, 90m, 1d2h, or seconds: 13800")
    return total
