"""Reading a parity fixture, and the weights rule: every official entry is regenerated from its name, shape and a seed.

The rule (kinds, distributions, order of the draws) is that of the fixtures' README; a checksum over all entries, recorded with
each fixture, proves that both sides computed with the same bits.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared_data.errors import LabError

STRUCTURED_NOISE = 0.05


class FixtureError(LabError):
    """A file that the judge cannot use."""

    exit_code = 2


@dataclass(frozen=True)
class Fixture:
    """One file: its arrays by name and its parsed metadata."""

    path: Path
    meta: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self.arrays:
            raise FixtureError("the fixture lacks an array", where=f"{self.path}: {name}")
        return self.arrays[name]

    def need(self, key: str) -> Any:
        """An entry of the metadata that this kind of fixture must have."""
        if key not in self.meta:
            raise FixtureError("the metadata of the fixture lacks an entry", where=f"{self.path}: meta[{key!r}]")
        return self.meta[key]

    def named(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The arrays below ``prefix/``, by the rest of their name."""
        return {name[len(prefix) + 1 :]: value for name, value in self.arrays.items() if name.startswith(f"{prefix}/")}


def load(path: Path | str) -> Fixture:
    """Read a fixture; raises `FixtureError` for anything that is not one. Nothing is unpickled."""
    path = Path(path)
    try:
        if path.is_file() and not zipfile.is_zipfile(path):
            raise ValueError("it is no NPZ archive")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        meta = json.loads(str(arrays.pop("meta")))
        if not isinstance(meta, dict):
            raise ValueError("the metadata is not a table")
    except FileNotFoundError as error:
        raise FixtureError("there is no such fixture", where=str(path)) from error
    except KeyError as error:
        raise FixtureError("this NPZ file is not a parity fixture", where=str(path), expected="an entry `meta`") from error
    except Exception as error:  # a damaged archive surfaces as one of many types
        raise FixtureError(
            f"cannot read this as a parity fixture: {error or type(error).__name__}",
            where=str(path),
            expected="an NPZ file with an entry `meta`",
        ) from error
    return Fixture(path, meta, arrays)


def entry_value(
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    kind: str,
    seed: int,
    *,
    constant: NDArray[Any] | None = None,
    scale: float = 1.0,
) -> NDArray[Any]:
    """The value of one official state-dict entry.

    kind "constant" is `constant`; "structured" is `constant` + N(0, 0.05); "param" and "buffer" are drawn from a generator
    seeded with (seed, CRC-32 of the name) in a distribution chosen by the last part of the name and the number of dimensions,
    times `scale`, in float64, and rounded to `dtype` at the end.
    """
    if kind in ("constant", "structured"):
        if constant is None or constant.shape != shape:
            raise FixtureError(f"the constant of {name} is missing or of another shape", expected=str(shape))
        if kind == "constant":
            return constant.astype(dtype)
    elif kind not in ("param", "buffer"):
        raise FixtureError(f"unknown kind of entry {kind!r}", where=name, expected="param, buffer, constant, structured, alias")
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if kind == "structured":
        assert constant is not None
        return (constant.astype(np.float64) + rng.normal(0.0, STRUCTURED_NOISE, shape)).astype(dtype)
    if not np.issubdtype(np.dtype(dtype), np.floating):
        return np.zeros(shape, dtype)
    return np.asarray(_draw(rng, name.rsplit(".", 1)[-1], shape) * scale).astype(dtype)


def _draw(rng: np.random.Generator, last: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Scales, variances and single numbers from U(0.5, 1.5); everything else normal. `last` is the last part of the name."""
    flat = len(shape) <= 1
    scale = flat and "bias" not in last and (math.prod(shape) == 1 or "weight" in last)
    if last != "running_mean" and (last == "running_var" or scale):
        return np.asarray(rng.uniform(0.5, 1.5, shape))
    if flat or last == "running_mean":
        spread = 0.1
    else:
        spread = 1.0 / math.sqrt(math.prod(shape[1:]) if "weight" in last else shape[-1])
    return np.asarray(rng.normal(0.0, spread, shape))


def weights(
    fixture: Fixture, *, seed: int | None = None, constants: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """{official name: tensor} of a forward fixture, in official order.

    constants   those that are too large to be stored, by official name
    With the fixture's own seed the result is held against the recorded checksum, unless a constant had to be given: that may
    differ in its last bit. Raises `FixtureError` if it differs, or a constant is missing.
    """
    meta, given = fixture.meta, constants or {}
    kinds = {name: kind for name, _, _, kind in fixture.need("entries")}
    aliases, scales, stored = meta.get("aliases") or {}, meta.get("scales") or {}, meta.get("constants") or {}
    complete = True
    values: dict[str, torch.Tensor] = {}
    for name, shape, dtype, kind in fixture.need("entries"):
        if name in aliases:
            continue
        constant = None
        if kinds[name] in ("constant", "structured"):
            if stored.get(name) is not None:
                constant = fixture[stored[name]].astype(dtype).reshape(shape)
            elif name in given:
                constant, complete = given[name].numpy().astype(dtype), False
            else:
                raise FixtureError(f"the constant of {name} is not stored in the fixture", where=str(fixture.path))
        value = entry_value(
            name,
            tuple(shape),
            dtype,
            kind,
            fixture.need("seed") if seed is None else seed,
            constant=constant,
            scale=scales.get(name, 1.0),
        )
        values[name] = torch.from_numpy(value)
    values.update({name: values[target] for name, target in aliases.items()})
    ordered = {name: values[name] for name in kinds}
    if seed is None and complete:
        require_checksum(fixture, ordered, meta.get("weights_crc32"))
    return ordered


def start_weights(trajectory: Fixture, *, constants: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Weights before the first step of a training trajectory, from the forward fixture that its metadata names.

    `constants` as for `weights`. The fixture is looked for beside the trajectory and one folder above. Raises `FixtureError` if
    it is in neither.
    """
    rule = trajectory.need("weights")
    folder = trajectory.path.resolve().parent
    for place in (folder.parent / rule["fixture"], folder / rule["fixture"]):
        if place.is_file():
            break
    else:
        raise FixtureError(
            "the forward fixture of this trajectory is missing",
            where=f"{trajectory.path}: {rule['fixture']}",
            expected=f"the file in {folder.parent} or {folder}",
            next_step="put the forward fixture there: it defines the names and shapes of the start weights",
        )
    values = weights(load(place), seed=rule["seed"], constants=constants)
    values = {name: value for name, value in values.items() if not name.startswith(tuple(rule["drop"]))}
    for name, shape, dtype, kind in rule["add"]:
        values[name] = torch.from_numpy(entry_value(name, tuple(shape), dtype, kind, rule["seed"]))
    require_checksum(trajectory, values, rule["crc32"])
    return values


def require_checksum(fixture: Fixture, values: Mapping[str, torch.Tensor | NDArray[Any]], recorded: int | None) -> None:
    """CRC-32 over the bytes of all `values`, in order, must be `recorded` (None: nothing was recorded)."""
    crc = 0
    for value in values.values():
        crc = zlib.crc32(np.ascontiguousarray(np.asarray(value)).tobytes(), crc)
    if recorded is not None and crc != recorded:
        raise FixtureError(
            f"the regenerated values have checksum {crc}, and {recorded} was recorded",
            where=str(fixture.path),
            next_step="fetch the fixture again; if it is intact, this NumPy draws other numbers",
        )
