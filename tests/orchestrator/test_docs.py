"""docs/docker.md: what stands there is accepted by the real parsers, and every message has its row."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from requests import exceptions as http_errors

import sal.__main__
from engine import config
from orchestrator import run_command, smoke_command, sweep_command, sweep_file, sweep_states
from orchestrator.discovery import discover
from orchestrator.errors import _KNOWN, OrchestratorError, explain
from orchestrator.sweep_file import Sweep, read_sweep
from sal import signature
from shared_data.errors import LabError
from tests.orchestrator.conftest import ROOT, with_context
from tests.orchestrator.documented import (
    CODES,
    JOB,
    PAGE,
    SBATCH,
    SWEEP,
    Line,
    check,
    lines_of,
    main_py,
    not_ours,
    section,
    simple_commands,
)


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sal` reads its command line and does nothing."""

    def parsed(function: Callable[..., int], argv: list[str], prog: str) -> int:
        signature.parser(function, prog).parse_args(argv)
        return 0

    def launched(argv: list[str], *, model: str = "", phase: str = "", prog: str = "") -> int:
        config.parse(argv, model=model, phase=phase)
        return 0

    monkeypatch.setattr(signature, "call", parsed)
    monkeypatch.setattr(sal.__main__, "launch", launched)


LINES = lines_of(PAGE.read_text())


@pytest.mark.parametrize("line", LINES, ids=str)
def test_a_command_of_the_page_is_accepted(line: Line, only_parsed: None) -> None:
    assert check(line) or not_ours(line), "nobody knows this command: teach `check` or `not_ours`"


def test_every_kind_of_command_is_on_the_page(only_parsed: None) -> None:
    kinds = {check(line) for line in LINES if "build_all_images.sh" not in line.words and not line.words[1].endswith(".py")}
    assert kinds >= {
        "orchestrator run",
        "orchestrator smoke",
        "orchestrator sweep",
        "docker run … main.py",
        "docker run … sal",
        "sal",
        "tools",
        "sbatch",
    }
    assert {line.words[1] for line in LINES} >= {
        "main.py", "check_gpu.py", "benchmark_models.py", "smoke_test_kaggle.py", "smoke_test_all.py", "build_all_images.sh",
    }  # fmt: skip


def test_sections_of_models_train_them() -> None:
    trained = {line.model for line in LINES if line.words[:2] == ("python3", "main.py")}
    assert trained == {line.model for line in LINES if line.model}
    assert trained <= set(discover())
    assert len(trained) > 1


