"""The GPUs of this machine as their driver tells of them, and whether the torch that is here can use them.

Works without torch: then the driver is asked all the same, because the images bring a torch of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from engine import environment

OLDEST_TORCH = (2, 3)
OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""CUDA major version -> the oldest Linux driver that serves all its minor versions (NVIDIA, "CUDA Compatibility")."""
DRIVER_COMMAND = "Ubuntu: sudo ubuntu-drivers install"
PCI = Path("/sys/bus/pci/devices")
_FIELDS = ("name", "driver_version", "memory.total", "memory.used", "compute_cap")
_SECONDS = 20.0  # a driver that has to wake up several GPUs first

Severity = Literal["error", "warning", "info"]


class Finding(NamedTuple):
    """One thing that stands in the way of a run, or may; `fix` is one line that a person can act on (docs/doctor.md)."""

    code: str
    severity: Severity
    message: str
    fix: str


class Gpu(NamedTuple):
    """One GPU as the driver describes it; None for what it does not tell. Memory in MiB, capability as in "8.6"."""

    name: str
    driver: str
    total_mib: float | None
    used_mib: float | None
    capability: str | None


class Driver(NamedTuple):
    """What `nvidia-smi` says.

    installed  whether the program is there
    trouble    what it said instead of a list of GPUs, "" if all is well
    """

    installed: bool
    gpus: tuple[Gpu, ...] = ()
    trouble: str = ""


def ask_driver() -> Driver:
    """Ask `nvidia-smi`; one too old to know compute capabilities is asked without."""
    done = None
    for fields in (_FIELDS, _FIELDS[:-1]):
        query = f"--query-gpu={','.join(fields)}"
        done = environment.command("nvidia-smi", query, "--format=csv,noheader,nounits", seconds=_SECONDS)
        if done is None:
            installed = environment.installed("nvidia-smi")
            return Driver(installed, trouble=f"no answer within {_SECONDS:g} s" if installed else "")
        if done.returncode == 0:
            break
    assert done is not None
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    gpus = [gpu for line in lines if (gpu := _gpu(line))] if done.returncode == 0 else []
    if gpus:
        return Driver(True, tuple(gpus))
    return Driver(True, trouble=lines[0] if lines else f"no GPU named, exit code {done.returncode}")


def _gpu(line: str) -> Gpu | None:
    name, *rest = (part.strip() for part in line.split(","))
    if len(rest) not in (len(_FIELDS) - 1, len(_FIELDS) - 2):
        return None
    capability = rest[3] if len(rest) > 3 and re.fullmatch(r"\d+\.\d+", rest[3]) else None
    return Gpu(name, rest[0], _number(rest[1]), _number(rest[2]), capability)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:  # "[N/A]" where memory is shared with the CPU
        return None
    return number if 0 <= number < 1e9 else None  # MiB; not a number fails both


def is_older(driver: str, needed: str) -> bool:
    """Whether a driver version ("515.65.01") is below another; one that cannot be read is not."""
    return _parts(driver) < _parts(needed) if _parts(driver) else False


def _parts(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()


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


def is_newer(capability: str, built: Sequence[str]) -> bool:
    """Whether a GPU of `capability` came after all that is named in `built`."""
    newest = max((int("".join(filter(str.isdigit, entry)) or 0) for entry in built), default=0)
    return int(capability.replace(".", "")) > newest


def has_torch(about: dict[str, Any]) -> bool:
    """Whether the torch of a description (`environment.describe`) can be imported."""
    return about["torch"] != environment.NOT_INSTALLED and not about["torch"].startswith(environment.BROKEN)


def findings(about: dict[str, Any] | None = None, driver: Driver | None = None) -> list[Finding]:
    """What is wrong with torch, with the driver, and between torch and the GPUs; [] where torch runs on all of them.

    about, driver   descriptions of this machine, where they have been made already
    """
    about = environment.describe() if about is None else about
    driver = ask_driver() if driver is None else driver
    found = _torch_findings(about)
    if not driver.gpus and not about["gpus"]:
        found.append(_no_gpu(driver))
    elif has_torch(about):
        found += _between(about, driver)
    return found


def _torch_findings(about: dict[str, Any]) -> list[Finding]:
    torch = about["torch"]
    if torch == environment.NOT_INSTALLED:
        return [Finding("torch-missing", "warning", "torch is not installed: only images can be run from here",
                        "pip install 'skeleton-action-lab[train]', or use the images")]  # fmt: skip
    if not has_torch(about):
        return [Finding("torch-broken", "error", f"torch is installed but {torch}",
                        "pip install --force-reinstall torch, or use the images")]  # fmt: skip
    version = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in torch.split(".")[:2])
    if version < OLDEST_TORCH:
        return [Finding("torch-old", "error", f"torch {torch} is older than 2.3", "pip install --upgrade 'torch>=2.3'")]
    return []


