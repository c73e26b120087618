"""Tensors out of the zip archives that PyTorch writes (`torch.jit.save`, `torch.save`), with nothing in them run.

Such an archive holds a pickle, ``NAME/data.pkl``, and the numbers of each storage as a file, ``NAME/data/0`` and so on. The
pickle is read by the machine of `shared_data.formats`, which imports and calls nothing; here are the few more operations that
these pickles need. Names are compared as text: a tensor becomes a `_Place`, an object of TorchScript the dict of its attributes,
any other name is refused. The program code of a TorchScript archive is never looked at.

Source: PyTorch's documentation of its serialisation format, and the comments of Python's standard module `pickletools`.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared_data.errors import DataError, MissingInputError
from shared_data.formats.pickle_machine import Machine, Operation
from shared_data.formats.pickle_operations import OPERATIONS
from shared_data.formats.pickled_numpy import Refused

STEPS = 1_000_000  # operations of a pickle; that of CLIP has some 50,000
LARGEST_PICKLE = 16 << 20  # bytes
DEPTH, ENTRIES = 16, 20_000  # how deep and how many the named values may be: a hostile pickle can nest them without end
DTYPES = {
    "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16, "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
LARGEST = 1 << 40  # elements of a storage, and any size, step or offset in one
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


@dataclass(frozen=True, eq=False)
class _Global:
    module: str
    name: str


@dataclass(frozen=True, eq=False)
class _Storage:
    """The numbers of file ``data/key``."""

    key: str
    dtype: torch.dtype
    elements: int


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a tensor lies in a storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(eq=False)
class _ScriptObject:
    """An object of TorchScript: a module, whose attributes are its parameters, buffers, settings and sub-modules."""

    attributes: dict[Any, Any]


def read(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The named tensors in the archive `path`: names as in a state dict, on the CPU, in the archive's number formats.

    wanted  which names to read the numbers of; the others come as tensors of the device "meta", with a shape and no numbers

    Raises `MissingInputError`, and `DataError` for what is damaged, hostile or of another kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(archive, path)
            raw = _stored(archive, f"{root}data.pkl", LARGEST_PICKLE, str(path))
            if f"{root}byteorder" in archive.namelist() and _stored(archive, f"{root}byteorder", 16, str(path)) != b"little":
                raise DataError("the numbers are big-endian", where=str(path), expected="little-endian numbers")
            places = _named_places(Machine(path / "data.pkl", raw).run(_OPERATIONS, STEPS), path)
            return {name: _tensor(archive, root, place, wanted(name), f"{path}: {name}") for name, place in places.items()}
    except FileNotFoundError:
        raise MissingInputError("no such file", where=str(path)) from None
    except OSError as error:
        raise MissingInputError(f"cannot read the file: {error.strerror or error}", where=str(path)) from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, UnicodeError) as error:
        raise DataError(f"this is no archive of tensors: {error}", where=str(path), expected="a zip archive of PyTorch") from None


def _root(archive: zipfile.ZipFile, path: Path) -> str:
    """The one folder of the archive, with its slash."""
    found = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1 or len(set(archive.namelist())) != len(archive.namelist()):
        raise DataError("this zip file holds no tensors of PyTorch", where=str(path), expected="one NAME/data.pkl, no name twice")
    return found[0].removesuffix("data.pkl")


def _stored(archive: zipfile.ZipFile, name: str, limit: int, where: str) -> bytes:
    """An entry's bytes. PyTorch never compresses them, so their number is bounded by the file's."""
    try:
        entry = archive.getinfo(name)
    except KeyError:
        raise DataError("the archive is not complete", where=f"{where}: {name}") from None
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.file_size > limit:
        raise DataError(f"an entry is compressed or too large ({entry.file_size:,} bytes)", where=f"{where}: {name}")
    return archive.read(entry)


def _named_places(value: Any, path: Path) -> dict[str, _Place]:
    """Every tensor under its dotted name, through dicts and script objects; lists are not looked into."""
    found: dict[str, _Place] = {}
    waiting, seen = [("", value, 0)], 0
    while waiting:
        name, value, depth = waiting.pop()
        seen += 1
        if seen > ENTRIES or depth > DEPTH:
            raise DataError("more or deeper named values than a network has", where=str(path), expected=f"at most {ENTRIES:,}")
        if isinstance(value, _Place):
            if name in found:
                raise DataError("a name stands twice", where=f"{path}: {name}")
            found[name] = value
            continue
        inner = value.attributes if isinstance(value, _ScriptObject) else value
        if isinstance(inner, dict):
            waiting += [(f"{name}.{k}" if name else str(k), v, depth + 1) for k, v in reversed(inner.items())]
    if not found:
        raise DataError("no named tensors in the archive", where=str(path), expected="a network or its state dict")
    return found


def _tensor(archive: zipfile.ZipFile, root: str, place: _Place, wanted: bool, where: str) -> Tensor:
    storage, count = place.storage, math.prod(place.size)
    last = place.offset + sum((n - 1) * step for n, step in zip(place.size, place.stride, strict=True))
    if count and not (count <= storage.elements and last < storage.elements):
        raise DataError("a tensor reaches beyond its numbers", where=where)
    if not wanted or not count:
        return torch.empty(place.size, dtype=storage.dtype, device=None if wanted else "meta")
    size = storage.elements * storage.dtype.itemsize
    raw = _stored(archive, f"{root}data/{storage.key}", size, where)
    if len(raw) != size:
        raise DataError(f"{len(raw):,} bytes of numbers", where=where, expected=f"{size:,}")
    return torch.frombuffer(bytearray(raw), dtype=storage.dtype).as_strided(place.size, place.stride, place.offset).clone()


# What the pickle's operations do here. `Refused` becomes a `DataError` with the place.


def _name(machine: Machine, stack: list[Any], step: int) -> None:
    module, name = machine.line().decode("utf-8"), machine.line().decode("utf-8")
    stack.append(_Global(module, name))


def _persistent(machine: Machine, stack: list[Any], step: int) -> None:
    match machine.pop():
        case ("storage", _Global("torch", name), str(key), str(), int(elements)) if name in DTYPES and 0 <= elements < LARGEST:
            stack.append(_Storage(key, DTYPES[name], elements))
        case _:
            raise Refused("a reference to something other than a storage of numbers")


def _new_object(machine: Machine, stack: list[Any], step: int) -> None:
    match machine.pop(), machine.pop():
        case ((), _Global(module, _)) if module.split(".")[0] == "__torch__":
            stack.append(_ScriptObject({}))
        case (_, _Global(module, name)):
            raise Refused(f"an object of {module[:60]}.{name[:60]}")
        case _:
            raise Refused("an object of no class")


def _reduce(machine: Machine, stack: list[Any], step: int) -> None:
    arguments, callee = machine.pop(), machine.pop()
    if not isinstance(callee, _Global) or not isinstance(arguments, tuple):
        raise Refused("a call of something that has no name")
    match (callee.module, callee.name, *arguments):
        case ("torch._utils", "_rebuild_tensor_v2", _Storage() as storage, int(offset), tuple(size), tuple(stride), *_):
            stack.append(_place(storage, offset, size, stride))
        case ("torch._utils", "_rebuild_parameter", _Place() as place, *_):
            stack.append(place)
        case ("collections", "OrderedDict"):
            stack.append({})
        case ("torch.jit._pickle", name, list(items)) if name in LISTS:
            stack.append(items)
        case ("torch.jit._pickle", "restore_type_tag", value, str()):
            stack.append(value)
        case _:
            raise Refused(f"a call of {callee.module[:60]}.{callee.name[:60]}, which could run code")


def _place(storage: _Storage, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> _Place:
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > 8 or any(type(n) is not int or not 0 <= n < LARGEST for n in numbers):
        raise Refused("a tensor of no possible shape")
    return _Place(storage, offset, size, stride)


def _build(machine: Machine, stack: list[Any], step: int) -> None:
    """The attributes of a script object; those of an ordered dict (`_metadata` of a state dict) are left out."""
    state, target = machine.pop(), machine.pop()
    stack.append(target)
    if isinstance(target, _ScriptObject) and type(state) is dict:
        target.attributes = state
    elif type(target) is not dict:
        raise Refused("a state for something that has none")


_BY_NAME: dict[str, Operation] = {
    "GLOBAL": _name, "BINPERSID": _persistent, "NEWOBJ": _new_object, "REDUCE": _reduce, "BUILD": _build,
}  # fmt: skip
_OPERATIONS = {
    **{code: operation for code, operation in OPERATIONS.items() if chr(code) != "\x93"},  # STACK_GLOBAL: a later protocol
    **{ord(known.code): _BY_NAME[known.name] for known in pickletools.opcodes if known.name in _BY_NAME},
}
