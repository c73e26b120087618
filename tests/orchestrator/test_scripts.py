"""build_all_images.sh and the scripts in tools/, with a docker command that only pretends."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.orchestrator.conftest import ROOT, absent

FAKE = """#!/bin/sh
echo "$@" >>"$FAKE_LOG"
case "$1" in
  version) [ -z "$FAKE_DOWN" ] || { echo "$FAKE_DOWN" >&2; exit 1; }; echo 20.10.1 ;;
  pull) [ -n "$FAKE_REGISTRY" ] || { echo "lookup registry: no such host"; exit 1; } ;;
  buildx) exit 1 ;;
  image)
    case "$*" in
      *Size*) echo 1500000 ;;
      *RepoDigests*) echo "$FAKE_DIGESTS" ;;
      *Labels*.base-image*) echo "$FAKE_BASE" ;;
      *Labels*.compiler*) echo "$FAKE_COMPILER" ;;
      *) for tag in $FAKE_IMAGES; do case "$*" in *"$tag"*) exit 0 ;; esac; done; exit 1 ;;
    esac ;;
  run)
    case "$*" in *"command -v tini"*) [ -z "$FAKE_NO_TINI" ]; exit ;; esac
    [ -z "$FAKE_OFFLINE" ] || case "$*" in *download*) exit 1 ;; *Marker*) cat ;; *) echo 3.10 ;; esac ;;
  build)
    if [ -n "$FAKE_HANG" ]; then exec sleep 60; fi
    for name in $FAKE_BROKEN; do case "$*" in *"/$name.Dockerfile"*) echo "step 3 broke"; exit 1 ;; esac; done ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the real scripts and three models, one of which has no Dockerfile yet."""
    for name in ("build_all_images.sh", "dockerfiles", "tools"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    for name in ("ctrgcn", "msg3d", "bare"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.toml").touch()
    (tmp_path / "dockerfiles/msg3d.Dockerfile").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(FAKE)
    (tmp_path / "bin/docker").chmod(0o755)
    return tmp_path


def command(checkout: Path, *argv: str) -> list[str]:
    return ["bash", str(checkout / "build_all_images.sh"), *argv]


def environment(checkout: Path, **variables: str) -> dict[str, str]:
    """A fake engine that has the image x, no registry, and reaches pip's index in builds; `variables` make it another one."""
    return {**os.environ, "PATH": f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}", "FAKE_LOG": str(checkout / "calls"),
            "SAL_BUILDER": "legacy", "SAL_IMAGE": "", "FAKE_IMAGES": "x", "FAKE_DOWN": "", "FAKE_BROKEN": "", "FAKE_REGISTRY": "",
            "FAKE_DIGESTS": "", "FAKE_OFFLINE": "", "FAKE_HANG": "", "FAKE_BASE": "", "FAKE_COMPILER": "",
            **variables}  # fmt: skip


