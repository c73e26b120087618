"""The machine, described: what a run records about it, and one sentence for people. `engine.gpus` and `sal doctor` judge it.

Works without torch: the host side (images, smoke tests) asks too.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GIB = 2**30
NOT_INSTALLED = "not installed"
SHM = Path("/dev/shm")
CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "skeleton-action-lab", "numpy", "h5py", "einops", "torch-dct", "scikit-optimize", "safetensors", "jsonargparse",
    "PyYAML", "rich", "docker", "tensorboard",
)  # fmt: skip
"""Distributions whose versions are recorded."""

BROKEN = "does not load: "
"""How the version of a torch begins that is installed and cannot be imported."""


def describe(path: str | Path = ".", *, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The machine and the software on it, as written to `env.json` (JSON types only; sizes in GiB).

    path   whose disk is measured (the run folder; a folder that does not exist yet counts as its nearest parent)
    argv   command line to record, default this process's
    """
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": list(sys.argv if argv is None else argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": cores(),
        "ram_gib": _gib(ram_bytes()),
        "disk_free_gib": _gib(free_bytes(nearest_existing(Path(path)))),
        "shm_gib": _gib(_size(SHM)),
        "git": git_revision(),
        **_torch(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def work_dir() -> Path:
    """Where runs are written unless told otherwise: $SAL_WORK_DIR, which the images set, else ./work_dir."""
    return Path(os.environ.get("SAL_WORK_DIR") or "work_dir")


def machine_line(machine: dict[str, Any] | None = None) -> str:
    """One sentence: where this runs."""
    about = describe() if machine is None else machine
    gpus = about["gpus"]
    if gpus:
        first = gpus[0]
        same = f"{len(gpus)} x " if len(gpus) > 1 else ""
        accelerator = f"{same}{first['name']} ({first['memory_gib']:.0f} GiB)"
    else:
        accelerator = "no GPU"
    torch = about["torch"] if about["torch"] == NOT_INSTALLED else f"{about['torch']}"
    ram = "unknown RAM" if about["ram_gib"] is None else f"{about['ram_gib']:.0f} GiB RAM"
    count = f"{about['cores']:g} core{'' if about['cores'] == 1 else 's'}"
    return f"{about['cpu']}, {count}, {ram}, {accelerator}; Python {about['python']}, torch {torch}."


def cores() -> float:
    """CPU cores this process may use: the least of affinity and the container's quota (may be a fraction)."""
    count = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    quota = _cgroup("cpu.max") or _cgroup("cpu/cpu.cfs_quota_us")
    period = _cgroup("cpu/cpu.cfs_period_us")
    parts = quota.split() if quota else []
    if len(parts) == 1 and period:  # cgroup v1: two files
        parts = [parts[0], period]
    if len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit() and int(parts[1]) > 0 and int(parts[0]) > 0:
        count = min(count, round(int(parts[0]) / int(parts[1]), 2))
    return count


def ram_bytes() -> int | None:
    """Memory this process may use: the machine's, or the container's limit if that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limit = _memory_limit()
    return total if limit is None else min(total, limit)


def free_ram_bytes() -> int | None:
    """Memory this process could still take: what the system calls available, and no more than the container's limit leaves."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    limit, used = _memory_limit(), _cgroup("memory.current") or _cgroup("memory/memory.usage_in_bytes")
    if available is None or limit is None or used is None or not used.isdigit():
        return available
    kept = (_cgroup("memory.stat") or _cgroup("memory/memory.stat") or "").splitlines()
    cache = next((int(line.split()[1]) for line in kept if line.startswith(("inactive_file ", "total_inactive_file "))), 0)
    return max(min(available, limit - (int(used) - cache)), 0)  # files that are only cached make room


def _memory_limit() -> int | None:
    limit = _cgroup("memory.max") or _cgroup("memory/memory.limit_in_bytes")
    return int(limit) if limit and limit.isdigit() else None


def in_container() -> bool:
    """Whether this process runs in a container, as Docker and Podman tell it."""
    return any(mark.exists() for mark in CONTAINER_MARKS)


def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown CPU"


def git_revision(folder: Path = ROOT) -> str | None:
    """Commit of the checkout this code lies in, `+changes` if files differ; None outside a checkout or without git."""
    if not (folder / ".git").exists():  # a parent's repository is not ours
        return None
    revision = _run("git", "-C", str(folder), "rev-parse", "HEAD")
    if revision is None:
        return None
    changed = _run("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return revision + ("+changes" if changed else "")


def _torch() -> dict[str, Any]:
    nothing: dict[str, Any] = {"cuda": None, "cudnn": None, "gpus": [], "cuda_architectures": []}
    try:
        import torch
    except ModuleNotFoundError as error:
        told = NOT_INSTALLED if error.name == "torch" else f"{BROKEN}{error}"
        return {"torch": told, **nothing}
    except (ImportError, OSError, ValueError) as error:  # a library that torch was built for is not there
        return {"torch": f"{BROKEN}{error}".splitlines()[0], **nothing}
    about = {**nothing, "torch": str(torch.__version__), "cuda": torch.version.cuda}
    if torch.cuda.is_available():
        about["cudnn"] = torch.backends.cudnn.version()
        about["cuda_architectures"] = list(torch.cuda.get_arch_list())
        about["gpus"] = [_gpu(torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count())]
    return about


def _gpu(properties: Any) -> dict[str, Any]:
    return {
        "name": properties.name,
        "memory_gib": _gib(properties.total_memory),
        "capability": f"{properties.major}.{properties.minor}",
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED


def _cgroup(name: str) -> str | None:
    try:
        return (Path("/sys/fs/cgroup") / name).read_text().strip()
    except OSError:
        return None


def nearest_existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if os.path.lexists(folder))


def free_bytes(path: Path) -> int | None:
    """Bytes that may still be written where `path` lies; None where the system does not tell."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _size(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path).total if path.exists() else None
    except OSError:
        return None


def _gib(size: int | None) -> float | None:
    return None if size is None else round(size / GIB, 2)


def command(*words: str, seconds: float = 5.0) -> subprocess.CompletedProcess[str] | None:
    """A command that has ended, well or not; None if it is missing or takes longer."""
    try:
        return subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def installed(program: str) -> bool:
    """Whether a program is on PATH."""
    return shutil.which(program) is not None


def _run(*words: str) -> str | None:
    """Output of a command; None if it is missing, fails or takes longer than 5 s."""
    done = command(*words)
    return done.stdout.strip() if done is not None and done.returncode == 0 else None
