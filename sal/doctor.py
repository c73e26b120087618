"""`sal doctor`: what this machine is, and what would keep a run from working on it.

`engine.environment` and `engine.gpus` describe; here is judged. Each code is explained in docs/doctor.md. Nothing is changed and
nothing large is read: a data file is judged by its directory and headers.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from engine import environment, gpus
from engine.environment import GIB, SHM
from engine.gpus import Driver, Finding
from sal import doctor_images
from sal.printing import PipedConsole, print_json
from shared_data.errors import LabError

LITTLE_SHM, LITTLE_DISK, LITTLE_RAM, LITTLE_FREE_RAM = 1.0, 10.0, 8.0, 2.0
"""GiB below which a finding is made."""
FULL_DISK = 0.5
"""GiB below which not even a short run can write its checkpoints."""
USED_MIB = 300.0
"""GPU memory that the plan does not miss: about what it leaves to the driver."""
DATA_VARIABLE = "NTU60"  # of the Makefile
_ORDER = ("error", "warning", "info")
_STYLE = {"error": "bold red", "warning": "yellow", "info": "dim"}


def doctor(data: Path | None = None, work_dir: Path | None = None, json: bool = False) -> int:
    """Say what this machine is and what would keep a run from working; exit 1 if anything would.

    Args:
        data: a data file to be looked at as well, without reading all of it (default: $NTU60, if set).
        work_dir: where runs are to be written (default: where they go unless told otherwise, $SAL_WORK_DIR or work_dir).
        json: print one JSON object.
    """
    file = data or _named_data()
    work_dir = work_dir or environment.work_dir()
    machine, driver = environment.describe(work_dir), gpus.ask_driver()
    seen, about_data = look_at(file) if file else (None, [])
    found = sorted([*findings(work_dir, machine, driver), *about_data], key=lambda finding: _ORDER.index(finding.severity))
    ok = all(finding.severity != "error" for finding in found)
    if json:
        print_json({
            "ok": ok, "environment": machine, "driver": [gpu._asdict() for gpu in driver.gpus], "data": seen,
            "findings": [finding._asdict() for finding in found],
        })  # fmt: skip
    else:
        _show(machine, seen, found, PipedConsole())
    return int(not ok)


def _named_data() -> Path | None:
    named = os.environ.get(DATA_VARIABLE)
    return Path(named) if named else None


def _show(machine: dict[str, Any], data: dict[str, Any] | None, found: list[Finding], console: Console) -> None:
    console.print(environment.machine_line(machine), highlight=False, markup=False)
    if data and data["layout"]:
        protocol = f"; {data['protocol']}" if data["protocol"] else ""
        console.print(f"{data['path']}: {data['layout']}, {data['reason']}{protocol}", highlight=False, markup=False)
    if not found:
        console.print("nothing found that would keep a run from working")
    for finding in found:
        line = Text.assemble((f"{finding.severity:8}", _STYLE[finding.severity]), f" {finding.code}: {finding.message}")
        console.print(line, highlight=False, soft_wrap=True)
        console.print(f"         fix: {finding.fix}", highlight=False, markup=False, soft_wrap=True)


def findings(work_dir: Path, machine: dict[str, Any], driver: Driver) -> Iterator[Finding]:
    """What is wrong or scarce on this machine, data aside.

    machine, driver   from `environment.describe` and `gpus.ask_driver`
    """
    yield from gpus.findings(machine, driver)
    yield from doctor_images.findings(machine, driver)
    yield from _busy(driver)
    yield from _room(machine, work_dir)
    yield from _permissions(work_dir)


def _busy(driver: Driver) -> Iterator[Finding]:
    for number, gpu in enumerate(driver.gpus):
        if gpu.used_mib is None or gpu.total_mib is None or not USED_MIB < gpu.used_mib <= gpu.total_mib:
            continue
        used = math.ceil(gpu.used_mib / 1024 * 10) / 10
        left = math.floor((gpu.total_mib - gpu.used_mib) / 1024 * 10) / 10
        yield Finding("gpu-busy", "warning",
                      f"{gpu.used_mib:.0f} of {gpu.total_mib:.0f} MiB of GPU {number} ({gpu.name}) are in use, and the plan "
                      "assumes an empty card",
                      f"end what nvidia-smi lists, or plan with it: sal plan --used {used:g}, --fit {left:g}GiB")  # fmt: skip


def _room(machine: dict[str, Any], work_dir: Path) -> Iterator[Finding]:
    shm, disk, ram = machine["shm_gib"], machine["disk_free_gib"], machine["ram_gib"]
    if shm is not None and shm < LITTLE_SHM:
        yield Finding("little-shm", "warning", f"shared memory ({SHM}) has {shm:.2f} GiB",
                      "in a container: docker run --shm-size=1g (or --ipc=host)")  # fmt: skip
    if disk is not None and disk < FULL_DISK:
        yield Finding("disk-full", "error", f"{disk:.2f} GiB free where {work_dir} lies: no run can save itself",
                      "free some space, or give another --work-dir")  # fmt: skip
    elif disk is not None and disk < LITTLE_DISK:
        yield Finding("little-disk", "warning", f"{disk:.1f} GiB free where {work_dir} lies",
                      "free some space, or give another --work-dir; one image takes about 8 GiB")  # fmt: skip
    if ram is not None and ram < LITTLE_RAM:
        yield Finding("little-ram", "warning", f"{ram:.1f} GiB of RAM",
                      "use a prepared store (sal data prepare): it is memory-mapped")  # fmt: skip
    free = environment.free_ram_bytes()
    if free is not None and free < LITTLE_FREE_RAM * GIB:
        yield Finding("little-free-ram", "warning", f"{free / GIB:.1f} GiB of RAM are free",
                      "end other programs, use a prepared store (sal data prepare), or fewer --num-worker")  # fmt: skip


def _permissions(work_dir: Path) -> Iterator[Finding]:
    if why := _unwritable(work_dir):
        yield Finding("work-dir-unwritable", "error", f"runs cannot be written to {work_dir}: {why}",
                      f'give another --work-dir, or sudo chown -R "$(id -u)" {work_dir}; in a container mount a folder of yours '
                      'and add --user "$(id -u):$(id -g)"')  # fmt: skip
    usual = environment.work_dir()
    if work_dir != usual and usual.exists() and (why := _unwritable(usual)):
        yield Finding("default-work-dir-unwritable", "warning",
                      f"{usual}, where runs go unless told otherwise, cannot be written: {why}",
                      f'sudo chown -R "$(id -u)" {usual} (did a container make it?), or always give --work-dir')  # fmt: skip
    if os.geteuid() == 0:
        yield Finding("running-as-root", "info", "this is root: what runs write belongs to root, in a mounted folder too",
                      'in a container: docker run --user "$(id -u):$(id -g)"; natively: an account of your own')  # fmt: skip
    home = os.environ.get("HOME") or "/"
    if why := _unwritable(Path(home)):
        yield Finding("home-unwritable", "warning", f"the home folder {home} cannot be written ({why}): nothing is cached there",
                      "in a container: docker run -e HOME=/tmp; else set HOME to a folder of yours")  # fmt: skip


def _unwritable(folder: Path) -> str:
    """Why nothing can be written into `folder` (or made below its nearest parent that exists); "" if something can.

    A nameless file is tried: modes say nothing of read-only file systems, quotas and network shares.
    """
    nearest = environment.nearest_existing(folder)
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"\0")
    except OSError as error:
        return f"{error.strerror or error}: {nearest}"
    return ""


def look_at(path: Path) -> tuple[dict[str, Any] | None, list[Finding]]:
    """What a data file is as far as its headers tell (None where it cannot be opened), and what is wrong with it."""
    try:
        there = path.exists()
    except (OSError, ValueError) as error:  # a folder above that may not be entered; a name no file can have
        return None, [_unreadable(path, getattr(error, "strerror", None) or str(error))]
    if not there:
        return None, [Finding("data-missing", "error", f"no such data file: {path}",
                              "check the path; in a container: is it mounted (docker run --mount …)?")]  # fmt: skip
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        return None, [_unreadable(path, "no permission to read it")]
    seen: dict[str, Any] = {"path": str(path), "bytes": None if path.is_dir() else path.stat().st_size,
                            "layout": None, "reason": None, "protocol": None}  # fmt: skip
    try:
        from sal.doctor_data import recognised
    except ModuleNotFoundError as error:
        return seen, [Finding("data-not-opened", "info",
                              f"{path} exists and can be read; it was not opened, as {error.name} is not installed here",
                              "pip install 'skeleton-action-lab[train]', or look in an image")]  # fmt: skip
    try:
        known, found = recognised(path)
    except LabError as error:
        step = error.next_step or f"sal data check {path} says more; expected: {error.expected}"
        return seen, [Finding("data-unusable", "error", f"{path}: {error.what}", step)]
    return {**seen, **known}, found


def _unreadable(path: Path, why: str) -> Finding:
    return Finding("data-unreadable", "error", f"{path} cannot be read: {why}",
                   f'chmod a+r {path} and a+x on the folders above it; in a container: --user "$(id -u):$(id -g)"')  # fmt: skip
