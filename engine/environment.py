"""The machine: what a run records about it, one sentence for people, and what `sal doctor` finds wrong with it.

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
from typing import Any, Literal, NamedTuple

GIB = 2**30
NOT_INSTALLED = "not installed"
SHM = Path("/dev/shm")
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "skeleton-action-lab", "numpy", "h5py", "einops", "torch-dct", "scikit-optimize", "safetensors", "jsonargparse",
    "PyYAML", "rich", "docker", "tensorboard",
)  # fmt: skip
"""Distributions whose versions are recorded."""

OLDEST_TORCH = (2, 3)
LITTLE_SHM, LITTLE_DISK, LITTLE_RAM = 1.0, 10.0, 8.0
"""GiB below which a finding is made."""

Severity = Literal["error", "warning", "info"]


class Finding(NamedTuple):
    """One thing that `sal doctor` noticed; `fix` is one line that a person can act on."""

    code: str
    severity: Severity
    message: str
    fix: str


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
        "disk_free_gib": _gib(_free(_existing(Path(path)))),
        "shm_gib": _gib(_size(SHM)),
        "git": git_revision(),
        **_torch(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


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
    limit = _cgroup("memory.max") or _cgroup("memory/memory.limit_in_bytes")
    return min(total, int(limit)) if limit and limit.isdigit() else total


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


def findings(path: str | Path = ".") -> list[Finding]:
    """What is wrong or scarce on this machine, worst first; an empty list means nothing was noticed."""
    about = describe(path)
    found = [*_torch_findings(about), *_room_findings(about, path), *_docker_findings()]
    order = ("error", "warning", "info")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _torch_findings(about: dict[str, Any]) -> list[Finding]:
    if about["torch"] == NOT_INSTALLED:
        return [Finding("torch-missing", "warning", "torch is not installed: only images can be run from here",
                        "pip install 'skeleton-action-lab[train]', or use the images")]  # fmt: skip
    found = []
    version = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in about["torch"].split(".")[:2])
    if version < OLDEST_TORCH:
        found.append(Finding("torch-old", "error", f"torch {about['torch']} is older than 2.3",
                             "pip install --upgrade 'torch>=2.3'"))  # fmt: skip
    if not about["gpus"]:
        found.append(_no_gpu(about))
    built = about["cuda_architectures"]
    for number, gpu in enumerate(about["gpus"]):
        if built and not runs_on(gpu["capability"], built):
            found.append(Finding(
                "gpu-too-new" if _newer(gpu["capability"], built) else "gpu-unsupported", "error",
                f"GPU {number} ({gpu['name']}, compute capability {gpu['capability']}) is not among those this torch "
                f"was built for ({', '.join(built)}; CUDA {about['cuda']})",
                "install a torch built for it; for the images: --build-arg BASE_IMAGE=<a PyTorch image with a "
                "matching CUDA>",
            ))  # fmt: skip
    return found


def _no_gpu(about: dict[str, Any]) -> Finding:
    """Why torch sees no GPU: none there, a torch without CUDA, or a driver that it cannot use."""
    driver = _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    if driver is None:
        return Finding("no-gpu", "info", "no NVIDIA GPU: training runs on the CPU",
                       "use the small recipes, or a machine with an NVIDIA GPU")  # fmt: skip
    version = driver.splitlines()[0].strip() if driver.strip() else "unknown"
    if about["cuda"] is None:
        return Finding("torch-without-cuda", "error", f"a GPU (driver {version}), but a torch without CUDA",
                       "pip install a CUDA build of torch")  # fmt: skip
    return Finding("driver-mismatch", "error", f"driver {version} does not serve a torch for CUDA {about['cuda']}",
                   "update the driver, or install a torch (images: BASE_IMAGE) for an older CUDA")  # fmt: skip


def runs_on(capability: str, built: Sequence[str]) -> bool:
    """Whether a GPU of `capability` ("8.6") runs code `built` for a list such as ["sm_80", "sm_90", "compute_90"].

    Machine code (sm) runs on the same major version from its minor up; intermediate code (compute) on all newer ones.
    """
    major, minor = (int(part) for part in capability.split("."))
    for entry in built:
        kind, _, number = entry.partition("_")
        digits = "".join(filter(str.isdigit, number))
        if len(digits) < 2:
            continue
        its_major, its_minor = int(digits[:-1]), int(digits[-1])
        exact_only = number != digits  # "sm_90a": that very chip
        if kind == "sm" and its_major == major and (its_minor == minor if exact_only else its_minor <= minor):
            return True
        if kind == "compute" and (its_major, its_minor) <= (major, minor):
            return True
    return False


def _newer(capability: str, built: Sequence[str]) -> bool:
    newest = max((int("".join(filter(str.isdigit, entry)) or 0) for entry in built), default=0)
    return int(capability.replace(".", "")) > newest


def _room_findings(about: dict[str, Any], path: str | Path) -> list[Finding]:
    found = []
    if about["shm_gib"] is not None and about["shm_gib"] < LITTLE_SHM:
        found.append(Finding("little-shm", "warning", f"shared memory ({SHM}) has {about['shm_gib']:.2f} GiB",
                             "in a container: docker run --shm-size=2g (or --ipc=host)"))  # fmt: skip
    if about["disk_free_gib"] is not None and about["disk_free_gib"] < LITTLE_DISK:
        found.append(Finding("little-disk", "warning", f"{about['disk_free_gib']:.1f} GiB free where {path} lies",
                             "free some space, or give another --work-dir; one image takes about 8 GiB"))  # fmt: skip
    if about["ram_gib"] is not None and about["ram_gib"] < LITTLE_RAM:
        found.append(Finding("little-ram", "warning", f"{about['ram_gib']:.1f} GiB of RAM",
                             "use a prepared store (sal data prepare): it is memory-mapped"))  # fmt: skip
    return found


def _docker_findings() -> list[Finding]:
    if shutil.which("docker") is None:
        return [Finding("docker-missing", "info", "no docker command: the images cannot be built or run from here",
                        "install Docker Engine, or train natively with sal")]  # fmt: skip
    if _run("docker", "version", "--format", "{{.Server.Version}}") is None:
        return [Finding("docker-silent", "warning", "the docker engine does not answer",
                        "start it (sudo systemctl start docker), and be in the docker group")]  # fmt: skip
    return []


def _torch() -> dict[str, Any]:
    nothing: dict[str, Any] = {"cuda": None, "cudnn": None, "gpus": [], "cuda_architectures": []}
    try:
        import torch
    except ImportError:
        return {"torch": NOT_INSTALLED, **nothing}
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


def _existing(path: Path) -> Path:
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _free(path: Path) -> int | None:
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


def _run(*command: str, seconds: float = 5.0) -> str | None:
    """Output of a command; None if it is missing, fails or takes longer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
