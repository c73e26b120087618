"""Reading .npz archives that strangers made: no pickle, nothing allocated on the word of a header, checksums verified.

An .npz is a zip of .npy files. Here the headers are parsed and compared with the member sizes before any array exists
(`npy`). A member is then read whole (small ones), streamed in blocks of samples with bounded memory, or memory-mapped in
place if it is stored uncompressed. Every defect is a `DataError` that names file and member.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from shared_data.errors import DataError, MissingInputError
from shared_data.formats.npy import (
    MAX_WHOLE,
    Header,
    fill,
    read_array,
    read_header,
    refuse_large,
    stream_blocks,
    what_is,
)

MAX_RATIO = 200  # unpacked / packed; a deflated NTU-60 file has about 7, a zip bomb about 1000
RATIO_FREE = 64 << 20  # members up to this unpacked size may have any ratio: one-hot labels pack extremely well
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error, OverflowError,
    ValueError, OSError,
)  # fmt: skip


@dataclass(frozen=True)
class Member(Header):
    """One array of an archive, known by its header only.

    key     name without ``.npy``
    stored  not compressed, so it can be memory-mapped
    """

    key: str
    stored: bool
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
            key = name[:-4]
            with self._damage(name), self._zip.open(info) as stream:
                header = read_header(stream, info.file_size, f"{self.path}, key {key}")
            stored = info.compress_type == zipfile.ZIP_STORED
            self.members[key] = Member(**vars(header), key=key, stored=stored, info=info)

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
        refuse_large(member, f"{self.path}, key {key}", limit)
        with self._damage(key), self._zip.open(member.info) as stream:
            fill(stream, memoryview(bytearray(member.header_bytes)))
            return read_array(stream, member)

    def blocks(self, key: str, samples: int = 64) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first sample, array of up to `samples` samples) in order; the buffer is reused, copy what you keep.

        Reads the member to its end, so the zip checksum is verified. Column-major members are read whole first (limit
        of `read`), see `stream_blocks`.
        """
        member, where = self.members[key], f"{self.path}, key {key}"
        if member.fortran_order and len(member.shape) > 1:
            refuse_large(member, where, MAX_WHOLE)
        with self._damage(key), self._zip.open(member.info) as stream:
            fill(stream, memoryview(bytearray(member.header_bytes)))
            yield from stream_blocks(stream, member, where, samples)

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
        raise DataError(f"not a zip file: {what_is(start)}", where=f"{path} ({size:,} bytes)", expected=kind)
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
