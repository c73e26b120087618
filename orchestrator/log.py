"""A container's log, read as it is written: every line is looked at, and only what a verdict needs is kept.

The engine keeps the end of a log at most, so a warning in a long one would be gone before anyone had read it.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from typing import Any

RESULT_KIND = "smoke_result"
LIMIT = 64 * 2**20
"""Bytes: a container that writes more is stopped."""
_LONGEST = 1 << 20  # bytes kept of one line
_SHOWN = 400  # characters of a line that is shown
_TAIL = 15

UNCLEAN, READ_ONLY, NETWORK, DISK_FULL, OLD_IMAGE = "unclean", "read-only", "network", "disk full", "old image"
_SIGNS = {
    UNCLEAN: re.compile(
        r"\b(?:WARN|WARNING|ERROR|CRITICAL|FATAL)\b|\b\w*(?:Warning|Error):|Traceback \(most recent call last\)|\[W\d"
    ),
    READ_ONLY: re.compile("Read-only file system", re.IGNORECASE),
    NETWORK: re.compile(
        "Network is unreachable|Temporary failure in name resolution|Name or service not known|bad address '", re.IGNORECASE
    ),
    DISK_FULL: re.compile("No space left on device", re.IGNORECASE),
    OLD_IMAGE: re.compile("unrecognized arguments: --vram-limit"),
}  # fmt: skip


class Log:
    """What is kept of a log.

    size     bytes so far
    result   the last JSON line of kind "smoke_result"; it is never a sign of anything else
    signs    name of a sign -> the first line that bears it
    """

    def __init__(self) -> None:
        self.size = 0
        self.result: dict[str, Any] | None = None
        self.signs: dict[str, str] = {}
        self._last: deque[str] = deque(maxlen=_TAIL)
        self._begun = [b"", b""]

    @classmethod
    def of(cls, text: str) -> Log:
        """The log of a container that wrote `text` to stdout."""
        log = cls()
        log.take(text.encode(), None)
        log.end()
        return log

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines."""
        return tuple(self._last)

    def take(self, out: bytes | None, err: bytes | None) -> None:
        """The next piece of stdout and of stderr."""
        for stream, piece in enumerate((out, err)):
            if not piece:
                continue
            self.size += len(piece)
            *lines, rest = (self._begun[stream] + piece).split(b"\n")
            for line in lines:
                self._line(line)
            self._begun[stream] = rest[:_LONGEST]

    def end(self) -> None:
        """There is no more: a last line may lack its end."""
        for rest in self._begun:
            if rest:
                self._line(rest)
        self._begun = [b"", b""]

    def _line(self, raw: bytes) -> None:
        line = raw.decode(errors="replace").rstrip()
        self._last.append(line[:_SHOWN])
        if line.startswith("{") and RESULT_KIND in line and (result := _result(line)) is not None:
            self.result = result
            return
        for name, sign in _SIGNS.items():
            if name not in self.signs and sign.search(line):
                self.signs[name] = line[:_SHOWN]


def _result(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and value.get("kind") == RESULT_KIND else None


class Reader:
    """Reads the pieces of an attached container into a `Log`, in a thread of its own."""

    def __init__(self, stream: Any) -> None:
        """`stream`: of `container.attach(stream=True, demux=True)`."""
        self.log = Log()
        self._stream = stream
        self._thread = threading.Thread(target=self._read, name="log", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for out, err in self._stream:
                self.log.take(out, err)
        finally:
            self.log.end()

    def finish(self, seconds: float) -> bool:
        """Wait for the end of the log, at most so long; whether it came."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        self._stream.close()
        return True
