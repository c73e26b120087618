"""Whether `torch.compile` can work here, asked before a run reads its data: torch finds out in the middle of the first step."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch
from torch import nn

from engine.errors import ConfigError

OLDEST_GPU = 7  # major compute capability that Triton compiles for


def require(device: torch.device) -> None:
    """Raise `ConfigError` with all that is missing for `torch.compile` on `device`, and what to do about it."""
    if lacking := missing(device):
        raise ConfigError(
            f"--compile cannot work here: {'; '.join(lacking)}", where="--compile",
            expected="a C++ compiler" if device.type == "cpu" else "Triton and a C compiler",
            next_step="install what is missing, or leave --compile out",
        )  # fmt: skip


def missing(device: torch.device) -> list[str]:
    """What is missing; empty if nothing is known to be."""
    found = []
    if device.type == "cpu":
        wanted = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(wanted) is None:
            found.append(f"no C++ compiler {wanted} (another one can be named in the variable CXX)")
    else:  # Triton compiles the kernels itself, and with a C compiler what starts them
        if importlib.util.find_spec("triton") is None:
            found.append("no package triton")
        names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
        if not any(map(shutil.which, names)):
            found.append(f"no C compiler {' or '.join(names)} (another one can be named in the variable CC)")
        major, minor = torch.cuda.get_device_capability(device)
        if major < OLDEST_GPU:
            found.append(f"the GPU has compute capability {major}.{minor}, Triton needs {OLDEST_GPU}.0")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        found.append("no Python.h (package python3-dev)")
    try:
        torch.compile(nn.Identity())  # compiles nothing yet, but refuses a Python that this torch cannot trace
    except RuntimeError as error:
        found.append(str(error).splitlines()[0])
    return found


def compiled(model: nn.Module) -> nn.Module:
    """`model`, compiled when first called; shares its weights. One compilation for each shape, with the sizes as constants."""
    result: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    return result
