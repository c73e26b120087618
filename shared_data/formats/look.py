"""What can be seen of a path at a glance: its kind and the names inside. Layouts are recognised from this."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shared_data.errors import MissingInputError
from shared_data.formats.listing import files_below
from shared_data.formats.npz import Npz, open_zip

HDF5_START = b"\x89HDF\r\n\x1a\n"
_STARTS = ((HDF5_START, "hdf5"), (b"\x93NUMPY", "npy"), (b"\x80", "pickle"), (b"PK", "zip"))
# Protocols 0 and 1 have no sign of their own: a dict with its memo number, or at once its first key.
_OLD_DICT = re.compile(rb"\(d(?:p[0-9]+\n|[SV])|\}(?:q.)?[(UX]", re.DOTALL)


@dataclass(frozen=True)
class Look:
    """kind    "folder", "zip", "npz" (a zip holding .npy members), "npy", "hdf5", "pickle" or "other"; of the pickles of
            protocols 0 and 1, dicts alone can be told from text
    names   files inside a folder (relative, with /) or a zip, sorted; () for anything else
    shapes  array name -> shape of an NPZ
    """

    path: Path
    kind: str
    names: tuple[str, ...] = ()
    shapes: dict[str, tuple[int, ...]] | None = None

    def has_file(self, *names: str) -> bool:
        """Whether all of `names` are among the files, in whatever folder inside."""
        return set(names) <= {PurePosixPath(name).name for name in self.names}


def look(path: Path) -> Look:
    """Look at `path`. Raises `MissingInputError` if it cannot be read, `DataError` for a damaged or hostile zip."""
    try:
        there = path.exists()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if not there:
        raise MissingInputError("no such file or folder", where=str(path)[:200], next_step="check the path")
    if path.is_dir():
        return Look(path, "folder", files_below(path))
    if not path.is_file():
        raise MissingInputError("neither a file nor a folder", where=str(path), expected="a data file, not a pipe or a device")
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise MissingInputError(f"cannot read the file: {error.strerror}", where=str(path)) from None
    kind = next((kind for bytes_, kind in _STARTS if start.startswith(bytes_)), "other")
    if kind == "other" and _OLD_DICT.match(start):
        kind = "pickle"
    if kind != "zip":
        return Look(path, kind)
    with open_zip(path, kind="zip") as archive:
        names = tuple(sorted(info.filename for info in archive.infolist()))
    if not any(name.endswith(".npy") for name in names):
        return Look(path, kind, names)
    with Npz(path) as npz:
        return Look(path, "npz", names, {key: member.shape for key, member in npz.members.items()})
