"""Both entry points where nothing is installed: one sentence, not a traceback."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from orchestrator import needed
from tests.orchestrator.conftest import ROOT

SCRIPT = [str(ROOT / "smoke_test_all.py")]
MODULE = ["-m", "orchestrator"]


def bare(*words: str) -> subprocess.CompletedProcess[str]:
    """A Python that has its own library and this checkout, and no package."""
    return subprocess.run([sys.executable, "-S", "-E", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("words", [[*SCRIPT, "--help"], [*SCRIPT], [*MODULE, "run", "ctrgcn"], [*MODULE, "smoke"], MODULE])
def test_without_the_environment_it_says_what_is_missing(words):
    done = bare(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"error: docker, requests, rich, yaml are not installed for {sys.executable}\n"
        "  next: `. .venv/bin/activate`, or `pip install -e .`, in the checkout\n"
    )


@pytest.mark.parametrize("words", [[*SCRIPT, "--help"], [*MODULE, "--help"]])
def test_with_it_nothing_is_said_of_it(words):
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("usage: ") and done.stderr == ""


def test_one_that_is_missing_is_named_alone(monkeypatch, capsys):
    monkeypatch.setattr(needed, "PACKAGES", ("rich", "no_such_package_anywhere"))
    with pytest.raises(SystemExit) as caught:
        needed.refuse_without_packages()
    assert caught.value.code == 2
    assert "error: no_such_package_anywhere is not installed for " in capsys.readouterr().err


def test_all_that_is_imported_from_outside_is_asked_for():
    found = set()
    for file in (ROOT / "orchestrator").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.partition(".")[0] for name in names}
    assert found - sys.stdlib_module_names - {"orchestrator"} == set(needed.PACKAGES)
