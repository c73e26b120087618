"""Checkpoints without pickle: tensors in safetensors, everything else as JSON in the file's header.

`last.safetensors` is the full state of a run (network, optimizer, loss scaler, position, running sums): one file, so one
rename makes it current. Exported weights (`best.safetensors`, `runs-E-S.safetensors`) hold the network alone. Each file has a
seal in its header, the SHA-256 of all its bytes (zeros standing for the seal), so that a single wrong bit is seen.
"""

from __future__ import annotations

import errno
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as to_bytes
from torch import nn

from engine.errors import WeightsError
from engine.storage import patiently, write_atomically
from shared_data.errors import MissingInputError

HEADER_LIMIT = 100 * 2**20  # bytes; safetensors' own limit
SEAL = "sha256"
BLANK = "0" * 64
BEFORE_SEAL = f'"{SEAL}":"'.encode()  # within a JSON string its quotes would have backslashes


class DamagedError(WeightsError):
    """A checkpoint that is not as it was written."""


def save_weights(path: Path, model: nn.Module, about: dict[str, Any]) -> None:
    """The network alone, with `about` (model, arguments, epoch, accuracy) in the header."""
    write_atomically(path, _sealed(_contiguous(model.state_dict()), {"about": json.dumps(about)}))


def save_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    position: dict[str, Any],
    *,
    previous: Path | None = None,
) -> None:
    """Everything that `load_state` needs to go on as if nothing had happened; `position` is JSON-able.

    previous   where the state that is now at `path` stays
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    saved = optimizer.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in saved["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    header = {
        "position": json.dumps(position),
        "optimizer_scalars": json.dumps(scalars),
        "scaler": json.dumps(scaler.state_dict()),
    }
    write_atomically(path, _sealed(_contiguous(tensors), header), previous=previous)


def load_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    accept: Callable[[dict[str, Any]], None] = lambda position: None,
) -> dict[str, Any]:
    """Restore a state written by `save_state`; returns its position.

    Raises `DamagedError` (exit 65), before anything is restored, or `WeightsError` (exit 65) for that of another run.

    `accept` sees the position before anything is restored and may refuse it.

    The optimizer's settings (weight decay, momentum) are those of `optimizer`, so that `--force` with new ones means it.
    """
    tensors, header = read(path)
    try:
        position: dict[str, Any] = json.loads(header["position"])
        if missing := {"epoch", "step", "data", "log_size"} - set(position):
            raise KeyError(f"no {', '.join(sorted(missing))} in the position")
        accept(position)
        model.load_state_dict(_under("model/", tensors))
        scalars = json.loads(header["optimizer_scalars"])
        state: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in scalars.items()}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for key, value in _under("optimizer/", tensors).items():
            index, name = key.split("/", 1)
            if value.dim() and value.shape != parameters[int(index)].shape:
                raise ValueError(f"{key} is of another shape than its parameter")
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        scaler.load_state_dict(json.loads(header["scaler"]))
    except torch.cuda.OutOfMemoryError:  # a RuntimeError too, and nothing is wrong with the file
        raise
    except (LookupError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(
            "this is not the full state of the run at hand", where=str(path), expected=str(error).splitlines()[0],
            next_step="give another --work-dir, or --resume never --force to start over",
        ) from error  # fmt: skip
    return position


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file, the lengths it claims checked against the file's true size, its seal checked.

    Files of other programs have no seal. Raises `MissingInputError` (exit 66), `DamagedError` or `WeightsError` (exit 65).
    """
    place = str(path)
    try:
        content = patiently(path.read_bytes, f"read {path}")
        place = f"{path} ({len(content)} bytes)"
        (length,) = struct.unpack("<Q", content[:8])
        if length > min(HEADER_LIMIT, len(content) - 8):
            raise ValueError(f"the header claims {length} bytes, the file has {len(content)}")
        header = json.loads(content[8 : 8 + length])
        about = header.get("__metadata__", {}) if isinstance(header, dict) else None
        if not isinstance(about, dict):
            raise ValueError("the header is not a table")
        if SEAL in about:
            _check_seal(content, 8 + length, about[SEAL])
        return load_bytes(content), about
    except FileNotFoundError:
        raise MissingInputError("no such checkpoint", where=str(path)) from None
    except (OSError, SafetensorError, ValueError, KeyError, struct.error, RuntimeError) as error:
        ours = isinstance(error, OSError) and error.errno != errno.EIO  # no permission, a folder: nothing is said of the content
        raise (WeightsError if ours else DamagedError)(
            f"the checkpoint cannot be read: {error}", where=place, expected="a complete safetensors file",
            next_step="--resume never --force starts the run over; or begin another with --weights of what is left",
        ) from error  # fmt: skip


def _sealed(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> bytes:
    content = to_bytes(tensors, {**header, SEAL: BLANK})
    at, seal = _seal(content, len(content))
    return b"".join((content[:at], seal.encode(), content[at + len(seal) :]))


def _check_seal(content: bytes, header_end: int, claimed: object) -> None:
    _, seal = _seal(content, header_end)
    if seal != claimed:
        raise ValueError(f"its SHA-256 is {seal[:12]}..., it was written with {str(claimed)[:12]}...")


def _seal(content: bytes, header_end: int) -> tuple[int, str]:
    """Where the seal of `content` begins, and what it must be."""
    before = content.find(BEFORE_SEAL, 8, header_end)
    if before < 0:
        raise ValueError("the seal is not where it was written")
    at = before + len(BEFORE_SEAL)
    view, digest = memoryview(content), hashlib.sha256()
    for part in (view[:at], BLANK.encode(), view[at + len(BLANK) :]):
        digest.update(part)
    return at, digest.hexdigest()


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the CPU, as safetensors stores neither views nor shared storage."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
