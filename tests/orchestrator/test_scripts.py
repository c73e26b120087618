"""build_all_images.sh and the scripts in tools/, with a docker command that only pretends."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKE = """#!/bin/sh
echo "$@" >>"$FAKE_LOG"
case "$1" in
  version) [ -z "$FAKE_DOWN" ] || { echo "$FAKE_DOWN" >&2; exit 1; }; echo 20.10.1 ;;
  pull) echo "lookup registry: no such host"; exit 1 ;;
  buildx) exit 1 ;;
  image)
    case "$*" in
      *Size*) echo 1500000 ;;
      *) for tag in $FAKE_IMAGES; do case "$*" in *"$tag"*) exit 0 ;; esac; done; exit 1 ;;
    esac ;;
  build)
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


def build(checkout: Path, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"
    given = {**os.environ, "PATH": path, "FAKE_LOG": str(checkout / "calls"), "SAL_BUILDER": "legacy",
             "FAKE_IMAGES": "", "FAKE_DOWN": "", "FAKE_BROKEN": "", **variables}  # fmt: skip
    command = ["bash", str(checkout / "build_all_images.sh"), *argv]
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=60)


def builds(checkout: Path) -> list[str]:
    calls = (checkout / "calls").read_text().splitlines()
    return [call.split("-t ")[1].split()[0] for call in calls if call.startswith("build ")]


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["ctrgc"], "did you mean ctrgcn?"),
        (["bare"], "no dockerfiles/bare.Dockerfile"),
        ([], "no dockerfiles/bare.Dockerfile"),
        (["--no-cach"], "did you mean --no-cache?"),
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


@pytest.mark.parametrize(
    ("text", "word"),
    [("Cannot connect to the Docker daemon", "tools/ensure_engine.sh"), ("dial: permission denied", "docker group")],
)
def test_no_engine(checkout, text, word):
    done = build(checkout, "ctrgcn", FAKE_DOWN=text)
    assert done.returncode == 3
    assert word in done.stderr


def test_no_base(checkout):
    done = build(checkout, "ctrgcn")
    assert done.returncode == 3
    assert "no such host" in done.stderr and "tools/make_local_base.sh" in done.stderr
    assert builds(checkout) == []


def test_it_falls_back_to_a_local_base_and_says_so(checkout):
    done = build(checkout, "ctrgcn", FAKE_IMAGES="skeleton-lab-base:cpu")
    assert done.returncode == 0, done.stderr
    assert "falling back to the local base skeleton-lab-base:cpu" in done.stdout
    assert builds(checkout) == ["skeleton-lab:base", "skeleton-lab:ctrgcn"]
    assert "BASE_IMAGE=skeleton-lab-base:cpu" in (checkout / "calls").read_text()


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
    [call] = [c for c in (checkout / "calls").read_text().splitlines() if c.startswith("build ")]
    assert "--network none" in call and "--no-cache" in call
    assert not (checkout / ".build/image-wheels").exists(), "wheels must not stay in the context"


def test_help(checkout):
    done = build(checkout, "--help")
    assert done.returncode == 0
    assert "--base-image IMAGE" in done.stdout and "Exit codes" in done.stdout


@pytest.mark.parametrize("argv", [[], ["gpu"], ["cpu", "--tag"]])
def test_make_local_base_wants_a_variant(argv):
    command = ["bash", str(ROOT / "tools/make_local_base.sh"), *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "make_local_base.sh cpu" in done.stderr
