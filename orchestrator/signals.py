"""What to do when the user, a terminal or a scheduler wants an end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def told_of_signals(hear: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Those that ask for an end only call `hear`, also where a shell has set SIGINT to be ignored.

    `hear` may come at any moment and should do next to nothing: an exception raised there may strike in the middle of a
    clean-up, and a lock that it wants may be held. Outside of the main thread nothing is heard.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda number, _: hear(signal.Signals(number))) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
