"""What the pages of docs/ say is typed, and whether the real parsers take it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sal.__main__
from engine import config, models
from orchestrator import run_command, smoke_command, sweep_command
from orchestrator.discovery import discover
from tests.orchestrator.conftest import ROOT

PAGE = ROOT / "docs/docker.md"
CODES = ROOT / "docs/exit-codes.md"
JOB = ROOT / "docs/cluster/kubernetes-job.yaml"
SWEEP = ROOT / "docs/cluster/sweep.yaml"
SBATCH = ROOT / "docs/cluster/slurm-apptainer.sbatch"
DATA = "/workspace/data/"
WORK_DIR = "/workspace/work_dir"


@dataclass(frozen=True)
class Line:
    """One simple command of a fenced block, and the model in whose image it is typed ("" outside of one)."""

    words: tuple[str, ...]
    model: str

    def __str__(self) -> str:
        return shlex.join(self.words)


def simple_commands(block: str) -> Iterator[tuple[str, ...]]:
    """The commands of shell text: continued lines joined, comments and assignments dropped, cut at ; | and &."""
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";|&"):
                while words and re.match(r"\w+=", words[0]):
                    words.pop(0)
                if words:
                    yield tuple(words)
                words = []
            else:
                words.append(word)


def lines_of(text: str) -> list[Line]:
    """All commands of a page's bash blocks; the model is that of the nearest heading, `### Title: `name``."""
    found, model = [], ""
    for heading, block in re.findall(r"^(#+ [^\n]*)$|^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if heading:
            named = re.fullmatch(r"### .*: `(\w+)`", heading)
            model = named[1] if named else ""
        found += [Line(words, model) for words in simple_commands(block)]
    return found


def main_py(words: tuple[str, ...], model: str, phase: str = "") -> config.RunConfig:
    """The settings that a model's main.py reads from these words; a recipe is one of its own."""
    assert model in discover(), f"no model {model!r}"
    settings = config.parse(list(words), model=model, phase=phase)
    if settings.recipe:
        assert (ROOT / "models" / model / "recipes" / f"{settings.recipe}.yaml").is_file()
    return settings


def script_help(script: Path) -> str:
    """What a script prints of its flags; the environment has this checkout's packages only."""
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def in_image(words: tuple[str, ...], model: str) -> str:
    """Check a command as typed in the image of `model`; returns its kind, "" for a program that is not ours."""
    match words:
        case ("python3", "main.py", *rest) if models.find(model, None).kind == "zeroshot":
            sal.__main__._dispatch(["zeroshot", rest[0], "--model", model, *rest[1:]])
        case ("python3", "main.py", *rest):
            main_py(tuple(rest), model)
        case ("python3", script, *rest) if script.endswith(".py"):
            file = ROOT / "models" / model / script
            assert file.is_file(), file
            flags = [word for word in rest if word.startswith("--")]
            said = script_help(file) if flags else ""
            assert [flag for flag in flags if flag not in said] == []
        case ("sal", *rest):
            sal.__main__._dispatch(list(rest))
        case ("bash",):
            pass
        case _:
            return ""
    return words[1] if words[0] == "python3" else words[0]


def docker_run(words: tuple[str, ...]) -> str:
    """Check the command behind the image, and that what it reads and writes is mounted."""
    at = next(i for i, word in enumerate(words) if re.fullmatch(r"skeleton-lab:\w+", word))
    model, command = words[at].partition(":")[2], words[at + 1 :]
    mounts = [
        dict(part.partition("=")[::2] for part in words[i + 1].split(",")) for i, w in enumerate(words[:at]) if w == "--mount"
    ]
    assert all(mount["type"] == "bind" and mount["source"] and mount["target"].startswith("/") for mount in mounts)
    targets = [mount["target"] for mount in mounts]
    if command[:2] == ("python3", "main.py") and "--data" in command:
        assert command[command.index("--data") + 1] in targets
        assert WORK_DIR in [mount["target"] for mount in mounts if "readonly" not in mount]
    return f"docker run … {in_image(command, model)}" if command else "docker run"


def orchestrator(words: tuple[str, ...]) -> str:
    """Check `python -m orchestrator VERB …`."""
    verb, *rest = words
    if verb == "smoke":
        smoke(tuple(rest))
        return "orchestrator smoke"
    if verb == "sweep":
        assert ROOT / sweep_command.parser().parse_args(rest).file == SWEEP
        return "orchestrator sweep"
    assert verb == "run"
    before, command = run_command.split(rest)
    given = run_command.parser().parse_args(before)
    assert given.model in discover()
    if command[0] in ("train", "test"):
        settings = main_py(tuple(command[1:]), given.model, phase=command[0])
        assert not (settings.data or "").startswith(DATA), "a path of the container where one of this machine belongs"
    else:
        assert in_image(tuple(command), given.model)
    return "orchestrator run"


def smoke(words: tuple[str, ...]) -> str:
    assert set(smoke_command.parser().parse_args(list(words)).names) <= set(discover())
    return "smoke"


def build(words: tuple[str, ...]) -> str:
    """The script itself reads the words, and leaves at --help before it looks for an engine."""
    done = subprocess.run(
        ["bash", "build_all_images.sh", *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return "build"


def check(line: Line) -> str:
    """Check a command by what would read it; returns its kind, "" for a program that is not ours."""
    match line.words:
        case ("docker", "run", *rest):
            return docker_run(tuple(rest))
        case ("python" | "python3", "-m", "orchestrator", *rest):
            return orchestrator(tuple(rest))
        case ("python", "smoke_test_all.py", *rest):
            return smoke(tuple(rest))
        case ("bash", "build_all_images.sh", *rest):
            return build(tuple(rest))
        case ("sbatch", script, model, *rest):
            assert ROOT / script == SBATCH
            main_py(tuple(rest), model)
            return "sbatch"
        case ("kubectl", "apply", "-f", file):
            assert ROOT / file == JOB
            return "kubectl apply"
        case ("bash", script, *_) if script.startswith("tools/"):
            assert (ROOT / script).is_file()
            return "tools"
        case _:
            return in_image(line.words, line.model)


def not_ours(line: Line) -> bool:
    return line.words[0] in ("mkdir", "kubectl", "apptainer", "zstd") or line.words[:2] in (
        ("docker", "save"), ("docker", "load"),
    )  # fmt: skip


def section(title: str) -> str:
    """A section of the page with those below it."""
    level = len(title.partition(" ")[0])
    behind = PAGE.read_text().split(f"\n{title}\n")[1]
    return re.split(rf"^#{{1,{level}}} ", behind, maxsplit=1, flags=re.MULTILINE)[0]
