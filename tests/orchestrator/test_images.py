"""The images that build_all_images.sh made: what they hold, who they run as, and that their models work."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import errors as docker_errors

from orchestrator import discovery, leftovers
from tests.orchestrator.conftest import ROOT, absent
from tests.orchestrator.test_dockerfiles import lines_of, pins_of

pytestmark = pytest.mark.docker_torch

NAMES = discovery.discover()
REPOSITORY = discovery.image_of("base").rpartition(":")[0]
SHARED = ROOT / "dockerfiles/requirements.txt"
BASE_BUDGET = 150_000_000
"""Bytes that the shared packages and the shared code may add to the PyTorch image; 123 MB when this was written."""
MODEL_BUDGET = 5_000_000
"""Bytes that a model without packages of its own may add to the shared image."""


def found(client: Any, name: str) -> Any:
    try:
        return client.images.get(discovery.image_of(name))
    except docker_errors.ImageNotFound:
        return absent(f"{discovery.image_of(name)} is not built: bash build_all_images.sh {name}")


OFTEN = ("base", "ctrgcn", "fsvae")
"""Images that are looked into every time: the shared one, one without packages of its own, one with. All images have the same
recipe but for a name, which `test_dockerfiles` reads; that each of them works, the smoke tests show."""


def often(*names: str) -> list[Any]:
    """Images, in turn; those that are not `OFTEN` only with the slow tests."""
    return [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in names]


@pytest.fixture(params=often("base", *NAMES))
def image(request, client):
    """Every image in turn."""
    return found(client, request.param)


@pytest.fixture(params=often(*NAMES))
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


def test_it_runs_as_a_numbered_user_under_an_init(image):
    assert image.attrs["Config"]["User"] == "10001:10001"
    assert image.attrs["Config"]["Entrypoint"] == ["tini", "-s", "--"]
    assert image.attrs["Config"]["Cmd"]


def test_its_labels_say_what_it_is_and_where_it_comes_from(client, image):
    labels = image.labels
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", labels["org.opencontainers.image.revision"])
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] not in ("", "unknown")
    assert labels["org.opencontainers.image.title"] and labels["org.opencontainers.image.description"]
    names = {name for repository, _, name in (tag.rpartition(":") for tag in image.tags) if repository == REPOSITORY}
    assert labels.get("org.skeleton-lab.model", "base") in names
    base = labels["org.skeleton-lab.base-image"]
    assert labels["org.opencontainers.image.base.name"] == base.split("@")[0]
    known = {digest.split("@")[1] for digest in client.images.get(base).attrs["RepoDigests"]}
    assert labels["org.opencontainers.image.base.digest"] in (known or {""})
    assert labels.get("org.skeleton-lab.compiler") != "1", "the ordinary images have no compiler"


@pytest.mark.parametrize("init", [False, True], ids=["alone", "with --init"])
def test_a_stop_reaches_the_command_at_once(client, init):
    """Python without a handler as process 1 would ignore SIGTERM, and be killed (137) ten seconds later."""
    command = ["python3", "-c", "print('ready', flush=True); import time; time.sleep(300)"]
    container = client.containers.create(
        found(client, "base").id, command, init=init, network_mode="none", labels={leftovers.RUN: "tests"}
    )
    try:
        container.start()
        assert next(container.logs(stream=True, follow=True)) == b"ready\n"
        container.stop(timeout=10)
        assert container.wait(timeout=60)["StatusCode"] == 143
        assert container.logs() == b"ready\n"
    finally:
        leftovers.remove(container)


ORPHANS = """
import pathlib, subprocess, sys, time
def states():
    files = pathlib.Path("/proc").glob("[0-9]*/stat")
    return [file.read_text().rsplit(")", 1)[1].split()[0] for file in files]
for _ in range(5):
    subprocess.run(["sh", "-c", "sleep 0.2 &"])
before = len(states())
for _ in range(200):
    time.sleep(0.1)
    if len(states()) <= before - 5:
        sys.exit("Z" in states())
