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
_LONGEST = 1 << 16  # bytes looked at together where a line has no end; a result line is shorter
_SHOWN = 400  # characters of a line that is shown
_TAIL = 15
_END = re.compile(r"[\r\n]+")  # a progress bar's \r ends a line, too
_UNSEEN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x00+")  # colours and NULs, which say nothing and take up a page each

UNCLEAN, READ_ONLY, NETWORK, DISK_FULL, OLD_IMAGE = "unclean", "read-only", "network", "disk full", "old image"
_SIGNS = {
    UNCLEAN: re.compile(
        r"\b(?:WARN|WARNING|ERROR|CRITICAL|FATAL)\b|\b\w*(?:Warning|Error):|\b(?:warning|error|fatal):"
        r"|Traceback \(most recent call last\)|Fatal Python error|Segmentation fault|core dumped"
        r"|\[[WEF](?:\d| )|^[WEF]\d{4} \d\d:",  # PyTorch's own log, by version
        re.MULTILINE,
    ),
    READ_ONLY: re.compile("Read-only file system", re.IGNORECASE),
    NETWORK: re.compile(
        "Network is unreachable|Temporary failure in name resolution|Name or service not known|bad address '", re.IGNORECASE
    ),
    DISK_FULL: re.compile("No space left on device", re.IGNORECASE),
    OLD_IMAGE: re.compile("unrecognized arguments: --vram-limit"),
}


class Log:
    """What is kept of a log.

    size      bytes so far
    result    the last JSON line of kind "smoke_result"; it is never a sign of anything else
    results   how many of those there were
    signs     name of a sign -> the first line that bears it
    broken    why it was not read to its end, "" where it was
    """

    def __init__(self) -> None:
        self.size = 0
        self.result: dict[str, Any] | None = None
        self.results = 0
        self.signs: dict[str, str] = {}
        self.broken = ""
        self._last: deque[str] = deque(maxlen=_TAIL)
        self._begun = (bytearray(), bytearray())

    @classmethod
    def of(cls, text: str) -> Log:
        """The log of a container that wrote `text` to stdout."""
        log = cls()
        log.take(text.encode(), None)
        log.end()
        return log

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, without results."""
        return tuple(self._last)

    def take(self, out: bytes | None, err: bytes | None) -> None:
        """The next piece of stdout and of stderr."""
        for begun, piece in zip(self._begun, (out, err), strict=True):
            if not piece:
                continue
            self.size += len(piece)
            begun.extend(piece)
            cut = max(begun.rfind(b"\n"), begun.rfind(b"\r")) + 1
            if cut:
                self._lines(bytes(begun[:cut]))
                del begun[:cut]
            if len(begun) > _LONGEST:
                self._lines(bytes(begun))
                del begun[:-_SHOWN]  # what stands across the cut is seen whole the next time

    def end(self) -> None:
        """There is no more: a last line may lack its end."""
        for begun in self._begun:
            if begun:
                self._lines(bytes(begun))
            begun.clear()

    def _lines(self, raw: bytes) -> None:
        """Whole lines. Nearly all are only counted and forgotten, so they are first looked at together."""
        text = _UNSEEN.sub("", raw.decode(errors="replace"))
        lines = _END.split(text.rstrip("\r\n"))
        if RESULT_KIND in text or any(sign.search(text) for sign in _SIGNS.values()):
            for line in lines:
                self._line(line.rstrip())
        else:
            self._last.extend(line.rstrip()[:_SHOWN] for line in lines[-_TAIL:])

    def _line(self, line: str) -> None:
        if line.startswith("{") and RESULT_KIND in line and (result := _result(line)) is not None:
            self.result, self.results = result, self.results + 1
            return
        self._last.append(line[:_SHOWN])
        for name, sign in _SIGNS.items():
            if name not in self.signs and (found := sign.search(line)):
                self.signs[name] = line if len(line) <= _SHOWN else line[max(found.start() - 40, 0) :][:_SHOWN]


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _result(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
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
        except Exception as error:
            self.log.broken = f"{type(error).__name__}: {error}"
        finally:
            self.log.end()

    def finish(self, seconds: float) -> bool:
        """Wait for the end of the log, at most so long; whether it came."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        self._stream.close()
        return True
