"""The engine and the images of the orchestrator's tests, and the proof that the tests leave no container behind."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import leftovers, smoke
from orchestrator.connection import connect
from orchestrator.errors import OrchestratorError
from orchestrator.verdict import REQUIRED

ROOT = Path(__file__).resolve().parents[2]
TEST_IMAGE = "skeleton-lab-test:busybox"


def good(model: str, **more: Any) -> str:
    """The result line of a smoke test in which all holds."""
    return json.dumps({"kind": "smoke_result", "model": model, "assertions": dict.fromkeys(sorted(REQUIRED), True), **more})


def with_context(config: Path, name: str, host: str) -> None:
    """A docker context in a folder of docker settings."""
    meta = config / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    described = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}}
    (meta / "meta.json").write_text(json.dumps(described))
    (config / "config.json").write_text("{}")


def absent(reason: str) -> None:
    """Skip, or fail where SAL_REQUIRE_DOCKER=1 says that an engine must be there."""
    if os.environ.get("SAL_REQUIRE_DOCKER") == "1":
        pytest.fail(f"SAL_REQUIRE_DOCKER=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def client() -> Iterator[Any]:
    """A client of a real engine."""
    try:
        found = connect()
    except OrchestratorError as error:
        absent(f"no Docker engine: {error}")
    with_ours = {"label": leftovers.RUN}
    before = {container.id for container in found.containers.list(all=True, filters=with_ours, ignore_removed=True)}
    yield found
    after = {container.id for container in found.containers.list(all=True, filters=with_ours, ignore_removed=True)}
    found.close()
    assert not after - before, "the tests left containers behind"


@pytest.fixture(scope="session")
def busybox(client: Any) -> str:
    """The tag of an image with a shell and nothing else."""
    made = subprocess.run([ROOT / "tools/make_test_image.sh", TEST_IMAGE], capture_output=True, text=True, check=False)
    if made.returncode:
        absent(made.stderr.strip())
    return TEST_IMAGE


@pytest.fixture
def as_image(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make every model's image the given one."""
    return lambda tag: monkeypatch.setattr("orchestrator.smoke.image_of", lambda _: tag)


@pytest.fixture
def playing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], str]], None]:
    """Put a shell script, as a function of the model, in place of every smoke test."""
    usual = smoke.job_of

    def play(script_of: Callable[[str], str]) -> None:
        monkeypatch.setattr(
            smoke, "job_of", lambda plan, model: replace(usual(plan, model), command=["sh", "-c", script_of(model)])
        )

    return play
