"""What goes wrong between this machine and a Docker engine, as one sentence and a next step each.

The texts matched here are those of Docker engines 20.10 to 28 and of the docker SDK 7; `docs/docker.md` lists them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from docker import errors as docker_errors
from requests import exceptions as http_errors

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DATA = 65
EXIT_NO_INPUT = 66
EXIT_NO_ENGINE = 69
EXIT_UNWRITABLE = 73
EXIT_UNWRITTEN = 74
EXIT_NO_PERMISSION = 77
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class OrchestratorError(Exception):
    """An error that the user can act on: printed without a traceback, the command ends with `exit_code`."""

    def __init__(self, what: str, next_step: str = "", *, exit_code: int = EXIT_FAILED) -> None:
        self.what, self.next_step, self.exit_code = what, next_step, exit_code
        super().__init__(f"{what}\n  next: {next_step}" if next_step else what)


# (text in the error, what it means, what to do next, exit code); the first that matches is told.
_KNOWN: tuple[tuple[str, str, str, int], ...] = (
    ("PermissionError(13", "this user may not talk to the Docker engine",
     "join the docker group (`sudo usermod -aG docker $USER`) and log in again, or use rootless Docker",
     EXIT_NO_PERMISSION),
    ("permission denied while trying to connect", "this user may not talk to the Docker engine",
     "join the docker group (`sudo usermod -aG docker $USER`) and log in again, or use rootless Docker",
     EXIT_NO_PERMISSION),
    ("Invalid bind address", "DOCKER_HOST is not an address of a Docker engine",
     "unset DOCKER_HOST, or write unix:///path/to/docker.sock, tcp://host:2376 or ssh://user@host", EXIT_NO_ENGINE),
    ("Install paramiko", "an engine behind ssh:// needs the paramiko package", "pip install 'docker[ssh]'", EXIT_NO_ENGINE),
    ("Failed to resolve", "the machine named in DOCKER_HOST is not known", "check DOCKER_HOST, or unset it",
     EXIT_NO_ENGINE),
    ("FileNotFoundError(2", "no Docker engine runs here: its socket does not exist",
     "start Docker, or run tools/ensure_engine.sh", EXIT_NO_ENGINE),
    ("Connection refused", "no Docker engine answers at its socket or address",
     "start Docker, or run tools/ensure_engine.sh", EXIT_NO_ENGINE),
    ("could not select device driver", "the engine has no GPU runtime",
     "install the NVIDIA Container Toolkit (`nvidia-ctk runtime configure --runtime=docker`, then restart Docker), "
     "or do without a GPU: no --use-gpus, or --gpus none", EXIT_FAILED),
    ("Unknown runtime specified nvidia", "the engine has no GPU runtime",
     "install the NVIDIA Container Toolkit and restart Docker, or do without a GPU: no --use-gpus, or --gpus none", EXIT_FAILED),
    ("nvidia-container-cli", "the GPU runtime could not give the container a GPU",
     "check that `nvidia-smi` works on the engine's machine and that the GPU that was named exists", EXIT_FAILED),
    ("no space left on device", "the disk of the Docker engine is full",
     "free space with `docker system prune` and `docker builder prune`, then repeat", EXIT_FAILED),
    ("bind source path does not exist", "the engine does not see the file to mount",
     "give a path of the machine where the engine runs (with DOCKER_HOST that is not this one)", EXIT_FAILED),
    ("No such image", "the image is not on this engine", "bash build_all_images.sh NAME", EXIT_FAILED),
    ("no such host", "the engine cannot reach an image registry", "bash build_all_images.sh NAME", EXIT_FAILED),
    ("No such container", "somebody else removed the container while it ran", "repeat", EXIT_FAILED),
    ("executable file not found", "the image lacks the program to run",
     "rebuild it: bash build_all_images.sh NAME", EXIT_FAILED),
    ("Minimum memory limit", "the memory limit is too small for any container", "give more with --memory", EXIT_FAILED),
    ("unable to find user", "the image does not know the user to run as", "give a numeric user, as in 10001:10001",
     EXIT_FAILED),
    ("is already in use", "a container of that name exists already", "remove it with `docker rm -f`, then repeat",
     EXIT_FAILED),
    ("operation not permitted", "the engine is not allowed to start containers here",
     "see the engine's own log; containers inside containers need more rights than this one has", EXIT_FAILED),
)  # fmt: skip


def lost() -> OrchestratorError:
    """The engine answered before, and does not now."""
    return OrchestratorError(
        "the Docker engine stopped answering in the middle of a run",
        "start it again (tools/ensure_engine.sh) and repeat: leftovers are removed at the next start",
        exit_code=EXIT_NO_ENGINE,
    )


def _about(image: str, what: str, next_step: str, code: int) -> OrchestratorError:
    """A known error, with the names of the image and of its model put in where there are such."""
    if image:
        what = what.replace("the image", f"the image {image}", 1)
        repository, _, model = image.rpartition(":")
        own = f"SAL_IMAGE={repository} " if os.environ.get("SAL_IMAGE") == repository else ""
        next_step = next_step.replace("bash build_all_images.sh NAME", f"{own}bash build_all_images.sh {model}")
    return OrchestratorError(what, next_step, exit_code=code)


def explain(error: BaseException, *, image: str = "") -> OrchestratorError:
    """Any error of the docker SDK, or of the HTTP connection below it, as an `OrchestratorError`.

    `image` puts the name into messages about a missing image.
    """
    if isinstance(error, OrchestratorError):
        return error
    text = str(error)
    for pattern, what, next_step, code in _KNOWN:
        if pattern.lower() in text.lower():
            return _about(image, what, next_step, code)
    # APIError is also an HTTPError of requests, so it is asked for first.
    if isinstance(error, docker_errors.APIError):
        return OrchestratorError(f"the Docker engine refused: {error.explanation or text}", "see the engine's log")
    if isinstance(error, (http_errors.ConnectionError, http_errors.ChunkedEncodingError, http_errors.Timeout)):
        return lost()
    if isinstance(error, docker_errors.DockerException):
        return OrchestratorError(
            f"no Docker engine answers: {text}", "start Docker, or run tools/ensure_engine.sh", exit_code=EXIT_NO_ENGINE
        )
    return OrchestratorError(f"{type(error).__name__}: {text}")


def guarded(work: Callable[[], int]) -> int:
    """Run a command; an error that a user can act on becomes its message on stderr and its exit code."""
    sys.stdout, sys.stderr = sys.stdout or _nobody(), sys.stderr or _nobody()  # None where they were closed
    try:
        if sys.platform == "win32":
            raise OrchestratorError(
                "this is not for Windows itself", "work in a WSL2 shell: docs/docker.md", exit_code=EXIT_USAGE
            )
        return work()
    except KeyboardInterrupt:
        error = OrchestratorError("interrupted; no container is left", exit_code=EXIT_INTERRUPTED)
    except OrchestratorError as known:
        error = known
    except (docker_errors.DockerException, http_errors.RequestException) as unknown:
        error = explain(unknown)
    except OSError as unknown:
        error = _of_the_system(unknown)
    with contextlib.suppress(OSError):  # nobody reads it
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _nobody() -> TextIO:
    return Path(os.devnull).open("w")


def _of_the_system(error: OSError) -> OrchestratorError:
    """Files are opened by their names, so what fails without one is the standard output: a full disk, or nobody reads."""
    if error.filename is not None:
        what = f"{error.strerror or type(error).__name__}: {error.filename}"
        return OrchestratorError(what, "check the path and who may use it")
    with contextlib.suppress(OSError, ValueError):  # what waits to be printed would fail once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    what = f"could not write to the standard output: {error.strerror or error}"
    return OrchestratorError(what, "free some space, or send it elsewhere, then repeat", exit_code=EXIT_UNWRITTEN)