sys.exit("orphans were not collected: " + " ".join(states()))
"""


@pytest.mark.parametrize("init", [False, True], ids=["alone", "with --init"])
def test_orphans_are_collected(client, init):
    assert output(client, found(client, "base").id, ["python3", "-c", ORPHANS], init=init) == ""


@pytest.mark.parametrize("init", [False, True], ids=["alone", "with --init"])
@pytest.mark.parametrize(("command", "code"), [(["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], 137), (["nosuch"], 127)])
def test_exit_codes_pass_through(client, command, code, init):
    container = client.containers.create(
        found(client, "base").id, command, init=init, network_mode="none", labels={leftovers.RUN: "tests"}
    )
    try:
        container.start()
        assert container.wait(timeout=60)["StatusCode"] == code
        log = container.logs().decode()
        assert "exec nosuch failed: No such file" in log if code == 127 else log == ""
    finally:
        leftovers.remove(container)


def test_sal_is_a_command_whatever_the_folder(client, image):
    cage = {"read_only": True, "tmpfs": {"/tmp": "mode=1777"}, "user": "54321:54321"}
    by_name = output(client, image.id, ["sal", "plan", "--help"], working_dir="/tmp", **cage)
    assert by_name == output(client, image.id, ["python3", "-m", "sal", "plan", "--help"], working_dir="/tmp", **cage)
    assert "--vram" in by_name


def test_sal_plan_in_an_image(client):
    said = output(client, found(client, "baselines").id, ["sal", "plan", "baselines", "--vram", "8"])
    assert "baselines" in said and "8" in said and "Traceback" not in said


def test_runs_go_where_the_readme_mounts_a_folder(client, image):
    script = 'test "$SAL_WORK_DIR" = /workspace/work_dir && touch "$SAL_WORK_DIR/x" && rm "$SAL_WORK_DIR/x"'
    assert output(client, image.id, ["sh", "-c", script], user="54321:54321") == ""


def test_nothing_of_the_build_machine_is_left_in_it(client, image):
    settings = " ".join(image.attrs["Config"]["Env"]) + " ".join(layer["CreatedBy"] for layer in image.history())
    assert not re.search(r"PIP_(CERT|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|TRUSTED_HOST)|PASSWORD|TOKEN|_proxy=", settings)
    script = "ls -d /wheels /root/.cache/pip 2>/dev/null; find / -xdev -type f -perm /6000 2>/dev/null; true"
    assert output(client, image.id, ["sh", "-c", script], user="0:0") == ""


def test_every_file_can_be_read_by_any_user(client, image):
    script = "find /workspace /opt/skeleton-lab ! -readable 2>/dev/null; find /workspace -type d ! -executable; true"
    assert output(client, image.id, ["sh", "-c", script], user="54321:54321") == ""


VERSIONS = """
import importlib.metadata, json, sys, torch
from pip._vendor.packaging.requirements import Requirement
wanted = [Requirement(line) for line in sys.argv[1:]]
wanted = [r for r in wanted if r.marker is None or r.marker.evaluate()]
print(json.dumps([{r.name: [str(r.specifier), "==" + importlib.metadata.version(r.name)] for r in wanted}, torch.__file__]))
"""


def test_its_packages_are_those_of_the_locks_and_torch_is_the_bases(client, image):
    own = ROOT / "models" / image.labels.get("org.skeleton-lab.model", "no model") / "requirements.txt"
    locks = [file.read_text() for file in (SHARED, own) if file.is_file()]
    wanted = [str(requirement) for lock in locks for requirement in pins_of(lock).values()]
    versions, torch_file = json.loads(output(client, image.id, ["python3", "-c", VERSIONS, *wanted]))
    assert versions and all(locked == installed for locked, installed in versions.values()), versions
    assert not torch_file.startswith("/opt/skeleton-lab")


def test_pip_check(client, image):
    assert output(client, image.id, ["python3", "-m", "pip", "check"]).strip() == "No broken requirements found."


UNCOMPILED = """
import importlib.util, pathlib
files = [f for root in ("/workspace", "/opt/skeleton-lab") for f in pathlib.Path(root).rglob("*.py")]
assert len(files) > 100
print(*(f for f in files if not pathlib.Path(importlib.util.cache_from_source(f)).is_file()), sep="\\n", end="")
"""


def test_everything_has_its_byte_code(client, image):
    """Or every start of a container would compile it again."""
    assert output(client, image.id, ["python3", "-c", UNCOMPILED]) == ""


def test_the_shared_image_adds_little_to_its_base(client):
    image = found(client, "base")
    below = client.images.get(image.labels["org.skeleton-lab.base-image"])
    own = int(image.attrs["Size"]) - int(below.attrs["Size"])
    print(f"{REPOSITORY}:base adds {own / 1e6:.1f} MB")
    assert 0 < own < BASE_BUDGET
    assert image.attrs["RootFS"]["Layers"][: len(below.attrs["RootFS"]["Layers"])] == below.attrs["RootFS"]["Layers"]


def test_a_model_adds_little_to_the_base_and_holds_no_other_model(client, model):
    image, base = found(client, model), found(client, "base")
    own = int(image.attrs["Size"]) - int(base.attrs["Size"])
    packages = lines_of((ROOT / "models" / model / "requirements.txt").read_text())
    assert own > 0 and (own < MODEL_BUDGET or packages)
    assert image.attrs["RootFS"]["Layers"][: len(base.attrs["RootFS"]["Layers"])] == base.attrs["RootFS"]["Layers"]
    listing = output(client, image.id, ["sh", "-c", "cd /workspace/models && ls -d */"]).split()
    assert set(listing) - {"__pycache__/"} == {f"{model}/"}


def test_the_users_call(client, model):
    """`docker run IMAGE` and `docker run IMAGE python3 main.py --help` are the same, for any user, on a read-only root."""
    cage = {"read_only": True, "tmpfs": {"/tmp": "mode=1777"}, "user": "54321:54321"}
    by_default = output(client, discovery.image_of(model), **cage)
    asked = output(client, discovery.image_of(model), ["python3", "main.py", "--help"], **cage)
    assert re.search(r"--work-dir|^  run  ", by_default, re.MULTILINE) and by_default == asked


class Checkout:
    """A copy of what images are built from, with tags of its own, on the base of the images under test."""

    def __init__(self, client: Any, folder: Path) -> None:
        self.client, self.folder, self.repository = client, folder, f"skeleton-lab-test-{os.getpid()}"
        self.base_image = found(client, "base").labels["org.skeleton-lab.base-image"]
        self.made: set[str] = set()

    def build(self, *argv: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "build_all_images.sh", "--base-image", self.base_image, *argv]
        variables = {**os.environ, "SAL_IMAGE": self.repository}
        done = subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True, check=False, timeout=600)
        for repository in (self.repository, f"{self.repository}-base"):
            self.made |= {image.id for image in self.client.images.list(name=repository)}
        print(done.stdout + done.stderr)
        return done

    def image(self, name: str) -> Any:
        return self.client.images.get(f"{self.repository}:{name}")

    def layers(self, name: str) -> list[str]:
        return list(self.image(name).attrs["RootFS"]["Layers"])


@pytest.fixture
def scratch(client, tmp_path) -> Iterator[Checkout]:
    context = ["shared_data", "layers", "engine", "planner", "sal", "smoke_tests", "models", "dockerfiles", "tools"]
    for name in context:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("build_all_images.sh", ".dockerignore", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    for wheels in (ROOT / ".build").glob("wheels-*"):
        shutil.copytree(wheels, tmp_path / ".build" / wheels.name)
    made = Checkout(client, tmp_path)
    try:
        yield made
    finally:
        for repository in (made.repository, f"{made.repository}-base"):
            for image in client.images.list(name=repository):
                for tag in image.tags:
                    if tag.startswith(repository):
                        client.images.remove(tag)
        for image in client.images.list(filters={"dangling": True}):  # those whose tag a later build took
            if image.id in made.made:
                client.images.remove(image.id)


def test_one_line_in_one_model_rebuilds_that_models_own_layers(scratch):
    assert scratch.build("ctrgcn", "msg3d").returncode == 0
    before = {name: scratch.layers(name) for name in ("base", "ctrgcn", "msg3d")}
    with (scratch.folder / "models/ctrgcn/network.py").open("a") as file:
        file.write(f"# {uuid.uuid4()}\n")  # not one that the engine has in its cache from an earlier test
    assert scratch.build("ctrgcn", "msg3d").returncode == 0
    after = {name: scratch.layers(name) for name in before}
    assert after["base"] == before["base"] and after["msg3d"] == before["msg3d"]
    changed = [i for i, (old, new) in enumerate(zip(before["ctrgcn"], after["ctrgcn"], strict=True)) if old != new]
    packages = len(before["base"])  # the first layer of its own: installed before its code
    assert changed[0] == packages + 1


@pytest.mark.parametrize("builder", ["buildkit", "legacy"])
def test_docker_build_alone_works_as_the_dockerfile_says(scratch, builder):
    """With build_all_images.sh or without it, there need be no folder of wheels."""
    shutil.rmtree(scratch.folder / ".build", ignore_errors=True)
    script = (
        '. tools/builder.sh; choose_builder; [ "$BUILDER" = "$1" ] || exit 99; '
        '"$DOCKER" build --no-cache --force-rm --network none -t "$2" $3 -f dockerfiles/ctrgcn.Dockerfile .'
    )
    variables = {**os.environ, "SAL_BUILDER": builder}
    shared = "" if REPOSITORY == discovery.IMAGE else f"--build-arg COMMON_IMAGE={discovery.image_of('base')}"
    command = ["bash", "-c", script, "bash", builder, f"{scratch.repository}:ctrgcn", shared]
    done = subprocess.run(command, cwd=scratch.folder, env=variables, capture_output=True, text=True, check=False, timeout=300)
    layers = re.findall(
        r"^ ---> ([0-9a-f]{12})$", done.stdout, re.MULTILINE
    )  # the legacy builder leaves those of its first stage
    scratch.made |= {scratch.client.images.get(layer).id for layer in layers}
    if done.returncode == 99:
        absent(f"no client here drives the builder {builder}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert scratch.image("ctrgcn").labels["org.skeleton-lab.model"] == "ctrgcn"


def toy_wheel(folder: Path) -> str:
    """Write a wheel of a package that nobody else has; returns the lock that names it."""
    wheel = folder / "labtoy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("labtoy/__init__.py", "ANSWER = 42\n")
        file.writestr("labtoy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: labtoy\nVersion: 1.0\n")
        file.writestr("labtoy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("labtoy-1.0.dist-info/RECORD", "")
    return f"labtoy==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def test_a_model_with_packages_of_its_own_gets_those_of_its_lock_alone(client, scratch):
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    python = output(client, found(client, "base").id, ["python3", "-c", code]).strip()
    wheels, lock = f".build/wheels-{python}/base", scratch.folder / "models/ctrgcn/requirements.txt"
    command = ["tools/fetch_wheels.sh", wheels, python, "--no-deps", "--require-hashes", "-r", "dockerfiles/requirements.txt"]
    fetched = subprocess.run(command, cwd=scratch.folder, capture_output=True, text=True, check=False)
    if fetched.returncode:
        absent(f"no wheels of the shared packages here: {fetched.stderr.strip()[-300:]}")
    lock.write_text(toy_wheel(scratch.folder / wheels))
    assert scratch.build("ctrgcn", "--wheels", wheels).returncode == 0
    code = "import labtoy, importlib.metadata as m; print(labtoy.ANSWER, m.version('labtoy'), labtoy.__file__, labtoy.__cached__)"
    answer, version, place, cached = output(client, scratch.image("ctrgcn").id, ["python3", "-c", code]).split()
    assert (answer, version) == ("42", "1.0") and place.startswith("/opt/skeleton-lab/model/labtoy/")
    assert (
        output(client, scratch.image("ctrgcn").id, ["sh", "-c", f"ls {cached}; ls -d /wheels 2>/dev/null; true"]) == f"{cached}\n"
    )
    assert (
        output(client, scratch.image("base").id, ["sh", "-c", "python3 -c 'import labtoy' 2>/dev/null || echo none"]) == "none\n"
    )
    lock.write_text(re.sub("sha256:[0-9a-f]{8}", "sha256:00000000", lock.read_text()))
    assert scratch.build("ctrgcn", "--wheels", wheels).returncode == 1
    assert "DO NOT MATCH THE HASHES" in (scratch.folder / ".build/logs/ctrgcn.log").read_text()


COMPILED = """
import torch
def small(x): return (x.sin() * 2 + 1).relu().sum(-1)
x = torch.randn(8, 1000)
assert torch.allclose(torch.compile(small)(x), small(x), rtol=1e-5)
from torch._dynamo.utils import counters
assert counters["inductor"], "nothing was compiled"
print("compiled")
"""


@pytest.mark.slow
def test_with_compiler_torch_compile_works(client, scratch):
    done = scratch.build("base", "--with-compiler")
    log = scratch.folder / ".build/logs/base.log"
    if done.returncode and re.search("Temporary failure resolving|Could not connect|Unable to connect", log.read_text()):
        absent("apt reaches no mirror from inside a build")
    assert done.returncode == 0
    image = scratch.image("base")
    assert image.labels["org.skeleton-lab.compiler"] == "1"
    cage = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "user": "54321:54321", "init": True}
    assert output(client, image.id, ["python3", "-c", COMPILED], tmpfs={"/tmp": "exec,mode=1777"}, **cage) == "compiled\n"
    assert output(client, image.id, ["sh", "-c", "find / -xdev -type f -perm /6000 2>/dev/null; true"], user="0:0") == ""


@pytest.mark.slow  # what .ci/run does by itself
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
