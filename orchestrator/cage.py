"""What a container may see and do, described once and said in two ways: to the docker SDK, and as a `docker run` line.

Closed unless opened: no network, a read-only root, no capabilities, no new privileges, bounded processes and memory; what can be
written is in memory, or a folder that was named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker import types

from orchestrator.errors import EXIT_USAGE, OrchestratorError

USER = "10001:10001"
"""The user of the images: nobody's on the host."""
WORKSPACE = "/workspace"
WORK_DIR = f"{WORKSPACE}/work_dir"
ALL_GPUS = "all"


@dataclass(frozen=True)
class Bind:
    """A file or folder of the engine's machine, and where the container sees it."""

    here: Path
    there: str
    writable: bool = False


@dataclass(frozen=True)
class Cage:
    """One container. Sizes in Docker's notation (512m, 4g).

    scratch      folder in memory -> its size; gone with the container
    programs     whether programs may be run from there (a compiler's output is)
    gpus         "" for none, "all", or numbers and UUIDs with commas between them
    memory       "" for no limit; swap is not given on top
    log          size of the log that the engine keeps; "" for the engine's own way
    tty          whether the output is a terminal
    """

    image: str
    command: tuple[str, ...]
    user: str = USER
    binds: tuple[Bind, ...] = ()
    scratch: Mapping[str, str] = field(default_factory=dict)
    programs: bool = False
    gpus: str = ""
    network: str = "none"
    memory: str = ""
    shm: str = "256m"
    pids: int = 256
    log: str = ""
    tty: bool = False
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def memory_bytes(text: str) -> int:
    """Docker's notation -> bytes; raises on anything else."""
    match = re.fullmatch(r"(\d+)([kmg]?)b?", text.strip().lower())
    if not match:
        raise OrchestratorError(f"{text!r} is not an amount of memory", "write 512m or 4g", exit_code=EXIT_USAGE)
    return int(match[1]) * {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}[match[2]]


def _options(cage: Cage, size: str) -> str:
    return f"rw,nosuid,nodev,{'exec' if cage.programs else 'noexec'},size={size},mode=1777"


def sdk_arguments(cage: Cage) -> dict[str, Any]:
    """Of `client.containers.create`."""
    result: dict[str, Any] = {
        "image": cage.image,
        "command": list(cage.command),
        "labels": dict(cage.labels),
        "user": cage.user,
        "network_mode": cage.network,
        "read_only": True,
        "tmpfs": {folder: _options(cage, size) for folder, size in cage.scratch.items()},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": cage.pids,
        "shm_size": cage.shm,
        "init": True,
        "tty": cage.tty,
        "device_requests": _devices(cage.gpus),
        # types.Mount, not volumes: a missing source is an error, not a new folder owned by root.
        "mounts": [types.Mount(bind.there, str(bind.here), type="bind", read_only=not bind.writable) for bind in cage.binds],
    }
    if cage.memory:
        result |= {"mem_limit": cage.memory, "memswap_limit": cage.memory}
    if cage.log:
        result["log_config"] = types.LogConfig(type="json-file", config={"max-size": cage.log, "max-file": "1"})
    if cage.name:
        result["name"] = cage.name
    return result


def _devices(gpus: str) -> list[Any]:
    if not gpus:
        return []
    which = {"count": -1} if gpus == ALL_GPUS else {"device_ids": gpus.split(",")}
    return [types.DeviceRequest(capabilities=[["gpu"]], **which)]


def docker_run(cage: Cage) -> list[str]:
    """The words of the `docker run` that makes the same container and removes it at its end; without labels and name."""
    words = ["docker", "run", "--rm", "--init"]
    if cage.tty:
        words += ["--tty"]
    if cage.gpus:
        # docker reads this value as a line of CSV: several numbers need quotes of its own.
        words += ["--gpus", cage.gpus if cage.gpus == ALL_GPUS else f'"device={cage.gpus}"']
    words += ["--user", cage.user, "--network", cage.network, "--read-only"]
    for folder, size in cage.scratch.items():
        words += ["--tmpfs", f"{folder}:{_options(cage, size)}"]
    words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", str(cage.pids), "--shm-size", cage.shm]
    if cage.memory:
        words += ["--memory", cage.memory, "--memory-swap", cage.memory]
    if cage.log:
        words += ["--log-driver", "json-file", "--log-opt", f"max-size={cage.log}", "--log-opt", "max-file=1"]
    for bind in cage.binds:
        words += ["--mount", _mount(bind)]
    return [*words, cage.image, *cage.command]


def _mount(bind: Bind) -> str:
    """The value of --mount, which docker reads as a line of CSV."""
    parts = ["type=bind", f"source={bind.here}", f"target={bind.there}", *([] if bind.writable else ["readonly"])]
    return ",".join('"' + part.replace('"', '""') + '"' if re.search('[",]', part) else part for part in parts)
