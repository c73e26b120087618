"""Which engine is talked to: that of DOCKER_HOST, else of the context that the docker command would use."""

from __future__ import annotations

import hashlib
import os
from types import SimpleNamespace

import pytest

from orchestrator import connection
from orchestrator.errors import OrchestratorError
from tests.orchestrator.conftest import with_context


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A folder of docker settings with a context "lab" at a socket of its own, and the clients that are made."""
    with_context(tmp_path, "lab", "unix:///run/lab.sock")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    made = []

    def client(**options):
        made.append(options)
        return SimpleNamespace(ping=lambda: True)

    def from_env_fails(error):
        def fail(**_):
            raise error

        monkeypatch.setattr(connection.docker, "from_env", fail)

    monkeypatch.setattr(connection.docker, "DockerClient", client)
    monkeypatch.setattr(connection.docker, "from_env", lambda **options: client(from_env=True, **options))
    return SimpleNamespace(folder=tmp_path, made=made, from_env_fails=from_env_fails)


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


def test_one_that_is_named_goes_before_all(settings, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "ssh://someone@gpu-box")
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    connection.connect("lab")
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
    client = SimpleNamespace(info=lambda: about, api=SimpleNamespace(base_url="http+docker://localhost"))
    assert connection.is_rootless(client) is rootless
    assert connection.gives_gpus(client) is gpus


@pytest.mark.parametrize(
    ("address", "there"), [("http+docker://localhost", True), ("http+docker://ssh", False), ("http://h:2375", False)]
)
def test_a_hook_on_this_machine_is_one_of_its_own_engine(monkeypatch, address, there):
    monkeypatch.setattr(connection.shutil, "which", lambda name: f"/usr/bin/{name}")
    client = SimpleNamespace(info=dict, api=SimpleNamespace(base_url=address))
    assert connection.gives_gpus(client) is there


@pytest.mark.parametrize("config", ["[]", '{"currentContext": 5}', '{"currentContext": "broken"}', '{"currentContext": "empty"}'])
def test_settings_that_name_no_engine(settings, config):
    for name, text in (("broken", "{"), ("empty", "{}")):
        folder = settings.folder / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text(text)
    (settings.folder / "config.json").write_text(config)
    if config == "[]":
        settings.from_env_fails(AttributeError("'list' object has no attribute 'get'"))
    with pytest.raises(OrchestratorError) as raised:
        connection.connect()
    assert raised.value.exit_code == 69 and raised.value.next_step


def test_a_context_that_is_null_is_the_default(settings):
    (settings.folder / "config.json").write_text('{"currentContext": null}')
    connection.connect()
    assert settings.made[0]["from_env"]


@pytest.mark.docker
def test_an_engine_behind_ssh(client, tmp_path, monkeypatch):
    """Through the ssh command of this machine: here one that goes nowhere."""
    stand_in = tmp_path / "ssh"
    stand_in.write_text("#!/bin/sh\nunset DOCKER_HOST\nexec docker system dial-stdio\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", "ssh://someone@gpu-box")
    far = connection.connect()
    try:
        assert far.api.base_url == "http+docker://ssh" and far.info()["ID"] == client.info()["ID"]
    finally:
        far.close()
