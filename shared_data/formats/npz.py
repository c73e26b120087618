"""Reading .npz archives that strangers made: no pickle, nothing allocated on the word of a header, checksums verified.

An .npz is a zip of .npy files. Here the headers are parsed and compared with the member sizes before any array exists.
A member is then read whole (small ones), streamed in blocks of samples with bounded memory, or memory-mapped in place
if it is stored uncompressed. Every defect is a `DataError` that names file and member.

Source of the .npy header format: numpy.lib.format documentation.
"""

from __future__ import annotations

import ast
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from shared_data.errors import DataError, MissingInputError

MAX_HEADER = 10_000  # bytes of .npy header text; numpy writes about 120
MAX_RATIO = 200  # unpacked / packed; a deflated NTU-60 file has about 7, a zip bomb about 1000
RATIO_FREE = 64 << 20  # members up to this unpacked size may have any ratio: one-hot labels pack extremely well
MAX_BLOCK = 128 << 20  # bytes of one streamed block
MAX_WHOLE = 2 << 30  # largest member that `read` unpacks into memory at once
_DESCR = re.compile(r"[<>|=]?[biufU]\d{1,9}")
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error, OverflowError,
    ValueError, OSError,
)  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One array of an archive, known by its header only.

    key            name without ``.npy``
    fortran_order  values are stored column by column (first index fastest)
    stored         not compressed, so it can be memory-mapped
    header_bytes   length of the .npy header inside the member
    nbytes         bytes of array data, equal to prod(shape) * itemsize
    """

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    stored: bool
    header_bytes: int
    nbytes: int
    info: zipfile.ZipInfo


class Npz:
    """An open archive. Use it in a ``with`` statement.

    members   arrays by key, in archive order
    ignored   names of zip members that are not arrays or whose names lead outside the archive; they are never read
    """

    def __init__(self, path: Path) -> None:
        """Open `path` and read all headers. Raises `MissingInputError`, or `DataError` for any kind of damage."""
        self.path = path
        self._zip = open_zip(path, kind=".npz archive")
        self.ignored: list[str] = []
        self.members: dict[str, Member] = {}
        try:
            self._list()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Npz:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._zip.close()

    def _list(self) -> None:
        check_members(self.path, self._zip)
        for info in self._zip.infolist():
            name = info.filename
            if not name.endswith(".npy") or "/" in name or "\\" in name or ".." in name:
                self.ignored.append(name)
                continue
            with self._damage(name), self._zip.open(info) as stream:
                self.members[name[:-4]] = _header(self.path, info, stream)

    @contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        """Turn everything that zip, zlib and struct raise about damaged bytes into a `DataError`."""
        with damage_as_data_error(self.path, name):
            yield

    def require(self, *keys: str) -> None:
        """Raise `DataError` listing what was found unless all `keys` are present."""
        missing = [key for key in keys if key not in self.members]
        if missing:
            raise DataError(
                f"missing {'key' if len(missing) == 1 else 'keys'} {', '.join(missing)}",
                where=f"{self.path}, found: {', '.join(self.members) or 'no arrays'}",
                expected=", ".join(keys),
                next_step="rename the arrays, or prepare the file again with the four keys of the Kaggle layout",
            )

    def read(self, key: str, *, limit: int = MAX_WHOLE) -> np.ndarray:
        """The whole array `key`, checksum verified. Raises `DataError` beyond `limit` bytes."""
        member = self.members[key]
        if member.nbytes > limit:
            why = " (an array in column-major order cannot be streamed)" if member.fortran_order else ""
            raise DataError(
                f"array of {member.nbytes:,} bytes is too large to be read at once{why}",
                where=f"{self.path}, key {key}",
                expected=f"at most {limit:,} bytes",
                next_step="save it again in C order with np.savez",
            )
        array = np.empty(member.nbytes, np.uint8)
        with self._damage(key), self._zip.open(member.info) as stream:
            _fill(stream, memoryview(bytearray(member.header_bytes)))
            _fill(stream, array.data)
            _finish(stream)
        flat = array.view(member.dtype) if member.nbytes else np.empty(0, member.dtype)
        return flat.reshape(member.shape, order="F" if member.fortran_order else "C")

    def blocks(self, key: str, samples: int = 64) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first sample, array of up to `samples` samples) in order; the buffer is reused, copy what you keep.

        Reads the member to its end, so the zip checksum is verified. Column-major members are read whole first (limit
        of `read`). Blocks are kept below `MAX_BLOCK` bytes.
        """
        member = self.members[key]
        if member.fortran_order and len(member.shape) > 1:
            whole = self.read(key)
            for start in range(0, len(whole), samples):
                yield start, whole[start : start + samples]
            return
        count = member.shape[0]
        per_sample = math.prod(member.shape[1:]) * member.dtype.itemsize
        if per_sample > MAX_BLOCK:
            raise DataError(f"one sample takes {per_sample:,} bytes", where=f"{self.path}, key {key}")
        samples = max(1, min(samples, count, MAX_BLOCK // max(1, per_sample)))
        buffer = np.empty(samples * per_sample, np.uint8)
        with self._zip.open(member.info) as stream:
            with self._damage(key):
                _fill(stream, memoryview(bytearray(member.header_bytes)))
            for start in range(0, count, samples):
                taken = min(samples, count - start)
                part = buffer[: taken * per_sample]
                with self._damage(key):
                    _fill(stream, part.data)
                    if start + taken == count:
                        _finish(stream)
                yield start, part.view(member.dtype).reshape(taken, *member.shape[1:])

    def memmap(self, key: str) -> np.ndarray:
        """The stored member `key` mapped read-only where it lies in the file: nothing is read until it is used.

        The data offset may be odd, so the result can be unaligned (``.flags.aligned``): numpy handles that, compiled
        kernels need a copy. The checksum is not verified. Raises `DataError` for a compressed or empty member.
        """
        member = self.members[key]
        if not member.stored:
            raise DataError(
                "a compressed array cannot be memory-mapped",
                where=f"{self.path}, key {key}",
                next_step="save it with np.savez, or convert the file once with: sal data prepare",
            )
        if member.nbytes == 0:
            raise DataError("an empty array cannot be memory-mapped", where=f"{self.path}, key {key}")
        with self.path.open("rb") as file:
            # The local header repeats name and extra field, possibly with other lengths than the central directory.
            file.seek(member.info.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", file.read(4))
        offset = member.info.header_offset + 30 + name_length + extra_length + member.header_bytes
        order: Any = "F" if member.fortran_order else "C"
        return np.memmap(self.path, member.dtype, "r", offset, member.shape, order)


def open_zip(path: Path, *, kind: str) -> zipfile.ZipFile:
    """Open a zip for reading; raises `MissingInputError`, or a `DataError` that says what the file is instead."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise MissingInputError(f"cannot read the file: {error.strerror or error}", where=str(path)) from None
    if size == 0:
        raise DataError("the file is empty (0 bytes)", where=str(path), expected=kind, next_step="copy it again")
    if not start.startswith(b"PK"):
        raise DataError(f"not a zip file: {_what_is(start)}", where=f"{path} ({size:,} bytes)", expected=kind)
    try:
        return zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise DataError(
            f"the zip directory at the end of the file is missing or damaged ({error}); the file is probably truncated",
            where=f"{path} ({size:,} bytes)",
            expected=f"a complete {kind}",
            next_step="compare the size with the source and copy or download it again",
        ) from None


def check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse before anything is unpacked: duplicate names, encryption, odd compression, impossible sizes, zip bombs."""
    size = path.stat().st_size
    seen: set[str] = set()
    for info in archive.infolist():
        where = f"{path}, member {info.filename}"
        if info.filename in seen:
            raise DataError("the archive holds two members of the same name", where=where, expected="each name once")
        seen.add(info.filename)
        if info.flag_bits & 1:
            raise DataError("the member is encrypted", where=where, expected="an archive without a password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"compression method {info.compress_type} is not supported",
                where=where,
                expected="stored or deflated members, as np.savez and np.savez_compressed write them",
            )
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise DataError("a stored member has two different sizes", where=where, expected="an undamaged zip file")
        if info.header_offset + info.compress_size > size:
            raise DataError(f"the member ends beyond the file ({size:,} bytes)", where=where, expected="a complete file")
        if info.file_size > RATIO_FREE and info.file_size > MAX_RATIO * max(1, info.compress_size):
            raise DataError(
                f"{info.compress_size:,} bytes claim to unpack into {info.file_size:,}: this is a zip bomb, not data",
                where=where,
                expected=f"at most {MAX_RATIO} times its packed size",
            )


@contextmanager
def damage_as_data_error(path: Path, name: str) -> Iterator[None]:
    """Turn what the zip layer raises about damaged bytes into a `DataError` that names file and member."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"damaged data: {error}" if str(error) else f"damaged data: {type(error).__name__}",
            where=f"{path} ({path.stat().st_size:,} bytes), member {name}",
            expected="a file that passes its own checksums",
            next_step="copy or download the file again",
        ) from None


def _what_is(start: bytes) -> str:
    if start.startswith(b"\x93NUMPY"):
        return "this is a single .npy array"
    if start[:1] == b"\x80":
        return "this is a pickle, which can run code when it is opened and is therefore never opened here"
    if start.startswith(b"\x89HDF"):
        return "this is an HDF5 file"
    if start.startswith(b"\x1f\x8b"):
        return "this is a gzip file; unpack it first"
    return f"it starts with the bytes {start[:4].hex(' ')}"


def _header(path: Path, info: zipfile.ZipInfo, stream: IO[bytes]) -> Member:
    """Parse a .npy header and hold it against the member's size. Raises `DataError`."""
    key = info.filename[:-4]
    where = f"{path}, key {key}"

    def bad(what: str, expected: str = "a .npy array of numbers", next_step: str = "") -> DataError:
        return DataError(what, where=where, expected=expected, next_step=next_step)

    magic = stream.read(8)
    if magic[:6] != b"\x93NUMPY" or len(magic) < 8 or magic[6] not in (1, 2, 3):
        raise bad(f"not a .npy array: {_what_is(magic)}")
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
    if not isinstance(descr, str) or not _DESCR.fullmatch(descr):
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
    if header_bytes + nbytes != info.file_size:
        raise bad(
            f"the header declares shape {shape} of {dtype} = {nbytes:,} bytes, "
            f"the member holds {info.file_size - header_bytes:,}",
            "a header that agrees with the data",
            "write the file again",
        )
    return Member(key, shape, dtype, fortran, info.compress_type == zipfile.ZIP_STORED, header_bytes, nbytes, info)


def _fill(stream: IO[bytes], target: memoryview) -> None:
    """Read exactly ``len(target)`` bytes into `target`."""
    done = 0
    while done < len(target):
        got = stream.readinto(target[done:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError("the data ends too early")
        done += got


def _finish(stream: IO[bytes]) -> None:
    """Read on to the end of the member: only there does the zip layer compare the checksum."""
    if stream.read(1):
        raise ValueError("there are bytes after the array")