@pytest.mark.parametrize(
    ("file", "kinds"),
    [(JOB, ["kubectl apply"]), (SBATCH, ["sbatch"]), (SWEEP, ["orchestrator sweep"] * 2)],
    ids=lambda given: given.name if isinstance(given, Path) else "",
)
def test_a_command_at_the_top_of_a_file_for_a_cluster_is_accepted(file: Path, kinds: list[str]) -> None:
    commands = r"^#   ((?:\w+=\S+ )?(?:kubectl apply|sbatch|python -m orchestrator) .*)$"
    typed = "\n".join(re.findall(commands, file.read_text(), re.MULTILINE))
    assert [check(Line(words, "")) for words in simple_commands(typed)] == kinds


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("```bash\npython3 main.py --recipe ntu60_xsub --data x\n```", ("ntu60_xsub", "ntu60_xsup")),
        ("```bash\npython3 main.py --recipe smoke --num-epoch 1\n```", ("--num-epoch", "--num-epok")),
        ("```bash\nDATA=x sbatch docs/cluster/slurm-apptainer.sbatch ctrgcn --recipe smoke\n```", ("smoke", "smokes")),
        ("```bash\nkubectl apply -f docs/cluster/kubernetes-job.yaml\n```", ("-job", "-cronjob")),
        ("```bash\npython3 check_gpu.py\n```", ("check_gpu", "check_cpu")),
        ("```bash\npython3 benchmark_models.py --steps 5 \\\n  --amp\n```", ("--amp", "--half")),
        ("```bash\nsal plan --vram 8\n```", ("--vram", "--ram")),
        ("```bash\nsal data convert x --to store --out y\n```", ("--out", "--into")),
        ("```bash\ncd x && python smoke_test_all.py ctrgcn --use-gpus | tee log\n```", ("--use-gpus", "--use-gpu")),
        ("```bash\npython -m orchestrator smoke ctrgcn\n```", ("ctrgcn", "ctrgnc")),
        (
            "```bash\npython -m orchestrator run ctrgcn --gpus none -- train --recipe smoke --data x\n```",
            ("--gpus", "--gpu-list"),
        ),
        ("```bash\npython -m orchestrator run ctrgcn -- train --recipe smoke --data x\n```", ("--recipe", "--receipt")),
        ("```bash\npython -m orchestrator sweep docs/cluster/sweep.yaml --status\n```", ("--status", "--state")),
        ("```bash\npython -m orchestrator sweep docs/cluster/sweep.yaml\n```", ("sweep.yaml", "sweeps.yaml")),
        ("```bash\nbash build_all_images.sh ctrgcn --jobs 2\n```", ("--jobs", "--threads")),
        ("```bash\nbash build_all_images.sh ctrgcn\n```", ("ctrgcn", "ctrgnc")),
        ("```bash\nbash tools/make_local_base.sh cpu\n```", ("make_local", "make_remote")),
        (
            "```bash\ndocker run --mount type=bind,source=/x.npz,target=/d/x.npz,readonly --mount type=bind,source=w,target="
            "/workspace/work_dir skeleton-lab:ctrgcn python3 main.py --recipe smoke --data /d/x.npz\n```",
            ("target=/d/x.npz", "target=/d/y.npz"),
        ),
        ("```bash\ndocker run skeleton-lab:ctrgcn sal plan --vram 8\n```", ("sal plan", "sal plann")),
    ],
)
def test_a_wrong_command_is_found(good: str, bad: tuple[str, str], only_parsed: None) -> None:
    text = "### Baselines: `baselines`\n" if "check_gpu" in good or "benchmark" in good else "### CTR-GCN: `ctrgcn`\n"

    def checked(block: str) -> list[str]:
        return [check(line) for line in lines_of(f"{text}{block}\n") if line.words[0] not in ("cd", "tee")]

    assert all(checked(good))
    assert bad[0] in good
    with pytest.raises((AssertionError, LabError, OrchestratorError, StopIteration)):
        checked(good.replace(*bad))


DOCKER_FLAGS = {"--network", "--mount", "--chmod"}
"""Flags of docker and of a Dockerfile that stand in the sections on building and on smoke tests."""


@pytest.mark.parametrize(("title", "command"), [("## Build", "build_all_images.sh"), ("## Smoke tests", "smoke_test_all.py")])
def test_every_flag_that_is_mentioned_exists(title: str, command: str) -> None:
    # fenced lines are read by the parsers themselves
    spoken = re.sub(r"^```.*?^```", "", section(title), flags=re.MULTILINE | re.DOTALL)
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", spoken)) - DOCKER_FLAGS
    if command == "smoke_test_all.py":  # --model is of smoke.py
        known = {flag for action in smoke_command.parser()._actions for flag in action.option_strings} | {
            "--model"
        }  # of smoke.py
    else:
        known = set(re.findall(r"^ +((?:--[\w-]+(?: \| )?)+)\)", (ROOT / command).read_text(), re.MULTILINE))
        known = {flag for flags in known for flag in flags.split(" | ")} | {"--help"}
    assert mentioned
    assert mentioned <= known


def test_links_of_the_page_lead_somewhere() -> None:
    text = PAGE.read_text()
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (PAGE.parent / target).is_file(), target
    for script in re.findall(r"`((?:tools|smoke_tests)/[\w.]+)", text):
        assert (ROOT / script).is_file(), script


def rows(text: str) -> list[list[str]]:
    """The cells of the one table in `text`, without its head."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def template(node: ast.expr) -> str | None:
    """A string or f-string of the source with "…" for what is filled in; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return re.sub("…+", "…", "".join(str(piece.value) if isinstance(piece, ast.Constant) else "…" for piece in node.values))
    return None


def sources() -> list[str]:
    """All strings that the host side may print."""
    trees = [ast.parse(file.read_text()) for file in sorted((ROOT / "orchestrator").glob("*.py"))]
    told = [text for tree in trees for node in ast.walk(tree) if isinstance(node, ast.expr) and (text := template(node))]
    shell = (ROOT / "build_all_images.sh").read_text()
    return [*told, *(re.sub(r"\$\w+|\$\([^)]*\)|%\S*[ds]", "…", line) for line in shell.splitlines())]


