"""Ctrl-C and a scheduler's SIGTERM: a wish to stop, which the training loop honours between two steps, or a stop at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from engine.errors import Interrupted


class StopWish:
    """`signal_number` is the first signal received, or None. A second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number


@contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Listen for SIGINT and SIGTERM inside the block (only the main thread can)."""
    wish = StopWish()
    with _handled(wish):
        yield wish


@contextmanager
def stopped_at_once(next_step: str) -> Iterator[None]:
    """End the block at SIGINT or SIGTERM with `Interrupted`: for work that loses little, as its files are whole at any time."""
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
    raise _Stopped(number)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGINT and SIGTERM go to `handler` inside the block (only the main thread can hear them)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
