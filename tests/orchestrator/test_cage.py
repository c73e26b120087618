"""What a container may do, said to the docker SDK and as a `docker run` line: the engine makes the same of both."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator import leftovers
from orchestrator.cage import Bind, Cage, docker_run, memory_bytes, sdk_arguments
from orchestrator.errors import OrchestratorError

SMOKE = {"scratch": {"/tmp": "32m", "/workspace/work_dir": "32m"}, "memory": "64m", "log": "1m"}
TRAINING = {"scratch": {"/tmp": "1g"}, "programs": True, "shm": "1g", "pids": 4096, "user": "1000:1000", "network": "bridge"}


@pytest.mark.docker
@pytest.mark.parametrize("options", [SMOKE, TRAINING], ids=["smoke", "training"])
@pytest.mark.parametrize("tty", [False, True], ids=["log", "terminal"])
def test_both_ways_make_the_same_container(client, busybox, tmp_path, options, tty):
    if shutil.which("docker") is None:
        pytest.fail("the engine is here, but not the docker command")
    (tmp_path / 'odd, "name"').touch()
    binds = (Bind(tmp_path / 'odd, "name"', "/workspace/data/clips.npz"), Bind(tmp_path, "/workspace/out", writable=True))
    cage = Cage(busybox, ("echo", "a b", "$HOME"), binds=binds, tty=tty, labels={leftovers.RUN: "tests"}, **options)
    by_sdk = client.containers.create(**sdk_arguments(cage))
    words = docker_run(cage)
    assert words[:3] == ["docker", "run", "--rm"]
    made = ["docker", "create", "--label", f"{leftovers.RUN}=tests", *words[3:]]
    by_line = client.containers.get(subprocess.run(made, capture_output=True, text=True, check=True).stdout.strip())
    try:
        one, other = by_sdk.attrs, by_line.attrs
        same = ("User", "Cmd", "Env", "Image", "Tty", "WorkingDir", "Entrypoint")
        assert {key: one["Config"][key] for key in same} == {key: other["Config"][key] for key in same}
        host, theirs = one["HostConfig"], other["HostConfig"]
        assert host.pop("RestartPolicy")["Name"] in ("", "no") and theirs["RestartPolicy"]["Name"] == "no"
        assert {key for key in host if _plain(host[key]) != _plain(theirs[key])} == set()
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges"]
        assert by_sdk.attrs["HostConfig"]["PidsLimit"] == cage.pids
    finally:
        leftovers.remove(by_sdk)
        leftovers.remove(by_line)


def _plain(value):
    """The engine writes what was left out as null, 0, "" or an empty list, by the client; the order of mounts means nothing."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return sorted((sorted((k, str(v)) for k, v in entry.items() if v) for entry in value), key=str)
    return value or None


def test_gpus():
    assert "--gpus" not in docker_run(Cage("i", ()))
    assert docker_run(Cage("i", (), gpus="all"))[4:6] == ["--gpus", "all"]
    assert docker_run(Cage("i", (), gpus="0,GPU-1f"))[4:6] == ["--gpus", '"device=0,GPU-1f"']
    [everything] = sdk_arguments(Cage("i", (), gpus="all"))["device_requests"]
    [some] = sdk_arguments(Cage("i", (), gpus="0,GPU-1f"))["device_requests"]
    assert everything["Count"] == -1 and everything["Capabilities"] == [["gpu"]]
    assert some["DeviceIDs"] == ["0", "GPU-1f"] and not some["Count"]


def test_a_container_is_closed_unless_opened():
    closed = sdk_arguments(Cage("i", ()))
    assert closed["network_mode"] == "none" and closed["user"] == "10001:10001" and closed["read_only"]
    assert closed["tmpfs"] == {} and closed["mounts"] == [] and closed["device_requests"] == []
    [mount] = sdk_arguments(Cage("i", (), binds=(Bind(Path("/a"), "/b"),)))["mounts"]
    assert mount["ReadOnly"] is True
    assert re.search("noexec", sdk_arguments(Cage("i", (), scratch={"/tmp": "1m"}))["tmpfs"]["/tmp"])


@pytest.mark.parametrize(("text", "size"), [("512m", 2**29), ("4g", 2**32), ("1024", 1024), ("2GB", 2**31), (" 1k ", 1024)])
def test_amounts_of_memory(text, size):
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "1.5g", "-1m", "4t"])
def test_no_amounts_of_memory(text):
    with pytest.raises(OrchestratorError, match="amount of memory"):
        memory_bytes(text)