def build(checkout: Path, *argv: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Called in the checkout, or in `cwd`."""
    return subprocess.run(
        command(checkout, *argv), env=environment(checkout, **variables), cwd=cwd or checkout,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def builds(checkout: Path) -> list[str]:
    return [call.split("-t ")[1].split()[0] for call in build_calls(checkout)]


def build_calls(checkout: Path) -> list[str]:
    return [call for call in (checkout / "calls").read_text().splitlines() if call.startswith("build ")]


def label(call: str, name: str) -> str:
    return call.split(f"--label {name}=")[1].split(" ", maxsplit=1)[0]


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["ctrgc"], "'ctrgc'; did you mean ctrgcn? Models: bare ctrgcn msg3d"),
        (["zzzzzzzz"], "'zzzzzzzz'. Models: bare ctrgcn msg3d"),
        (["bare"], "no dockerfiles/bare.Dockerfile"),
        ([], "no dockerfiles/bare.Dockerfile"),
        (["--no-cach"], "did you mean --no-cache?"),
        (["--compiler"], "did you mean --with-compiler?"),
        (["ctrgcn", "--jobs", "none"], "whole number"),
        (["ctrgcn", "--jobs", "0"], "whole number"),
        (["ctrgcn", "--base-image"], "needs a value"),
        (["ctrgcn", "--wheels", "/nowhere"], "no .whl files"),
    ],
)
def test_wrong_arguments(checkout, argv, word):
    done = build(checkout, *argv)
    assert done.returncode == 2
    assert word in done.stderr
    assert not (checkout / "calls").exists()


def test_a_hyphen_stands_for_an_underscore(checkout):
    (checkout / "models/msf_gzssar").mkdir()
    (checkout / "models/msf_gzssar/model.toml").touch()
    (checkout / "dockerfiles/msf_gzssar.Dockerfile").touch()
    done = build(checkout, "msf-gzssar/", "msf_gzssar", FAKE_IMAGES="skeleton-lab-base:cpu")
    assert done.returncode == 0, done.stderr
    assert builds(checkout) == ["skeleton-lab:base", "skeleton-lab:msf_gzssar"]


@pytest.mark.parametrize(
    ("text", "word"),
    [("Cannot connect to the Docker daemon", "tools/ensure_engine.sh"), ("dial: permission denied", "docker group")],
)
def test_no_engine(checkout, text, word):
    done = build(checkout, "ctrgcn", FAKE_DOWN=text)
    assert done.returncode == 3
    assert word in done.stderr


def test_no_base(checkout):
    done = build(checkout, "ctrgcn", FAKE_IMAGES="")
    assert done.returncode == 3
    assert "no such host" in done.stderr and "tools/make_local_base.sh" in done.stderr
    assert builds(checkout) == []


def test_it_falls_back_to_a_local_base_and_says_so(checkout):
    done = build(checkout, "ctrgcn", FAKE_IMAGES="skeleton-lab-base:cpu")
    assert done.returncode == 0, done.stderr
    assert "falling back to the local base skeleton-lab-base:cpu" in done.stdout
    assert builds(checkout) == ["skeleton-lab:base", "skeleton-lab:ctrgcn"]
    assert "BASE_IMAGE=skeleton-lab-base:cpu" in (checkout / "calls").read_text()


BUILT = {"FAKE_IMAGES": "skeleton-lab:base near:2 skeleton-lab-base:cpu", "FAKE_BASE": "near:2", "FAKE_COMPILER": "1"}
"""Images that were built on near:2 with a compiler, where there is a local base too."""


@pytest.mark.parametrize(
    ("argv", "variables", "built", "said"),
    [
        (["ctrgcn"], {}, ("near:2", "1"), ["on near:2, as skeleton-lab:base is", "with a compiler, as skeleton-lab:base has"]),
        (["ctrgcn"], {"FAKE_COMPILER": ""}, ("near:2", ""), ["on near:2, as skeleton-lab:base is"]),
        (["ctrgcn", "--base-image", "skeleton-lab-base:cpu"], {}, ("skeleton-lab-base:cpu", "1"), ["with a compiler, as"]),
        (["ctrgcn", "--with-compiler"], {}, ("near:2", "1"), ["on near:2, as skeleton-lab:base is"]),
    ],
    ids=["both", "no compiler", "another base", "asked for a compiler"],
)
def test_named_images_are_built_as_those_beside_them(checkout, argv, variables, built, said):
    done = build(checkout, *argv, **{**BUILT, **variables})
    assert done.returncode == 0, done.stderr
    base, model = build_calls(checkout)
    assert f"BASE_IMAGE={built[0]} --build-arg WITH_COMPILER={built[1]} " in base
    assert label(base, "org.skeleton-lab.base-image") == label(model, "org.skeleton-lab.base-image") == built[0]
    lines = [line for line in done.stdout.splitlines() if ", as skeleton-lab:base" in line]
    assert len(lines) == len(said) and all(line.startswith(start) for line, start in zip(lines, said, strict=True))
    assert "pulling" not in done.stdout


@pytest.mark.parametrize(
    ("argv", "variables"),
    [([], {}), (["ctrgcn"], {"SAL_IMAGE": "other"}), (["ctrgcn"], {"FAKE_BASE": "<no value>", "FAKE_COMPILER": "<no value>"})],
    ids=["all", "no images of that name yet", "images without these labels"],
)
def test_without_names_or_neighbours_the_default_is_chosen(checkout, argv, variables):
    (checkout / "dockerfiles/bare.Dockerfile").touch()
    done = build(checkout, *argv, **{**BUILT, **variables})
    assert done.returncode == 0, done.stderr
    assert "BASE_IMAGE=skeleton-lab-base:cpu --build-arg WITH_COMPILER= " in build_calls(checkout)[0]
    assert "falling back to the local base" in done.stdout and ", as skeleton" not in done.stdout


def test_a_failure_does_not_stop_the_others(checkout):
    done = build(checkout, "ctrgcn", "msg3d", "ctrgcn", "--base-image", "x", "--jobs", "1", FAKE_BROKEN="ctrgcn")
    assert done.returncode == 1
    assert builds(checkout) == ["skeleton-lab:base", "skeleton-lab:ctrgcn", "skeleton-lab:msg3d"]
    assert "FAILED" in done.stdout and "step 3 broke" in done.stdout
    table = done.stdout.split("over the base")[1]
    assert "skeleton-lab:ctrgcn" in table and "failed" in table and "1.5 MB" in table
    assert "1 of the images" in done.stderr


def test_without_a_base_image_the_models_are_not_tried(checkout):
    done = build(checkout, "ctrgcn", "--base-image", "x", FAKE_BROKEN="base")
    assert done.returncode == 1
    assert builds(checkout) == ["skeleton-lab:base"]
    assert "not run" in done.stdout


def test_given_wheels_mean_no_network(checkout):
    (checkout / "wheels").mkdir()
    (checkout / "wheels/a-1-py3-none-any.whl").touch()
    done = build(checkout, "base", "--base-image", "x", "--wheels", "wheels", "--no-cache")
    assert done.returncode == 0, done.stderr
    [call] = build_calls(checkout)
    assert "--network none" in call and "--no-cache" in call
    assert not (checkout / ".build/image-wheels").exists(), "wheels must not stay in the context"


def test_given_wheels_are_in_the_folder_of_the_caller(checkout, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("caller")
    (checkout / "wheels").mkdir()
    (checkout / "wheels/a-1-py3-none-any.whl").touch()
    argv = ("base", "--base-image", "x", "--wheels", "wheels")
    done = build(checkout, *argv, cwd=elsewhere)
    assert done.returncode == 2 and f"{elsewhere}/wheels: no .whl files" in done.stderr
    (checkout / "wheels").rename(elsewhere / "wheels")
    done = build(checkout, *argv, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert "--network none" in build_calls(checkout)[0]


LOCK = "toy==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n"
FETCH = """#!/bin/sh
echo "$@" >>"$FAKE_LOG.fetch"
mkdir -p "$1" && touch "$1/$(basename "$1")-1-py3-none-any.whl"
"""


@pytest.mark.parametrize("given", [False, True], ids=["fetched", "given"])
def test_offline_a_model_with_packages_gets_its_wheels_and_no_other_does(checkout, given):
    (checkout / "models/ctrgcn/requirements.txt").write_text(LOCK)
    (checkout / "models/msg3d/requirements.txt").write_text("# Packages that MS-G3D needs: none.\n")
    (checkout / "tools/fetch_wheels.sh").write_text(FETCH)
    (checkout / "wheels").mkdir()
    (checkout / "wheels/given-1-py3-none-any.whl").touch()
    seen = 'find .build/image-wheels -type f | sort >"$FAKE_LOG.context"\n'
    (checkout / "bin/docker").write_text(FAKE.replace("  build)\n", f"  build)\n    {seen}"))
    done = build(checkout, "ctrgcn", "msg3d", "--base-image", "x", *(["--wheels", "wheels"] if given else []), FAKE_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert all("--network none" in call for call in build_calls(checkout))
    files = ("given", "given") if given else ("base", "ctrgcn")
    assert (checkout / "calls.context").read_text().split() == [
        f".build/image-wheels/{image}/{file}-1-py3-none-any.whl" for image, file in zip(("base", "ctrgcn"), files, strict=True)
    ]
    if not given:
        fetched = [call.split() for call in (checkout / "calls.fetch").read_text().splitlines()]
        assert [call[0] for call in fetched] == [".build/wheels-3.10/base", ".build/wheels-3.10/ctrgcn"]
        assert all(call[1:4] == ["3.10", "--no-deps", "--require-hashes"] for call in fetched)
        assert (checkout / fetched[1][-1]).read_text() == LOCK


def test_online_the_index_is_tried_with_a_pin_of_the_lock(checkout):
    done = build(checkout, "base", "--base-image", "x")
    assert done.returncode == 0 and "from pip's index" in done.stdout
    [probe] = [call for call in (checkout / "calls").read_text().splitlines() if "pip download" in call]
    assert f"\n{probe.split()[-1]} \\\n" in (ROOT / "dockerfiles/requirements.txt").read_text()
    assert "--network" not in build_calls(checkout)[0]


def test_a_base_pinned_by_digest(checkout):
    digest = "sha256:" + "a" * 64
    done = build(checkout, "ctrgcn", "--base-image", f"host:5000/some/torch@{digest}", FAKE_IMAGES="some/torch@sha256:aaa")
    assert done.returncode == 0, done.stderr
    for call in build_calls(checkout):
        assert label(call, "org.opencontainers.image.base.name") == "host:5000/some/torch"
        assert label(call, "org.opencontainers.image.base.digest") == digest
        assert label(call, "org.skeleton-lab.base-image") == f"host:5000/some/torch@{digest}"
    assert f"BASE_IMAGE=host:5000/some/torch@{digest}" in build_calls(checkout)[0]


@pytest.mark.parametrize(
    ("base", "digests", "expected"),
    [
        ("torch:2", "mirror/torch@sha256:1 torch@sha256:2", "sha256:2"),
        ("docker.io/library/torch:2", "torch@sha256:2", "sha256:2"),
        ("docker.io/some/torch:2", "some/torch@sha256:3", "sha256:3"),
        ("host:5000/torch", "host:5000/torch@sha256:4", "sha256:4"),
        ("torch:2", "mirror/torch@sha256:1", ""),
        ("torch:2", "", ""),
    ],
)
def test_the_digest_of_the_base_is_the_engines_or_empty(checkout, base, digests, expected):
    done = build(checkout, "base", "--base-image", base, FAKE_IMAGES="torch", FAKE_DIGESTS=digests)
    assert done.returncode == 0, done.stderr
    assert label(build_calls(checkout)[0], "org.opencontainers.image.base.digest") == expected
    assert label(build_calls(checkout)[0], "org.opencontainers.image.base.name") == base


def test_a_base_that_is_not_there_is_pulled_or_named(checkout):
    done = build(checkout, "base", "--base-image", "far/torch:2", FAKE_IMAGES="")
    assert done.returncode == 3 and "cannot pull far/torch:2: lookup registry" in done.stderr
    done = build(checkout, "base", "--base-image", "far/torch:2", FAKE_IMAGES="", FAKE_REGISTRY="1")
    assert done.returncode == 0, done.stderr
    assert "pulling far/torch:2" in done.stdout


@pytest.mark.parametrize(
    ("flags", "variables", "network"),
    [([], {}, False), (["--with-compiler"], {}, True), ([], {"FAKE_NO_TINI": "1"}, True)],
    ids=["nothing lacks", "with compiler", "no tini in the base"],
)
def test_the_shared_image_has_network_only_for_what_apt_must_bring(checkout, flags, variables, network):
    (checkout / "wheels").mkdir()
    (checkout / "wheels/a-1-py3-none-any.whl").touch()
    done = build(checkout, "ctrgcn", "--base-image", "x", "--wheels", "wheels", *flags, SAL_IMAGE="other", **variables)
    assert done.returncode == 0, done.stderr
    assert builds(checkout) == ["other:base", "other:ctrgcn"]
    base, model = build_calls(checkout)
    assert f"BASE_IMAGE=x --build-arg WITH_COMPILER={'1' if flags else ''}" in base
    assert ("--network none" in base) != network and ("needs apt" in done.stdout) == network
    assert "--network none" in model and "COMMON_IMAGE=other:base" in model


@pytest.fixture
def flock():
    if not shutil.which("flock"):
        absent("there is no flock command: build_all_images.sh then has no lock")


def test_one_build_in_a_checkout_at_a_time(checkout, flock):
    (checkout / ".build/image-wheels/base").mkdir(parents=True)
    with (checkout / ".build/build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = build(checkout, "ctrgcn", "--base-image", "x")
        assert done.returncode == 73
        assert "another build runs in this checkout" in done.stderr
        assert builds(checkout) == []
        assert (checkout / ".build/image-wheels/base").exists(), "the other build's wheels"
    done = build(checkout, "ctrgcn", "--base-image", "x")
    assert done.returncode == 0, done.stderr


def test_an_interrupted_build_ends_its_client_and_leaves_nothing(checkout, flock):
    (checkout / "wheels").mkdir()
    (checkout / "wheels/a-1-py3-none-any.whl").touch()
    argv = ("ctrgcn", "--base-image", "x", "--wheels", "wheels")
    running = subprocess.Popen(
        command(checkout, *argv),
        env=environment(checkout, FAKE_HANG="1"),
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    calls = checkout / "calls"
    while not (calls.exists() and build_calls(checkout)):
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 130 and "interrupted" in errors
    assert not (checkout / ".build/image-wheels").exists()
    done = build(checkout, *argv)  # a client that lived on would hold the lock
    assert done.returncode == 0, done.stderr


def test_help(checkout):
    done = build(checkout, "--help")
    assert done.returncode == 0
    assert "--base-image IMAGE" in done.stdout and "Exit codes" in done.stdout


@pytest.mark.parametrize("argv", [[], ["gpu"], ["cpu", "--tag"]])
def test_make_local_base_wants_a_variant(argv):
    script = ["bash", str(ROOT / "tools/make_local_base.sh"), *argv]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "make_local_base.sh cpu" in done.stderr


def test_make_local_base_brings_up_an_engine_where_none_answers(checkout):
    """Where that cannot be done either it says so and makes nothing; where it can it goes on: an image that exists is kept."""
    script = ["bash", str(checkout / "tools/make_local_base.sh"), "cpu"]
    (checkout / "tools/ensure_engine.sh").write_text("#!/bin/sh\necho ensured; exit 3\n")
    down = environment(checkout, FAKE_DOWN="Cannot connect", FAKE_IMAGES="skeleton-lab-base:cpu")
    done = subprocess.run(script, env=down, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3 and "ensured" in done.stdout
    up = f"#!/bin/sh\necho ensured; sed -i s/FAKE_DOWN/FAKE_UP/g {checkout}/bin/docker\n"
    (checkout / "tools/ensure_engine.sh").write_text(up)
    done = subprocess.run(script, env=down, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and "ensured" in done.stdout
    assert "skeleton-lab-base:cpu exists" in done.stderr


def test_an_engine_is_found_without_a_timeout_command(checkout):
    """macOS has none."""
    (checkout / "bin/sh").symlink_to("/bin/sh")
    variables = {**environment(checkout), "PATH": str(checkout / "bin")}
    assert shutil.which("timeout", path=variables["PATH"]) is None
    script = [shutil.which("bash"), str(checkout / "tools/ensure_engine.sh")]
    done = subprocess.run(script, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and "already answers" in done.stderr, done.stderr


@pytest.mark.parametrize("argv", [["--upgrde"], ["a", "b"]])
def test_lock_requirements_takes_one_flag(argv):
    script = ["bash", str(ROOT / "tools/lock_requirements.sh"), *argv]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and "--upgrade" in done.stderr
