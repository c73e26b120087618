"""The .npy format as strangers write it: the header parsed and held against the size of the data before any array exists.

One parser for members of an .npz and for files of their own. Arrays are read whole (small ones) or streamed in blocks of
samples with bounded memory; elements are numbers or text of a fixed length, never Python objects.

Source of the header format: numpy.lib.format documentation.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from shared_data.errors import DataError, MissingInputError

MAX_HEADER = 10_000  # bytes of header text; numpy writes about 120
MAX_BLOCK = 128 << 20  # bytes of one streamed block
MAX_WHOLE = 2 << 30  # largest array that is read into memory at once
ELEMENT = re.compile(r"[<>|=]?[biufU]\d{1,9}")  # the element types that are read


@dataclass(frozen=True)
class Header:
    """What an .npy header says; it agrees with the number of bytes that follow.

    fortran_order  values are stored column by column (first index fastest)
    header_bytes   bytes before the data
    nbytes         bytes of data, equal to prod(shape) * itemsize
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    header_bytes: int
    nbytes: int


class Npy:
    """A bare .npy file, known by its header only until it is read. `shape` and `dtype` are those of the array."""

    def __init__(self, path: Path) -> None:
        """Raises `MissingInputError` if `path` cannot be read, `DataError` if it is no array of numbers."""
        self.path = path
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise MissingInputError("not a plain file", where=str(path))
        try:
            with path.open("rb") as stream:
                self.header = read_header(stream, path.stat().st_size, str(path))
        except OSError as error:
            raise MissingInputError(f"cannot read the file: {error.strerror or error}", where=str(path)) from None
        self.shape, self.dtype = self.header.shape, self.header.dtype

    def read(self, *, limit: int = MAX_WHOLE) -> np.ndarray:
        """The whole array. Raises `DataError` beyond `limit` bytes."""
        refuse_large(self.header, str(self.path), limit)
        with self.path.open("rb") as stream:
            stream.seek(self.header.header_bytes)
            return read_array(stream, self.header)

    def blocks(self, samples: int = 64) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first sample, array of up to `samples` samples) in order, as `stream_blocks` does."""
        if self.header.fortran_order and len(self.shape) > 1:
            refuse_large(self.header, str(self.path), MAX_WHOLE)
        with self.path.open("rb") as stream:
            stream.seek(self.header.header_bytes)
            try:
                yield from stream_blocks(stream, self.header, str(self.path), samples)
            except EOFError:
                raise DataError("the file became shorter while it was read", where=str(self.path)) from None


def read_header(stream: IO[bytes], size: int, where: str) -> Header:
    """Parse the header at the start of `stream`, which holds `size` bytes in all. Raises `DataError` naming `where`."""

    def bad(what: str, expected: str = "a .npy array of numbers", next_step: str = "") -> DataError:
        return DataError(what, where=where, expected=expected, next_step=next_step)

    magic = stream.read(8)
    if magic[:6] != b"\x93NUMPY" or len(magic) < 8 or magic[6] not in (1, 2, 3):
        raise bad(f"not a .npy array: {what_is(magic)}")
    width = 2 if magic[6] == 1 else 4
    raw = stream.read(width)
    if len(raw) < width:
        raise bad("the array header is cut off")
    length = int.from_bytes(raw, "little")
    if length > MAX_HEADER:
        raise bad(f"the array header claims {length:,} bytes", f"at most {MAX_HEADER:,} bytes")
    text = stream.read(length)
    if len(text) < length:
        raise bad("the array header is cut off")
    try:
        header = ast.literal_eval(text.decode("utf-8" if magic[6] == 3 else "latin1").strip())
        descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise bad("the array header cannot be read") from None
    if isinstance(descr, str) and "O" in descr:
        raise bad(
            "the array holds Python objects, which are pickles and can run code when read",
            next_step="make it a plain array of numbers and save it again",
        )
    if not isinstance(descr, str) or not ELEMENT.fullmatch(descr):
        raise bad(f"unsupported element type {str(descr)[:60]!r}", "integers, floats or booleans")
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape) or len(shape) > 8:
        raise bad(f"impossible shape {str(shape)[:60]}")
    if not isinstance(fortran, bool):
        raise bad("the array header cannot be read")
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError, SyntaxError):
        raise bad(f"unsupported element type {descr!r}") from None
    header_bytes = 8 + width + length
    nbytes = math.prod(shape) * dtype.itemsize
    if header_bytes + nbytes != size:
        raise bad(
            f"the header declares shape {shape} of {dtype} = {nbytes:,} bytes, there are {size - header_bytes:,}",
            "a header that agrees with the data",
            "write the file again",
        )
    return Header(shape, dtype, fortran, header_bytes, nbytes)


def refuse_large(header: Header, where: str, limit: int) -> None:
    """Raise `DataError` if the array has more than `limit` bytes."""
    if header.nbytes > limit:
        why = " (an array in column-major order cannot be streamed)" if header.fortran_order else ""
        raise DataError(
            f"array of {header.nbytes:,} bytes is too large to be read at once{why}",
            where=where,
            expected=f"at most {limit:,} bytes",
            next_step="save it again in C order with np.save or np.savez",
        )


def is_text(values: np.ndarray) -> bool:
    """Whether the code points of an array of text (type U) all exist. Those that do not crash Python when they are shown."""
    if not values.nbytes:
        return True
    points = values.reshape(-1).view(np.dtype("u4").newbyteorder(values.dtype.byteorder))
    return not bool(((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any())


def read_array(stream: IO[bytes], header: Header) -> np.ndarray:
    """The whole array from a `stream` that stands behind the header. Raises `EOFError` or `ValueError` for a wrong size."""
    array = np.empty(header.nbytes, np.uint8)
    fill(stream, array.data)
    _finish(stream)
    if header.dtype.kind == "U" and not is_text(array.view(header.dtype)):
        raise ValueError("text with characters that do not exist")
    flat = array.view(header.dtype) if header.nbytes else np.empty(0, header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran_order else "C")


def stream_blocks(stream: IO[bytes], header: Header, where: str, samples: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first sample, array of up to `samples` samples) in order; the buffer is reused, copy what you keep.

    `stream` stands behind the header and is read to its end. Column-major arrays are read whole first: their samples lie
    interleaved, so that each block would need the whole file. Blocks are kept below `MAX_BLOCK` bytes.
    """
    if header.fortran_order and len(header.shape) > 1:
        whole = read_array(stream, header)
        for start in range(0, len(whole), samples):
            yield start, whole[start : start + samples]
        return
    count = header.shape[0]
    per_sample = math.prod(header.shape[1:]) * header.dtype.itemsize
    if per_sample > MAX_BLOCK:
        raise DataError(f"one sample takes {per_sample:,} bytes", where=where)
    samples = max(1, min(samples, count, MAX_BLOCK // max(1, per_sample)))
    buffer = np.empty(samples * per_sample, np.uint8)
    for start in range(0, count, samples):
        taken = min(samples, count - start)
        part = buffer[: taken * per_sample]
        fill(stream, part.data)
        if start + taken == count:
            _finish(stream)
        yield start, part.view(header.dtype).reshape(taken, *header.shape[1:])


def fill(stream: IO[bytes], target: memoryview) -> None:
    """Read exactly ``len(target)`` bytes into `target`. Raises `EOFError`."""
    done = 0
    while done < len(target):
        got = stream.readinto(target[done:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError("the data ends too early")
        done += got


def _finish(stream: IO[bytes]) -> None:
    """Read on to the end: only there does the zip layer compare the checksum of a member."""
    if stream.read(1):
        raise ValueError("there are bytes after the array")


def what_is(start: bytes) -> str:
    """What a file is that begins with the bytes `start`, as a clause."""
    if start.startswith(b"\x93NUMPY"):
        return "this is a single .npy array"
    if start[:1] == b"\x80":
        return "this is a pickle, which could run code when opened; only pyskl's annotation pickles are read, without running any"
    if start.startswith(b"\x89HDF"):
        return "this is an HDF5 file"
    if start.startswith(b"\x1f\x8b"):
        return "this is a gzip file; unpack it first"
    return f"it starts with the bytes {start[:4].hex(' ')}"