def _no_gpu(driver: Driver) -> Finding:
    """Why there is none: its driver fails, it has no driver, this container was not given it, or there is none."""
    if driver.trouble:
        step = "reboot: the driver was updated while it ran" if "mismatch" in driver.trouble else "reboot, or install it again"
        return Finding("driver-silent", "error", f"the NVIDIA driver does not answer: {driver.trouble}", step)
    if not _nvidia_on_pci():
        return Finding("no-gpu", "info", "no NVIDIA GPU: training runs on the CPU",
                       "the *_cpu recipes; sal plan --gpu NAME says what a card can do")  # fmt: skip
    if environment.in_container():
        return Finding("gpu-not-given", "warning", "the machine has an NVIDIA GPU, this container was not given it",
                       "docker run --gpus all …")  # fmt: skip
    return Finding("driver-missing", "error", "an NVIDIA GPU, but no driver for it (no nvidia-smi)",
                   f"install NVIDIA's driver {OLDEST_DRIVER[12]} or newer ({DRIVER_COMMAND}), then reboot")  # fmt: skip


def _nvidia_on_pci() -> bool:
    """Whether a display or compute device of NVIDIA (vendor 10de, class 03) is on the bus."""
    for device in PCI.glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            return True
    return False


def _between(about: dict[str, Any], driver: Driver) -> list[Finding]:
    if not about["gpus"]:
        return [_unseen(about, driver.gpus[0])]
    built = about["cuda_architectures"]
    found = []
    for number, gpu in enumerate(about["gpus"]):
        if not built or runs_on(gpu["capability"], built):
            continue
        found.append(Finding(
            "gpu-too-new" if is_newer(gpu["capability"], built) else "gpu-unsupported", "error",
            f"GPU {number} ({gpu['name']}, compute capability {gpu['capability']}) is not among those this torch "
            f"was built for ({', '.join(built)}; CUDA {about['cuda']})",
            "install a torch built for it; for the images: --build-arg BASE_IMAGE=<a PyTorch image with a "
            "matching CUDA>",
        ))  # fmt: skip
    return found


def _unseen(about: dict[str, Any], gpu: Gpu) -> Finding:
    """Why torch does not see a GPU that the driver sees."""
    there = f"{gpu.name} (driver {gpu.driver})"
    if about["cuda"] is None:
        return Finding("torch-without-cuda", "error", f"a GPU, {there}, but a torch without CUDA",
                       "pip install a CUDA build of torch")  # fmt: skip
    hiding = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hiding is not None:
        return Finding("gpus-hidden", "warning", f"torch sees no GPU: CUDA_VISIBLE_DEVICES={hiding!r} leaves none of {there}",
                       "unset CUDA_VISIBLE_DEVICES, or set it to 0")  # fmt: skip
    needed = OLDEST_DRIVER.get(int(about["cuda"].split(".")[0]), "")
    if needed and is_older(gpu.driver, needed):
        return Finding("driver-mismatch", "error",
                       f"driver {gpu.driver} does not serve a torch for CUDA {about['cuda']}, which needs {needed} or newer",
                       "update the driver, or install a torch (images: BASE_IMAGE) for an older CUDA")  # fmt: skip
    return Finding(
        "gpu-unusable",
        "error",
        f"torch (CUDA {about['cuda']}) cannot use {there}, which is new enough for it",
        "python3 -c 'import torch; torch.cuda.init()' says why; often a reboot helps, or sudo modprobe nvidia_uvm",
    )
