"""Named files in a folder or a zip, alike: layouts of one file per clip are written once for both. Nothing is ever extracted."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared_data.errors import DataError, MissingInputError
from shared_data.formats.npz import check_members, damage_as_data_error, open_zip


@dataclass(frozen=True)
class Listing:
    """The files below `path`, a folder (searched recursively) or a zip.

    names  relative, with /, sorted
    """

    path: Path
    names: tuple[str, ...]
    archive: zipfile.ZipFile | None = None

    def where(self, name: str) -> str:
        """The place of a file for error messages."""
        return f"{self.path}, {name}" if self.archive else str(self.path / name)

    def read(self, name: str, *, limit: int) -> bytes:
        """All bytes of one file, in a zip with its checksum verified.

        Raises `DataError` beyond `limit` bytes (the size is asked first) or for damage, `MissingInputError` if unreadable.
        """
        if self.archive:
            info = self.archive.getinfo(name)
            self._check_size(name, info.file_size, limit)
            with damage_as_data_error(self.path, name):
                return self.archive.read(info)
        file = self.path / name
        try:
            if not file.is_file():  # reading a pipe would wait for ever
                raise MissingInputError("no longer there, or not a plain file", where=self.where(name))
            self._check_size(name, file.stat().st_size, limit)
            return file.read_bytes()
        except OSError as error:
            raise MissingInputError(f"cannot read the file: {error.strerror}", where=self.where(name)) from None

    def _check_size(self, name: str, size: int, limit: int) -> None:
        if size > limit:
            raise DataError(f"a file of {size:,} bytes", where=self.where(name), expected=f"at most {limit:,}")

    def clips(self, clip_of: Callable[[str], str | None]) -> dict[str, str]:
        """Clip name -> file name, of the files that `clip_of` knows. Raises `DataError` if a clip exists twice."""
        found: dict[str, str] = {}
        for name in self.names:
            clip = clip_of(name)
            if clip is None:
                continue
            if clip in found:
                both = f"{self.path}: {found[clip]} and {name}"
                raise DataError(f"clip {clip} exists twice", where=both, expected="each clip once")
            found[clip] = name
        return found


@contextmanager
def open_listing(path: Path, *, kind: str) -> Iterator[Listing]:
    """List a folder, or open a zip and hold its directory against its size; `kind` says what a zip should be.

    Raises `MissingInputError` for what cannot be read, `DataError` for a damaged or hostile zip.
    """
    if path.is_dir():
        yield Listing(path, files_below(path))
        return
    with open_zip(path, kind=kind) as archive:
        check_members(path, archive)
        yield Listing(path, tuple(sorted(info.filename for info in archive.infolist() if not info.is_dir())), archive)


def files_below(path: Path) -> tuple[str, ...]:
    """Names of all files below a folder, relative, with /, sorted. Raises `MissingInputError` if it cannot be listed."""
    names = []
    for folder, _, files in os.walk(path, onerror=_cannot_list):
        inside = Path(folder).relative_to(path)
        names += [(inside / file).as_posix() for file in files]
    return tuple(sorted(names))


def _cannot_list(error: OSError) -> None:
    raise MissingInputError(f"cannot list the folder: {error.strerror}", where=str(error.filename))
