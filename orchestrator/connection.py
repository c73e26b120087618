"""The Docker engine to talk to: that of DOCKER_HOST, else of the context that the docker command would use."""

from __future__ import annotations

import os
import shutil
from typing import Any

import docker
from docker import errors as docker_errors
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.context import ContextAPI
from docker.context.config import get_current_context_name
from requests import exceptions as http_errors

from orchestrator.errors import EXIT_NO_ENGINE, OrchestratorError, explain

_CLIENT_SECONDS = 60
_SOCKET = "http+docker://localhost"  # what the SDK calls a socket of this machine


def connect(context: str = "") -> Any:
    """A client of a docker context's engine, "" for the one that the docker command would talk to.

    Raises `OrchestratorError` where none answers.
    """
    try:
        client = _client(context)
        client.ping()
    except OrchestratorError:
        raise
    except (docker_errors.DockerException, http_errors.RequestException) as error:
        raise explain(error) from error
    except Exception as error:  # the SDK raises anything for settings that it cannot read
        what = f"Docker's settings name no engine: {type(error).__name__}: {error}"
        next_step = "check DOCKER_HOST, `docker context ls`, and config.json in $DOCKER_CONFIG or ~/.docker"
        raise OrchestratorError(what, next_step, exit_code=EXIT_NO_ENGINE) from error
    return client


def _client(wanted: str) -> Any:
    host, name = os.environ.get("DOCKER_HOST", ""), _meant(wanted)
    if name == "default":
        return docker.from_env(timeout=_CLIENT_SECONDS, use_ssh_client=_by_ssh(host))
    context = named(name)
    return docker.DockerClient(
        base_url=context.Host, tls=context.TLSConfig or False, timeout=_CLIENT_SECONDS, version="auto",
        use_ssh_client=_by_ssh(context.Host),
    )  # fmt: skip


def _meant(context: str) -> str:
    if context or os.environ.get("DOCKER_HOST"):
        return context or "default"
    return os.environ.get("DOCKER_CONTEXT") or get_current_context_name() or "default"


def address(context: str) -> str:
    """Where `connect` looks for the engine of a docker context; raises `OrchestratorError` where there is none of that name."""
    name = _meant(context)
    there = (os.environ.get("DOCKER_HOST") or DEFAULT_UNIX_SOCKET) if name == "default" else str(named(name).Host)
    return there.removeprefix("http+").rstrip("/")


def named(name: str) -> Any:
    """The docker context of that name; raises `OrchestratorError` where there is none with an engine. Nothing is asked of it."""
    context = ContextAPI.get_context(name)
    if context is None or context.Host is None:
        raise OrchestratorError(
            f"no docker context with an engine is called {name!r}",
            "see `docker context ls`; `docker context use default` goes back to this machine's engine",
            exit_code=EXIT_NO_ENGINE,
        )
    return context


def _by_ssh(host: str) -> bool:
    """Through the ssh command, with its keys and settings, as docker itself does."""
    return host.startswith("ssh://")


def is_rootless(client: Any) -> bool:
    """Whether the engine runs without root: then root inside a container is the user who runs the engine."""
    return any("name=rootless" in option for option in client.info().get("SecurityOptions") or ())


def gives_gpus(client: Any) -> bool:
    """Whether the engine can give containers NVIDIA GPUs: by a registered runtime, CDI devices, or a hook on its own PATH."""
    about = client.info()
    found = [str(device.get("ID", "")) for device in about.get("DiscoveredDevices") or ()]
    return (
        "nvidia" in (about.get("Runtimes") or {})
        or any(name.startswith("nvidia.com/gpu") for name in found)
        or (client.api.base_url == _SOCKET and shutil.which("nvidia-container-runtime-hook") is not None)
    )
