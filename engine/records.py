"""What a stage leaves beside its files: what they were made from, so that it is known later whether they still hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import WorkDirError
from engine.storage import write_atomically
from shared_data.errors import LabError
from shared_data.store import sha256

MADE = "made.json"
"""The record in a folder that is made as a whole."""
SEAL = "seal"
"""In a record: the fingerprint of the rest of it."""


def fingerprint(value: Any) -> str:
    """SHA-256 of a value that JSON can hold; the same for the same value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def array_fingerprint(*arrays: np.ndarray | None) -> str:
    """SHA-256 of arrays of numbers: their types, shapes and values. None counts as an array of its own."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is None:
            digest.update(b"none;")
            continue
        digest.update(f"{array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def plain(value: Any) -> Any:
    """The same as a JSON file gives it back: lists for tuples, text for the keys of tables."""
    return json.loads(json.dumps(value))


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted names."""
    rows: dict[str, Any] = {}
    for name, value in table.items():
        rows.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return rows


def write_json(file: Path, value: Any) -> None:
    """Raises `SaveError`."""
    write_atomically(file, (json.dumps(value, indent=1) + "\n").encode())


def read_json(file: Path) -> dict[str, Any] | None:
    """The table in a file; None if there is no such file, or no table in it."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_record(file: Path, made_from: Mapping[str, Any], files: list[str], found: Mapping[str, Any]) -> None:
    """Write the record of a stage in `file`, once its `files` lie beside it; `found` is what the stage has to say."""
    hashes = {name: sha256(file.parent / name) for name in files}
    record = plain({"made_from": dict(made_from), "files": hashes, "found": dict(found)})
    write_json(file, {**record, SEAL: fingerprint(record)})


def read_record(file: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the stage found, if it was made from the same and all its files are as it left them; else None: do it again."""
    record = read_json(file)
    if record is None or not is_sealed(record) or record.get("made_from") != plain(dict(made_from)):
        return None
    files, found = record.get("files"), record.get("found")
    if not isinstance(files, dict) or not isinstance(found, dict):
        return None
    return found if all(is_as_left(file.parent / name, known) for name, known in files.items()) else None


def is_sealed(record: Mapping[str, Any]) -> bool:
    """Whether a record is as it was written, to the last digit."""
    return record.get(SEAL) == fingerprint({name: value for name, value in record.items() if name != SEAL})


def is_made(folder: Path, made_from: Mapping[str, Any], *, force: bool = False) -> bool:
    """Whether `folder` is there, made from the same, with all files as they were written: then there is nothing to do.

    If not, nothing is there: with `force` what had been made from something else, or was damaged, is removed.
    Raises `WorkDirError` for such a folder without `force`, with what differs, and for one that has no record: it is not ours.
    """
    if read_record(folder / MADE, made_from) is not None:
        return True
    if not folder.exists() and not folder.is_symlink():
        return False
    record = read_json(folder / MADE)
    if record is None:
        raise WorkDirError(
            "this folder holds something else, and is left alone", where=str(folder), next_step="choose another place or name"
        )
    if not force:
        saved, asked = flat(_table(record.get("made_from"))), flat(plain(dict(made_from)))
        changed = [f"{name}: {saved.get(name)} -> {value}" for name, value in asked.items() if saved.get(name) != value]
        raise WorkDirError(
            "the folder was made from something else (saved -> asked):\n    " + "\n    ".join(changed)
            if changed else "files in the folder are not as they were written",
            where=str(folder), next_step="choose another place or name, or --force to make it again",
        )  # fmt: skip
    _remove(folder, [*_table(record.get("files")), MADE])
    return False


def _remove(folder: Path, names: Iterable[str]) -> None:
    """The files of these names in `folder`, and then itself: what else lies there is not removed."""
    try:
        for name in names:
            if Path(name).name == name:
                (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    except OSError as error:
        raise WorkDirError(
            f"cannot remove what was made before: {error.strerror or error}", where=str(folder),
            next_step="remove the folder by hand, or choose another place or name",
        ) from error  # fmt: skip


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def is_as_left(file: Path, known: str) -> bool:
    """Whether a file is there with the SHA-256 `known`."""
    try:
        return file.is_file() and sha256(file) == known
    except (OSError, LabError):
        return False
