"""Pickles of numbers, text and numpy arrays, read without being run.

A pickle is a program for a small stack machine (`pickle_machine`). Ours knows the part of the language that data need: no
operation imports or calls anything. The few names that numpy writes into its pickles are compared as text and rebuilt in
`pickled_numpy`. Everything else - other names, persistent ids, extension codes, classes, sets, attributes - is a `DataError`
that names the operation.

Bounds: data are views of the mapped file, so arrays cost no memory of their own; a file has at most `MAX_STEPS` operations;
integers have at most 64 bits; dictionary keys are text or integers (the hash of nested tuples can take for ever); memo
numbers cannot exceed the steps done. Objects may be shared or nested without end, so whoever reads the result must look at
known places only, never walk, print or compare it.

Source: the comments of Python's standard module `pickletools`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared_data.formats.pickle_machine import Machine
from shared_data.formats.pickle_operations import OPERATIONS

MAX_STEPS = 20_000_000  # NTU-120 of pyskl has about 8 million
PREFIX_STEPS = 4096  # how far `first_keys` looks


def read_pickle(path: Path, *, steps: int = MAX_STEPS) -> Any:
    """What the pickle `path` holds: dicts, lists, tuples, text, numbers, None, bytes (long ones as views), `PickledArray`.

    steps  operations that the file may have; each can make an object of some 60 bytes
    Long text (over `pickle_operations.MAX_TEXT` bytes) comes as bytes. See the module about what may be done with the result.
    Raises `MissingInputError`, and `DataError` for what is damaged, hostile or of another kind.
    """
    return Machine(path).run(OPERATIONS, steps)


def first_keys(path: Path) -> tuple[str, ...]:
    """The text keys of a pickled dict that its first `PREFIX_STEPS` operations show; () if it is anything else.

    Raises `DataError` if these operations are not those of plain data.
    """
    machine = Machine(path)
    machine.run(OPERATIONS, PREFIX_STEPS, whole=False)
    return machine.keys_so_far()
