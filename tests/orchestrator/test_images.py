"""The images that build_all_images.sh made: what they hold, who they run as, and that their models work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from docker import errors as docker_errors

from orchestrator import discovery, leftovers
from tests.orchestrator.conftest import ROOT, absent

pytestmark = pytest.mark.docker_torch

NAMES = discovery.discover()
REQUIREMENTS = ROOT / "dockerfiles/requirements.txt"


def found(client: Any, name: str) -> Any:
    try:
        return client.images.get(discovery.image_of(name))
    except docker_errors.ImageNotFound:
        return absent(f"{discovery.image_of(name)} is not built: bash build_all_images.sh {name}")


@pytest.fixture(params=["base", *NAMES])
def image(request, client):
    """Every image in turn."""
    return found(client, request.param)


@pytest.fixture(params=NAMES)
def model(request, client):
    """Every model's name, its image being there."""
    found(client, request.param)
    return request.param


def output(client: Any, image: str, command: list[str] | None = None, **options: Any) -> str:
    """What a container prints; raises where it does not end with 0."""
    container = client.containers.create(image, command, network_mode="none", labels={leftovers.RUN: "tests"}, **options)
    try:
        container.start()
        code = container.wait(timeout=300)["StatusCode"]
        log: str = container.logs().decode()
        assert code == 0, log
        return log
    finally:
        leftovers.remove(container)


def test_it_runs_as_a_numbered_user_without_an_entrypoint(image):
    assert image.attrs["Config"]["User"] == "10001:10001"
    assert not image.attrs["Config"]["Entrypoint"]
    assert image.attrs["Config"]["Cmd"]


def test_its_labels_say_where_it_comes_from(image):
    labels = image.labels
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["org.opencontainers.image.revision"])
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.skeleton-lab.base-image"]
    assert labels["org.opencontainers.image.version"]


def test_nothing_of_the_build_machine_is_left_in_it(client, image):
    settings = " ".join(image.attrs["Config"]["Env"]) + " ".join(layer["CreatedBy"] for layer in image.history())
    assert not re.search(r"PIP_(CERT|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|TRUSTED_HOST)|PASSWORD|TOKEN|_proxy=", settings)
    script = "ls -d /wheels /root/.cache/pip 2>/dev/null; find / -xdev -type f -perm /6000 2>/dev/null; true"
    assert output(client, image.id, ["sh", "-c", script], user="0:0") == ""


def test_every_file_can_be_read_by_any_user(client, image):
    script = "find /workspace /opt/skeleton-lab ! -readable 2>/dev/null; find /workspace -type d ! -executable; true"
    assert output(client, image.id, ["sh", "-c", script], user="54321:54321") == ""


def test_its_packages_are_the_pinned_ones_and_torch_is_the_bases(client, image):
    code = (
        "import importlib.metadata as m, json, sys, torch; "
        "print(json.dumps([{n: m.version(n) for n in sys.argv[1:]}, torch.__file__]))"
    )
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    versions, torch_file = json.loads(output(client, image.id, ["python3", "-c", code, *pinned]))
    assert versions == pinned
    assert not torch_file.startswith("/opt/skeleton-lab")


def test_a_model_adds_little_to_the_base_and_holds_no_other_model(client, model):
    image, base = found(client, model), found(client, "base")
    own = int(image.attrs["Size"]) - int(base.attrs["Size"])
    assert 0 < own < 5_000_000
    assert image.attrs["RootFS"]["Layers"][: len(base.attrs["RootFS"]["Layers"])] == base.attrs["RootFS"]["Layers"]
    listing = output(client, image.id, ["sh", "-c", "cd /workspace/models && ls -d */"]).split()
    assert set(listing) - {"__pycache__/"} == {f"{model}/"}


def test_the_users_call(client, model):
    """`docker run IMAGE` and `docker run IMAGE python3 main.py --help` are the same, for any user, on a read-only root."""
    cage = {"read_only": True, "tmpfs": {"/tmp": "mode=1777"}, "user": "54321:54321"}
    by_default = output(client, discovery.image_of(model), **cage)
    asked = output(client, discovery.image_of(model), ["python3", "main.py", "--help"], **cage)
    assert "--work-dir" in by_default and by_default == asked


def test_the_smoke_tests_pass_and_leave_nothing(client, tmp_path):
    for name in NAMES:
        found(client, name)
    file = tmp_path / "verdicts.json"
    command = [sys.executable, ROOT / "smoke_test_all.py", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = json.loads(file.read_text())
    assert [v["model"] for v in verdicts] == NAMES
    for verdict in verdicts:
        assert verdict["result"]["peak_rss_bytes"] > 2**20
        assert verdict["result"]["versions"]["torch"]
    left = client.containers.list(all=True, filters={"label": leftovers.OWNER}, ignore_removed=True)
    assert not [c for c in left if leftovers.is_dead(c.labels[leftovers.OWNER])]
