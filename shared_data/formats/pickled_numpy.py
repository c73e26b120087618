"""What numpy writes into pickles, rebuilt from text and bytes: no numpy function is named, imported or called for a pickle.

numpy pickles an array as a call of `_reconstruct` followed by a state (shape, element type, order, bytes), an element type as
a call of `dtype` followed by its byte order, a number as a call of `scalar`. `call` and `complete` give the same results for
exactly these forms and refuse everything else. Sizes are held against the bytes that are there.

Source: the documented `__reduce__` results of `numpy.ndarray` and `numpy.dtype`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared_data.errors import DataError
from shared_data.formats.npy import ELEMENT, is_text

NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how Python 3 writes bytes in protocols that Python 2 can read,
    ("__builtin__", "bytes"),  # and how it writes no bytes there
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


class Refused(Exception):
    """What is wrong with the operation at hand; the machine makes it a `DataError` with the place."""


@dataclass(frozen=True)
class Name:
    """The last part of one of `NAMES`, standing on the machine's stack in the place of what it would be."""

    means: str


class ElementType:
    """An element type, complete once its state (the byte order) is known."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, ""

    def dtype(self) -> np.dtype[Any]:
        """Raises `Refused` unless the elements are numbers or text of a fixed length."""
        text = self.order.replace("|", "") + self.code
        if "O" in self.code:
            raise Refused("an array of Python objects")
        if not ELEMENT.fullmatch(text):
            raise Refused(f"an array of element type {text[:20]!r}")
        try:
            return np.dtype(text)
        except TypeError:
            raise Refused(f"an array of element type {text[:20]!r}") from None


class PickledArray:
    """An array of a pickle: its shape and where its bytes are. The values appear when `array` is called, not before."""

    __slots__ = ("_axes", "_data", "_dtype", "_stored", "shape")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] | None = None

    def set(self, shape: Any, kind: Any, data: Any, *, fortran: Any = False, axes: Any = None) -> None:
        """Take what the pickle says about the array. Raises `Refused` if it is not consistent.

        fortran  the data lie column by column
        axes     the data lie row by row in `shape`, and axis n of the array is axis ``axes[n]`` of that
        """
        if self._dtype is not None:
            raise Refused("an array that is set twice")
        if not isinstance(kind, ElementType):
            raise Refused("an array without an element type")
        dtype = kind.dtype()  # says so if the elements are objects
        if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
            raise Refused("an array of impossible shape")
        if not isinstance(data, (bytes, memoryview, str)):  # Python 2 has one type for bytes and text
            raise Refused("an array whose data are not bytes")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise Refused(f"an array of shape {shape} of {dtype} with {len(data):,} bytes of data")
        self._stored = shape[::-1] if fortran else shape
        self._axes = tuple(range(len(shape)))
        if fortran:
            self._axes = self._axes[::-1]
        elif axes is not None:
            if not isinstance(axes, tuple) or not all(type(n) is int for n in axes) or sorted(axes) != list(self._axes):
                raise Refused("an array whose axes are in no order")
            self._axes = axes
        self.shape, self._dtype, self._data = tuple(self._stored[axis] for axis in self._axes), dtype, data

    @property
    def nbytes(self) -> int:
        return len(self._data) if self._dtype is not None else 0

    def array(self) -> np.ndarray:
        """The values, read-only, as the file holds them. Raises `DataError` for an array that was never completed."""
        try:
            if self._dtype is None:
                raise ValueError
            # Not kept: one piece of text may stand for any number of arrays.
            data = self._data.encode("latin1") if isinstance(self._data, str) else self._data
        except ValueError:
            raise DataError("a pickled array without content", expected="an array of numbers") from None
        flat = np.frombuffer(data, self._dtype) if len(data) else np.empty(0, self._dtype)
        if self._dtype.kind == "U" and not is_text(flat):
            raise DataError("a pickled array of text with characters that do not exist", expected="Unicode text")
        flat.flags.writeable = False
        return flat.reshape(self._stored).transpose(self._axes)


def call(callee: Any, arguments: Any) -> Any:
    """The value of the pickled call ``callee(*arguments)``. Raises `Refused` for everything but numpy's own forms."""
    if not isinstance(callee, Name) or not isinstance(arguments, tuple):
        raise Refused("a call of something that is not a name")
    made: Any = PickledArray()
    match callee.means, arguments:
        case "_reconstruct", (Name(means="ndarray"), (0,), _):
            pass  # its state follows
        case "dtype", (str(code), *_):
            made = ElementType(code)
        case "_frombuffer", (data, kind, shape, "C" | "F" as order):
            made.set(shape, kind, data, fortran=order == "F")
        case "_frombuffer", (data, kind, shape, "K", axes) if axes is not None:  # transposed, by numpy 2.4 and later
            made.set(shape, kind, data, axes=axes)
        case "scalar", (kind, data):
            made.set((), kind, data)
            made = made.array()[()].item()
        case "bytes", ():
            made = b""
        case "encode", (str(text), "latin1" | "latin-1"):
            made = text.encode("latin1")
        case "encode", (memoryview() as raw, "latin1" | "latin-1"):
            made = str(raw, "utf-8").encode("latin1")
        case _:
            raise Refused(f"{callee.means} with arguments of another kind")
    return made


def copied_bytes(callee: Any, arguments: Any) -> int:
    """How many bytes of the file a call copies; the machine bounds their sum, or a short pickle could fill the memory."""
    if isinstance(callee, Name) and callee.means in ("scalar", "encode") and isinstance(arguments, tuple):
        return sum(len(value) for value in arguments if isinstance(value, (str, bytes, memoryview)))
    return 0


def complete(target: Any, state: Any) -> None:
    """Give an array or an element type its state. Raises `Refused` for anything else, and for a second state."""
    match target, state:
        case PickledArray(), (int(), shape, kind, fortran, data):
            target.set(shape, kind, data, fortran=fortran)
        case PickledArray(), (shape, kind, fortran, data):  # before version 1
            target.set(shape, kind, data, fortran=fortran)
        case ElementType(order=""), (int(), "<" | ">" | "=" | "|" as order, None, None, None, *_):
            target.order = order
        case _:
            raise Refused("a state for something other than an array or a plain element type")
