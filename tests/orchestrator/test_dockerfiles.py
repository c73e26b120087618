"""Rules for every Dockerfile, so that both builders build it the same way and the result is safe by default."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "dockerfiles").glob("*.Dockerfile"))
MODELS = [file for file in FILES if file.stem != "base"]
ONE_BUILDER_ONLY = re.compile(
    r"^RUN\s+--|^(?:COPY|ADD)\s+(?:--\S+\s+)*--(?:chmod|link|parents|exclude|checksum)|<<-?\s*['\"]?[A-Z]+|TARGET(?:ARCH|PLATFORM)"
)


def instructions(text: str) -> list[tuple[str, str]]:
    """(keyword, arguments) with continuation lines joined and comments dropped."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in joined]


def faults(text: str, *, model: bool = True) -> list[str]:
    """What is wrong with a Dockerfile."""
    found = []
    steps = instructions(text)
    if any(re.match(r"#\s*(?:syntax|escape)\s*=", line) for line in text.splitlines()):
        found.append("a parser directive: needs a registry")
    found += [f"only one builder has it: {k} {a}" for k, a in steps if ONE_BUILDER_ONLY.search(f"{k} {a}")]
    for keyword, arguments in steps:
        if keyword in ("FROM", "ARG") and re.search(r":latest\b", arguments):
            found.append("latest is not a version")
        if keyword == "ADD":
            found.append("COPY, not ADD")
        if keyword in ("CMD", "ENTRYPOINT"):
            try:
                json.loads(arguments)
            except ValueError:
                found.append(f"{keyword} is not JSON: a shell would stand between the user and the program")
        if keyword in ("ARG", "ENV") and re.search(r"PIP_(?:CERT|INDEX|EXTRA)|TOKEN|PASSWORD|SECRET", arguments):
            found.append("a setting of the build machine would stay in the image")
    users = [arguments for keyword, arguments in steps if keyword == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        found.append("the last USER is not numeric, or is root")
    if not any(keyword == "CMD" for keyword, _ in steps):
        found.append("no CMD")
    if model and not any(keyword == "ARG" and arguments.startswith("COMMON_IMAGE=") for keyword, arguments in steps):
        found.append("no ARG COMMON_IMAGE")
    if any(keyword == "COPY" and "--from" not in arguments for keyword, arguments in steps) and "a+rX" not in text:
        found.append("file modes of the checkout are not mended (chmod -R a+rX)")
    return found


def test_there_is_something_to_check():
    assert (ROOT / "dockerfiles/base.Dockerfile") in FILES
    assert MODELS


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_rules(file):
    assert faults(file.read_text(), model=file.stem != "base") == []


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_a_model_image_holds_its_own_folder_only(file):
    sources = [arguments.split()[:-1] for keyword, arguments in instructions(file.read_text()) if keyword == "COPY"]
    assert [f"models/{file.stem}"] in sources
    assert not [s for group in sources for s in group if s.startswith("models/") and s.split("/")[1] != file.stem]


GOOD = """ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE}
COPY models/x /workspace/models/x
RUN chmod -R a+rX /workspace
USER 10001:10001
CMD ["python3", "main.py"]
"""


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("ARG COMMON", "# syntax=docker/dockerfile:1\nARG COMMON", "directive"),
        ("RUN chmod", "RUN --mount=type=cache,target=/x chmod", "one builder"),
        ("COPY models", "COPY --chmod=755 models", "one builder"),
        ("COPY models", "COPY --chown=1:1 --link models", "one builder"),
        ("RUN chmod -R a+rX /workspace", "RUN <<EOF\nchmod -R a+rX /workspace\nEOF x", "one builder"),
        ("skeleton-lab:base", "skeleton-lab:latest", "latest"),
        ("COPY models", "ADD models", "COPY, not ADD"),
        ('CMD ["python3", "main.py"]', "CMD python3 main.py", "JSON"),
        ('CMD ["python3", "main.py"]\n', "", "no CMD"),
        ("USER 10001:10001", "USER lab", "USER"),
        ("USER 10001:10001", "USER 0:0", "USER"),
        ("USER 10001:10001\n", "", "USER"),
        ("USER", "ENV PIP_CERT=/x\nUSER", "build machine"),
        ("ARG COMMON_IMAGE", "ARG OTHER_IMAGE", "COMMON_IMAGE"),
        (" a+rX", " u+rX", "modes"),
    ],
)
def test_the_rules_find_faults(old, new, word):
    assert faults(GOOD) == []
    assert old in GOOD
    assert any(word in fault for fault in faults(GOOD.replace(old, new, 1)))


def program(name: str) -> str:
    """A linter beside this Python or on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed (pip install -e '.[dev]')")
    return found


def test_hadolint():
    done = subprocess.run([program("hadolint"), *FILES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_shellcheck():
    scripts = [ROOT / "build_all_images.sh", *sorted((ROOT / "tools").glob("*.sh"))]
    done = subprocess.run([program("shellcheck"), "-x", *scripts], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def pinned() -> dict[str, str]:
    lines = (ROOT / "dockerfiles/requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_requirements_are_pinned_and_leave_torch_alone():
    names = pinned()
    assert all(re.fullmatch(r"[\d.]+", version) for version in names.values())
    assert "torch" not in names
    assert names["numpy"].startswith("1."), "torch 2.3 was built for NumPy 1"


def test_the_context_is_an_allow_list():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for file in FILES
        for keyword, arguments in instructions(file.read_text())
        if keyword == "COPY" and "--from" not in arguments
        for source in arguments.split()[:-1]
    }
    for source in copied:
        plain = source.replace("[s]", "s")
        assert any(plain == entry or plain.startswith(entry + "/") for entry in allowed), f"{source} is not in the context"
    assert allowed.isdisjoint({"tests", "data", "work_dir", ".git", ".venv", "."})
