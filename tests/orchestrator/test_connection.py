"""Which engine is talked to: that of DOCKER_HOST, else of the context that the docker command would use."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import pytest

from orchestrator import connection
from orchestrator.errors import OrchestratorError


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A folder of docker settings with a context "lab" at a socket of its own, and the clients that are made."""
    meta = tmp_path / "contexts/meta" / hashlib.sha256(b"lab").hexdigest()
    meta.mkdir(parents=True)
    described = {"Name": "lab", "Metadata": {}, "Endpoints": {"docker": {"Host": "unix:///run/lab.sock", "SkipTLSVerify": False}}}
    (meta / "meta.json").write_text(json.dumps(described))
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    made = []

    def client(**options):
        made.append(options)
        return SimpleNamespace(ping=lambda: True)

    monkeypatch.setattr(connection.docker, "DockerClient", client)
    monkeypatch.setattr(connection.docker, "from_env", lambda **options: client(from_env=True, **options))
    return SimpleNamespace(folder=tmp_path, made=made)


def test_the_default_is_that_of_the_environment(settings):
    connection.connect()
    assert settings.made[0]["from_env"] and settings.made[0]["use_ssh_client"] is False


def test_the_current_context(settings):
    (settings.folder / "config.json").write_text('{"currentContext": "lab"}')
    connection.connect()
    assert settings.made[0]["base_url"] == "unix:///run/lab.sock"


def test_a_context_of_the_environment_goes_first(settings, monkeypatch):
    monkeypatch.setenv("DOCKER_CONTEXT", "lab")
    connection.connect()
    assert settings.made[0]["base_url"] == "unix:///run/lab.sock"


def test_a_host_goes_before_any_context(settings, monkeypatch):
    (settings.folder / "config.json").write_text('{"currentContext": "lab"}')
    monkeypatch.setenv("DOCKER_CONTEXT", "lab")
    monkeypatch.setenv("DOCKER_HOST", "ssh://someone@gpu-box")
    connection.connect()
    assert settings.made[0]["from_env"] and settings.made[0]["use_ssh_client"] is True


def test_a_context_that_is_not_there(settings, monkeypatch):
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    with pytest.raises(OrchestratorError, match="no docker context with an engine is called 'gone'") as raised:
        connection.connect()
    assert raised.value.exit_code == 69 and "docker context ls" in raised.value.next_step


@pytest.mark.parametrize(
    ("about", "rootless", "gpus"),
    [
        ({}, False, False),
        ({"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}, True, False),
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, False, True),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, False, True),
        ({"SecurityOptions": None, "Runtimes": None, "DiscoveredDevices": None}, False, False),
    ],
)
def test_what_an_engine_says_of_itself(monkeypatch, about, rootless, gpus):
    monkeypatch.setattr(connection.shutil, "which", lambda _: None)
    client = SimpleNamespace(info=lambda: about)
    assert connection.is_rootless(client) is rootless
    assert connection.gives_gpus(client) is gpus


def test_a_hook_that_the_engine_finds_by_itself(monkeypatch):
    monkeypatch.setattr(connection.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert connection.gives_gpus(SimpleNamespace(info=dict))
