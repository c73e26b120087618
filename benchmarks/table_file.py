"""A benchmark's CSV file that grows row by row, goes on where it was cut off, and is never mixed.

Its head says, in lines that begin with #, what every row was measured with (machine, revision, settings), then when and by which
command it was begun. Rows are known by the columns of a key.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.environment import machine_line
from engine.errors import ConfigError

Key = tuple[str, ...]


@dataclass(frozen=True)
class TableFile:
    """The file, its columns, and those of them that name a row."""

    path: Path
    columns: Sequence[str]
    key: Sequence[str]

    def begin(
        self, about: Mapping[str, Any], settings: Mapping[str, object], command: Sequence[str]
    ) -> dict[Key, dict[str, str]]:
        """Write the head of a new file; of one that is there, its rows by their keys.

        about      of the machine, as `engine.environment.describe` has it
        settings   what all rows share
        command    program and words as they were given; folders are left out
        Raises `ConfigError` if the head or columns of a file that is there are other ones. Changes that are not committed make
        a revision "+changes": two of those cannot be told apart.
        """
        shared = ", ".join(f"{name} {value}" for name, value in settings.items())
        fixed = (machine_line(dict(about)), f"revision {about['git']}", shared)
        if not self.path.exists():
            told = " ".join([command[0], *(Path(word).name if "/" in word else word for word in command[1:])])
            with self.path.open("w", newline="") as file:
                file.writelines(f"# {line}\n" for line in (*fixed, f"{about['date']}, python {told}"))
                csv.DictWriter(file, self.columns).writeheader()
            return {}
        lines = self.path.read_text().splitlines()
        head = [line.removeprefix("# ") for line in lines if line.startswith("#")]
        flags = [name if i == 0 else f"--{name}" for i, name in enumerate(settings)]
        kinds = ("machine or torch", "revision", " or ".join(filter(None, (", ".join(flags[:-1]), flags[-1]))))
        for name, now, then in zip(kinds, fixed, [*head, "", "", ""], strict=False):
            if now != then:
                raise ConfigError(
                    f"the file was begun with another {name}: {then or 'none given'}", where=str(self.path), expected=now,
                    next_step="give another --out, or remove the file, or measure as it was begun",
                )  # fmt: skip
        table = csv.DictReader(line for line in lines if not line.startswith("#"))
        if tuple(table.fieldnames or ()) != tuple(self.columns):
            raise ConfigError(
                "the file has other columns", where=str(self.path), next_step="give another --out, or remove the file"
            )
        return {self.key_of(row): row for row in table}

    def key_of(self, row: Mapping[str, Any]) -> Key:
        return tuple(str(row[name]) for name in self.key)

    def put(self, row: Mapping[str, Any], *, instead: bool = False) -> dict[str, str]:
        """Add `row`, `instead` of the one with its key if that is there; returns it as it will be read."""
        if instead:
            self._drop(self.key_of(row))
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, extrasaction="ignore").writerow(row)
        return {name: str(row.get(name, "")) for name in self.columns}

    def over_seeds(self, by: Sequence[str], digits: int) -> dict[Key, str]:
        """Mean and standard deviation of every figure over the rows that share columns `by`; an empty figure is none.

        Figures are all columns that are not of the key.
        """
        groups: dict[Key, list[dict[str, str]]] = {}
        for row in csv.DictReader(line for line in self.path.read_text().splitlines() if not line.startswith("#")):
            groups.setdefault(tuple(row[name] for name in by), []).append(row)
        return {group: self._told(mine, digits) for group, mine in groups.items()}

    def _told(self, rows: Sequence[Mapping[str, str]], digits: int) -> str:
        told = []
        for name in (name for name in self.columns if name not in self.key):
            values = [float(row[name]) for row in rows if row[name]]
            if values:
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                told.append(f"{name} {statistics.fmean(values):.{digits}f} ± {spread:.{digits}f}")
        return f"{len(rows)} seeds: " + ", ".join(told)

    def _drop(self, key: Key) -> None:
        """Remove the row of `key`, by way of a second file: there is a whole one at every moment."""
        start = ",".join(key) + ","
        fresh = self.path.with_name(self.path.name + ".new")
        with self.path.open(newline="") as file:
            kept = [line for line in file if not line.startswith(start)]
        with fresh.open("w", newline="") as file:
            file.writelines(kept)
        fresh.replace(self.path)