def test_every_error_of_the_engine_has_its_row() -> None:
    table = rows(section("### The engine"))
    for words, what, _, _ in _KNOWN:
        named = what.replace("the image is not", "the image … is not")
        assert [row for row in table if row[0] == named and f"`{words}`" in row[1]], f"no row: {what} ({words})"
    assert explain(http_errors.ReadTimeout()).what in [row[0] for row in table]


def test_a_verdict_that_leaves_all_to_the_log_has_its_row() -> None:
    told = [row[0] for row in rows(section("### Smoke tests, runs, builds"))]
    tree = ast.parse((ROOT / "orchestrator/verdict.py").read_text())
    pairs = [
        [template(part) for part in node.elts] for node in ast.walk(tree) if isinstance(node, ast.Tuple) and len(node.elts) == 2
    ]
    terse = [what for what, next_step in pairs if next_step == "see the log"]
    assert terse
    assert [what for what in terse if what not in told] == []


@pytest.mark.parametrize("title", ["### The engine", "### Smoke tests, runs, builds", "### Messages of sweeps"])
def test_no_row_is_of_a_message_that_is_gone(title: str) -> None:
    told = sources()
    table = rows(section(title))
    ours = [row[0] for row in table if not row[0].startswith("`")]
    assert ours
    missing = {piece for row in ours for piece in re.split("…|: ", row) if not any(piece.strip() in text for text in told)}
    assert missing == set()
    assert all(row[-1] for row in table), "a message without what to do"


SPOKEN = {
    "smoke_test_all.py": smoke_command.parser().epilog or "",
    "orchestrator run": run_command.parser().epilog or "",
    "orchestrator sweep": sweep_command.parser().epilog or "",
    "build_all_images.sh": (ROOT / "build_all_images.sh").read_text().split("set -e")[0],
}
"""What each command says of its exit codes."""


@pytest.mark.parametrize("command", SPOKEN)
def test_exit_codes_are_those_that_the_command_names(command: str) -> None:
    """A row that names commands is theirs alone, any other is everybody's."""
    table = {code: " ".join(cells) for numbers, *cells in rows(CODES.read_text()) for code in numbers.split(", ")}
    codes = set(re.findall(r"\b(\d+) [a-z]", re.split("(?i)exit codes:", SPOKEN[command])[1]))
    shares = "" if command == "orchestrator sweep" else "143"  # with 130 the row, but these do not leave with it
    own = {code for code, text in table.items() if f"`{command}`" in text and code != shares}
    everybodys = {code for code, text in table.items() if not any(f"`{name}`" in text for name in SPOKEN)}
    assert codes >= own
    assert codes <= own | everybodys


def test_the_example_of_a_sweep_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the file and the docker context that it names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "NTU60_CS.npz").touch()
    with_context(tmp_path, "gpu-server", "ssh://me@gpu-server")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    sweep = read_sweep(SWEEP, Path("work_dir/sweeps/sweep"))
    assert [run.name for run in sweep.runs][::8] == ["ctrgcn-j-1", "hypergcn-48-frames"] and sweep.runs[7].name == "ctrgcn-bm-2"
    for run in sweep.runs:
        assert run.command.words[:2] == ("python3", "main.py")
        assert main_py(run.command.words[2:], run.model).work_dir == "/workspace/work_dir"
    assert (sweep.retries, sweep.back_off, sweep.shared) == (Sweep.retries, Sweep.back_off, Sweep.shared), "the defaults"


def test_keys_and_codes_of_a_sweep_are_on_the_page() -> None:
    text = section("## Sweeps")
    for key in (*sweep_file._SWEEP, *sweep_file._SLOT, *sweep_file._RUN):
        assert f"`{key}`" in text, key
    told = re.search(r"Exit codes ([\d, and]+) fail a run at once", text)
    assert told and {int(code) for code in re.findall(r"\d+", told[1])} == sweep_states.FINAL
    assert f"({sweep_states.RESUME_ME})" in text
    actions = [action for known in (sweep_command.parser(), run_command.parser()) for action in known._actions]
    known = {flag for action in actions for flag in action.option_strings} | {"--data"}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) <= known
