"""The stack machine that a pickle is a program for, without anything that could import or call.

`pickle_operations` says what each operation does with it; `pickles` runs it.
"""

from __future__ import annotations

import mmap
import pickletools
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from shared_data.errors import DataError, MissingInputError
from shared_data.formats.pickled_numpy import NAMES, Name, Refused, call, complete, copied_bytes

MAX_LINE = 1 << 20  # bytes of a text line of the old protocols
MAX_UNICODE_LINE = 16 << 20  # of Unicode text, in which protocol 0 holds arrays: up to six bytes for each of theirs
STOP = ord(".")


class _Mark:
    """Stands on the stack where a sequence begins."""


MARK: Final = _Mark()
Operation = Callable[["Machine", list[Any], int], None]  # machine, its stack, the number of the step


class Machine:
    """The stack machine: `stack` holds values and marks, `memo` what was numbered for use again.

    path     the pickle; messages name it
    content  its bytes, where it is no file of its own but a part of one (`path` then says which part of which file)
    """

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        self._path = path
        self._file: bytes | mmap.mmap = _mapped(path) if content is None else content
        self._view = memoryview(self._file)
        self._at = 0
        self._copied = 0
        self.stack: list[Any] = []
        self.memo: list[Any] = []

    def run(self, operations: Mapping[int, Operation], steps: int, *, whole: bool = True) -> Any:
        """The value that the pickle ends with. After `steps` operations without an end: `DataError`, or None if not `whole`."""
        view, stack, at = self._view, self.stack, 0
        try:
            for step in range(steps):
                at = self._at
                code = view[at]
                self._at = at + 1
                if code == STOP:
                    return self._result()
                operation = operations.get(code)
                if operation is None:
                    raise Refused(_refusal(code))
                operation(self, stack, step)
        except Refused as error:
            raise self._error(str(error), at) from None
        except (IndexError, struct.error):
            raise self._error("it ends too early or takes values that are not there", at) from None
        except DataError as error:
            raise self._error(error.what, at) from None
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError, LookupError) as error:
            raise self._error(f"an operation that cannot be read ({type(error).__name__})", at) from None
        if whole:
            raise self._error(f"more than {steps:,} operations", at)
        return None

    def keys_so_far(self) -> tuple[str, ...]:
        """The text keys of the dict at the bottom of the stack: the finished ones, and those waiting above its mark."""
        if not self.stack or not isinstance(self.stack[0], dict):
            return ()
        above = self.stack[1:]
        if above and above[0] is MARK:
            above = above[1:]
        if MARK in above:
            above = above[: above.index(MARK)]
        return tuple(key for key in (*self.stack[0], *above[::2]) if isinstance(key, str))

    def _result(self) -> Any:
        if len(self.stack) != 1 or self.stack[0] is MARK:
            raise Refused("an end with other than one value")
        return self.stack[0]

    def _error(self, what: str, at: int) -> DataError:
        return DataError(
            f"this pickle cannot be read as data: {what}",
            where=f"{self._path} ({len(self._view):,} bytes), byte {at:,}",
            expected="dicts, lists, tuples, text, numbers and numpy arrays of numbers; nothing in a pickle is ever run",
            next_step="save the file again from plain values, or convert it where you trust it",
        )

    # What operations are made of. A number or slice beyond the end of the file raises struct.error or `Refused`.

    def take(self, count: int) -> memoryview:
        """The next `count` bytes of the file, not copied."""
        start, end = self._at, self._at + count
        if count < 0 or end > len(self._view):
            raise Refused(f"{count:,} bytes are claimed, {len(self._view) - start:,} are left")
        self._at = end
        return self._view[start:end]

    def number(self, form: struct.Struct) -> Any:
        (value,) = form.unpack_from(self._view, self._at)
        self._at += form.size
        return value

    def line(self, limit: int = MAX_LINE) -> bytes:
        end = self._file.find(b"\n", self._at, self._at + limit)
        if end < 0 and self._at + limit < len(self._view):
            raise Refused(
                f"a text line of more than {limit:,} bytes, as protocol 0 writes arrays (use pickle.dump(..., protocol=4))"
            )
        if end < 0:
            raise Refused("a line without an end")
        text = bytes(self._view[self._at : end])
        self._at = end + 1
        return text

    def above_mark(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        stack = self.stack
        at = len(stack) - 1
        while stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise IndexError
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def remember(self, number: int, step: int) -> None:
        if not 0 <= number <= step + 1:
            raise Refused(f"memo number {number} at operation {step}")
        while len(self.memo) <= number:
            self.memo.append(MARK)
        self.memo[number] = self._top()

    def recall(self, number: int) -> None:
        if not 0 <= number < len(self.memo) or self.memo[number] is MARK:
            raise Refused(f"memo number {number}, which was never set")
        self.stack.append(self.memo[number])

    def _top(self) -> Any:
        if self.stack[-1] is MARK:
            raise Refused("a mark used as a value")
        return self.stack[-1]

    def pop(self) -> Any:
        value = self._top()
        self.stack.pop()
        return value

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("a name that is no text")
        if (module, name) not in NAMES:
            raise Refused(f"it names {module[:60]}.{name[:60]}, which would be imported and could run code")
        self.stack.append(Name(name))

    def reduce(self) -> None:
        arguments, callee = self.pop(), self.pop()
        self._copied += copied_bytes(callee, arguments)
        if self._copied > len(self._view):
            raise Refused("the same bytes are copied again and again")
        self.stack.append(call(callee, arguments))

    def build(self) -> None:
        state = self.pop()
        complete(self._top(), state)


def _mapped(path: Path) -> mmap.mmap:
    try:
        if not path.is_file():
            raise MissingInputError("no such file, or not a plain file", where=str(path))
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise DataError("the file is empty (0 bytes)", where=str(path), expected="a pickle")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise MissingInputError(f"cannot read the file: {error.strerror or error}", where=str(path)) from None


def _refusal(code: int) -> str:
    known = next((operation.name for operation in pickletools.opcodes if ord(operation.code) == code), None)
    return f"operation {known}, which data do not need" if known else f"byte {code:#04x} is no operation of a pickle"
