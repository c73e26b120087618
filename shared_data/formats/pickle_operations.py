"""The operations of a pickle that data need, each as a function of the stack machine in `pickle_machine`.

The table below is the whole language: an operation that is not in it is refused. None of them imports or calls anything.

Source: the comments of Python's standard module `pickletools`, where the operations have the same names.
"""

from __future__ import annotations

import ast
import pickletools
import struct
from collections.abc import Callable
from typing import Any

from shared_data.formats.pickle_machine import MARK, MAX_UNICODE_LINE, Machine, Operation
from shared_data.formats.pickled_numpy import Refused

MAX_TEXT = 1 << 16  # bytes of one piece of text; longer ones stay undecoded


def _text(raw: memoryview) -> str | memoryview:
    """Text if it is short; protocol 2 holds the data of arrays as text, which is left alone here."""
    return str(raw, "utf-8", "surrogatepass") if len(raw) <= MAX_TEXT else raw


def _old_text(raw: memoryview) -> str | memoryview:
    """A string of Python 2: text or bytes, nobody knows; what is short is given as text."""
    return str(raw, "latin1") if len(raw) <= MAX_TEXT else raw


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1]:
        raise Refused("a string without quotes")
    value = ast.literal_eval("b" + line.decode("ascii"))
    if not isinstance(value, bytes):
        raise Refused("a string that is none")
    return value.decode("latin1")


def _whole(line: bytes) -> int | bool:
    if line in (b"00", b"01"):
        return line == b"01"
    if len(line) > 22:
        raise Refused("an integer of more than 64 bits")
    return _bounded(int(line.rstrip(b"L")))


def _long(raw: memoryview) -> int:
    return _bounded(int.from_bytes(raw, "little", signed=True))


def _bounded(value: int) -> int:
    if not -(1 << 63) <= value < 1 << 64:
        raise Refused("an integer of more than 64 bits")
    return value


def _put_items(target: Any, items: list[Any]) -> None:
    if type(target) is not dict or len(items) % 2:
        raise Refused("keys and values for something that is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, int, bool, type(None)):
            raise Refused("a dict key that is neither text nor an integer")
        target[key] = value


def _put_list(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise Refused("items for something that is no list")
    target.extend(items)


def _dict_of(items: list[Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    _put_items(made, items)
    return made


def _last(stack: list[Any], count: int) -> tuple[Any, ...]:
    """Pop the last `count` values as a tuple."""
    if len(stack) < count or any(value is MARK for value in stack[-count:]):
        raise Refused("a tuple of values that are not there")
    made = tuple(stack[-count:])
    del stack[-count:]
    return made


_U1, _U2, _U4, _U8 = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")


def _push(make: Callable[[Machine], Any]) -> Operation:
    """The operation that puts what `make` gives on the stack."""
    return lambda machine, stack, step: stack.append(make(machine))


def _counted(form: struct.Struct, make: Callable[[memoryview], Any]) -> Operation:
    """The operation that pushes what `make` gives for the bytes whose number is written before them in `form`."""
    return _push(lambda machine: make(machine.take(machine.number(form))))


def _pop(machine: Machine, stack: list[Any], step: int) -> None:
    stack.pop()


def _append(machine: Machine, stack: list[Any], step: int) -> None:
    value = machine.pop()
    _put_list(stack[-1], [value])


def _appends(machine: Machine, stack: list[Any], step: int) -> None:
    items = machine.above_mark()
    _put_list(stack[-1], items)


def _set_item(machine: Machine, stack: list[Any], step: int) -> None:
    items = list(_last(stack, 2))
    _put_items(stack[-1], items)


def _set_items(machine: Machine, stack: list[Any], step: int) -> None:
    items = machine.above_mark()
    _put_items(stack[-1], items)


def _named(machine: Machine, stack: list[Any], step: int) -> None:
    machine.name(machine.line().decode("utf-8"), machine.line().decode("utf-8"))


def _stack_named(machine: Machine, stack: list[Any], step: int) -> None:
    machine.name(*_last(stack, 2))


_BY_NAME: dict[str, Operation] = {
    "PROTO": lambda machine, stack, step: machine.number(_U1),
    "FRAME": lambda machine, stack, step: machine.number(_U8),
    "MARK": _push(lambda machine: MARK),
    "POP": _pop,
    "POPMARK": lambda machine, stack, step: machine.above_mark().clear(),
    "NONE": _push(lambda machine: None),
    "NEWTRUE": _push(lambda machine: True),
    "NEWFALSE": _push(lambda machine: False),
    "INT": _push(lambda machine: _whole(machine.line())),
    "LONG": _push(lambda machine: _whole(machine.line())),
    "BININT": _push(lambda machine: machine.number(_I4)),
    "BININT1": _push(lambda machine: machine.number(_U1)),
    "BININT2": _push(lambda machine: machine.number(_U2)),
    "LONG1": _counted(_U1, _long),
    "FLOAT": _push(lambda machine: float(machine.line())),
    "BINFLOAT": _push(lambda machine: machine.number(_F8)),
    "STRING": _push(lambda machine: _quoted(machine.line())),
    "BINSTRING": _counted(_I4, _old_text),
    "SHORT_BINSTRING": _counted(_U1, _old_text),
    "UNICODE": _push(lambda machine: machine.line(MAX_UNICODE_LINE).decode("raw-unicode-escape")),
    "SHORT_BINUNICODE": _counted(_U1, _text),
    "BINUNICODE": _counted(_U4, _text),
    "BINUNICODE8": _counted(_U8, _text),
    "SHORT_BINBYTES": _counted(_U1, bytes),
    "BINBYTES": _counted(_U4, lambda raw: raw),
    "BINBYTES8": _counted(_U8, lambda raw: raw),
    "BYTEARRAY8": _counted(_U8, lambda raw: raw),
    "EMPTY_LIST": _push(lambda machine: []),
    "EMPTY_DICT": _push(lambda machine: {}),
    "EMPTY_TUPLE": _push(lambda machine: ()),
    "LIST": _push(lambda machine: machine.above_mark()),
    "DICT": _push(lambda machine: _dict_of(machine.above_mark())),
    "TUPLE": _push(lambda machine: tuple(machine.above_mark())),
    "TUPLE1": lambda machine, stack, step: stack.append(_last(stack, 1)),
    "TUPLE2": lambda machine, stack, step: stack.append(_last(stack, 2)),
    "TUPLE3": lambda machine, stack, step: stack.append(_last(stack, 3)),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "PUT": lambda machine, stack, step: machine.remember(int(_whole(machine.line())), step),
    "BINPUT": lambda machine, stack, step: machine.remember(machine.number(_U1), step),
    "LONG_BINPUT": lambda machine, stack, step: machine.remember(machine.number(_U4), step),
    "MEMOIZE": lambda machine, stack, step: machine.remember(len(machine.memo), step),
    "GET": lambda machine, stack, step: machine.recall(int(_whole(machine.line()))),
    "BINGET": lambda machine, stack, step: machine.recall(machine.number(_U1)),
    "LONG_BINGET": lambda machine, stack, step: machine.recall(machine.number(_U4)),
    "GLOBAL": _named,
    "STACK_GLOBAL": _stack_named,
    "REDUCE": lambda machine, stack, step: machine.reduce(),
    "BUILD": lambda machine, stack, step: machine.build(),
}
OPERATIONS = {ord(operation.code): _BY_NAME[operation.name] for operation in pickletools.opcodes if operation.name in _BY_NAME}
