"""The part of `sal doctor` that is about images: can they be built and run here, and does their CUDA know the GPU.

A GPU and its driver are judged against the base of the images that are on this engine, or, before any is built, against the base
that dockerfiles/base.Dockerfile names.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from engine import environment
from engine.environment import GIB
from engine.gpus import DRIVER_COMMAND, OLDEST_DRIVER, Driver, Finding, Gpu, Severity, has_torch, is_newer, is_older, runs_on

BASE = "pytorch/pytorch:2.3.1-cuda12.1-cudnn8-runtime"
ARCHITECTURES = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
"""What torch 2.3.1 for CUDA 12.1 was built for: its torch.cuda.get_arch_list(). No intermediate code, so none newer runs it."""
BLACKWELL = (12, 8)
"""The first CUDA that compiles for compute capability 10 and 12."""
OWN_DRIVER = {"12.1": "530.30.02"}
"""CUDA version -> the driver released with it; older ones of the same major version serve it without run-time compilation."""
LITTLE_DOCKER_DISK = 15.0
"""GiB below which a finding is made: the base and its build take about 8, pulled and unpacked."""

_LABEL = '{{index .Config.Labels "org.skeleton-lab.base-image"}}'  # set by build_all_images.sh
_SOCKET = Path("/var/run/docker.sock")
_CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_HOOKS = ("nvidia-container-runtime-hook", "nvidia-container-runtime", "nvidia-container-cli")  # docker finds them by itself
_SECONDS = 20.0
_GROUP = "sudo usermod -aG docker $USER, then log in again (or use rootless Docker)"


class Engine(NamedTuple):
    """A Docker engine. `about` is what `docker info` says of it, None where it does not answer; then `trouble` says why."""

    installed: bool
    about: dict[str, Any] | None = None
    trouble: str = ""


def ask_engine() -> Engine:
    """Ask `docker info`."""
    if not environment.installed("docker"):
        return Engine(False)
    done = environment.command("docker", "info", "--format", "{{json .}}", seconds=_SECONDS)
    if done is None:
        return Engine(True, trouble=f"no answer within {_SECONDS:g} s")
    try:
        about = json.loads(done.stdout)
    except ValueError:
        about = None
    if done.returncode == 0 and isinstance(about, dict) and not about.get("ServerErrors"):
        return Engine(True, about)
    refused = about.get("ServerErrors") if isinstance(about, dict) else None  # an older client prints them and leaves with 0
    said = " ".join(map(str, refused or [])) or done.stderr.strip() or f"exit code {done.returncode}"
    return Engine(True, trouble=said.splitlines()[-1])


def findings(machine: dict[str, Any], driver: Driver) -> Iterator[Finding]:
    """What keeps images from being built and run here, and their CUDA from using the GPUs of `driver`.

    machine   from `environment.describe`; where it has no torch, only images can be run, and what stops them is an error
    """
    engine = ask_engine()
    weight: Severity = "warning" if has_torch(machine) else "error"
    if not engine.installed:
        if not (has_torch(machine) and environment.in_container()):  # an image is where it should be
            yield Finding("docker-missing", "info" if has_torch(machine) else "error",
                          "no docker command: the images cannot be built or run from here",
                          "install Docker Engine, or train natively with sal")  # fmt: skip
    elif engine.about is None:
        yield _silent(engine.trouble, weight)
    else:
        yield from _little_disk(engine.about)
        if driver.gpus:
            yield from _toolkit(engine.about, weight)
    if driver.gpus and (engine.installed or not has_torch(machine)):
        yield from _base_against(driver, _base() if engine.about else BASE, weight)


def _silent(trouble: str, weight: Severity) -> Finding:
    address = os.environ.get("DOCKER_HOST", "")
    barred = not address and _SOCKET.exists() and not os.access(_SOCKET, os.R_OK | os.W_OK)
    if barred or "permission denied" in trouble.lower():
        return Finding("docker-permission", weight, "this user may not talk to the docker engine", _GROUP)
    at = f" at {address}" if address else ""
    return Finding("docker-silent", weight, f"the docker engine{at} does not answer: {trouble}",
                   "check DOCKER_HOST, or unset it" if address
                   else "start it (sudo systemctl start docker, or bash tools/ensure_engine.sh)")  # fmt: skip


def _little_disk(about: dict[str, Any]) -> Iterator[Finding]:
    """Of the folder where the engine keeps images, if it is one of this machine."""
    folder = Path(str(about.get("DockerRootDir") or ""))
    if not folder.is_absolute() or _elsewhere(about) or not os.path.lexists(folder):
        return
    free = environment.free_bytes(folder)
    if free is not None and free < LITTLE_DOCKER_DISK * GIB:
        yield Finding("little-docker-disk", "warning", f"{free / GIB:.1f} GiB free in {folder}, where docker keeps images",
                      "docker system prune and docker builder prune, or move data-root in /etc/docker/daemon.json")  # fmt: skip


def _elsewhere(about: dict[str, Any]) -> bool:
    """Whether the engine runs on another machine or in a virtual one, so that its folders and tools are not seen here."""
    remote = not os.environ.get("DOCKER_HOST", "unix://").startswith("unix://")
    return remote or "Docker Desktop" in str(about.get("OperatingSystem", ""))


def _toolkit(about: dict[str, Any], weight: Severity) -> Iterator[Finding]:
    """Docker gives a GPU to a container through a registered runtime, a CDI specification, or a hook that it finds on PATH."""
    folders = [*map(Path, about.get("CDISpecDirs") or ()), *_CDI_FOLDERS]
    described = any(file.suffix in (".yaml", ".json") for folder in folders for file in _inside(folder))
    hooked = any(environment.installed(program) for program in _HOOKS)
    if "nvidia" in (about.get("Runtimes") or {}) or described or hooked or _elsewhere(about):
        return
    if environment.installed("nvidia-ctk"):
        yield Finding("toolkit-not-configured", weight, "the NVIDIA Container Toolkit is there, but docker does not know of it",
                      "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker")  # fmt: skip
    else:
        yield Finding("toolkit-missing", weight, "a GPU and docker, but no NVIDIA Container Toolkit: --gpus will fail",
                      "install nvidia-container-toolkit, then sudo nvidia-ctk runtime configure --runtime=docker "
                      "&& sudo systemctl restart docker")  # fmt: skip


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _base() -> str:
    """The base of the images on the engine, as `build_all_images.sh` labels them; that of the Dockerfile where there are none."""
    done = environment.command("docker", "image", "inspect", "--format", _LABEL, "skeleton-lab:base", seconds=_SECONDS)
    said = done.stdout.strip() if done is not None and done.returncode == 0 else ""
    return said if said and said != "<no value>" else BASE


def cuda_of(base: str) -> str | None:
    """The CUDA version in the name of an image: "12.1" of …-cuda12.1-…, and of …:cu121. None where it names none."""
    found = re.search(r"cu(?:da)?-?(\d{2})\.?(\d+)", base)
    return f"{found[1]}.{found[2]}" if found else None


def _base_against(driver: Driver, base: str, weight: Severity) -> Iterator[Finding]:
    cuda = cuda_of(base)
    if cuda is None:
        if base.endswith(":cpu"):
            yield Finding("image-without-cuda", weight, f"a GPU, {driver.gpus[0].name}, but images on {base}, which has no CUDA",
                          f"bash build_all_images.sh --base-image {BASE}")  # fmt: skip
        return  # nothing is known of such a base
    yield from _driver_for(cuda, driver.gpus[0], weight)
    if tuple(map(int, cuda.split("."))) < BLACKWELL:
        for gpu in dict.fromkeys(driver.gpus):
            if gpu.capability is not None and not runs_on(gpu.capability, ARCHITECTURES):
                yield _not_built_for(gpu, cuda, base, weight)


def _driver_for(cuda: str, gpu: Gpu, weight: Severity) -> Iterator[Finding]:
    oldest, own = OLDEST_DRIVER.get(int(cuda.partition(".")[0]), ""), OWN_DRIVER.get(cuda, "")
    if oldest and is_older(gpu.driver, oldest):
        comes = f" ({own} is that of CUDA {cuda} itself)" if own else ""
        yield Finding("driver-old", weight, f"driver {gpu.driver}, but the images' CUDA {cuda} needs {oldest} or newer{comes}",
                      f"update the NVIDIA driver to {own or oldest} or newer ({DRIVER_COMMAND}), then reboot")  # fmt: skip
    elif own and is_older(gpu.driver, own):
        yield Finding("driver-compatible", "info",
                      f"driver {gpu.driver} serves the images' CUDA {cuda} by minor-version compatibility; its own is {own}",
                      f"nothing for the lab's models; for torch.compile in an image update to {own}")  # fmt: skip


def _not_built_for(gpu: Gpu, cuda: str, base: str, weight: Severity) -> Finding:
    what = f"{gpu.name} has compute capability {gpu.capability}"
    limits = f"the images (torch for CUDA {cuda}) are built for {ARCHITECTURES[0]} to {ARCHITECTURES[-1]}"
    if not is_newer(str(gpu.capability), ARCHITECTURES):
        return Finding("image-gpu-too-old", weight, f"{what}: too old, {limits}",
                       "a newer GPU; or, for the CPU: bash build_all_images.sh --base-image skeleton-lab-base:cpu")  # fmt: skip
    newer = ".".join(map(str, BLACKWELL))
    argument = f"pytorch/pytorch:<tag with a CUDA >= {newer}>"
    return Finding("image-gpu-too-new", weight, f"{what}: newer than {base} knows, {limits}",
                   f"bash build_all_images.sh --base-image {argument} "
                   f"(one image: docker build --build-arg BASE_IMAGE={argument} …)")  # fmt: skip
