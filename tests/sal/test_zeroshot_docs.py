"""docs/zero-shot.md and the READMEs of the systems: every command in them is read by the real parser, every flag has its row."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sal.__main__
from engine import models
from engine.zeroshot import chain as chain_module
from sal import signature, zeroshot, zeroshot_scripts
from sal.features import features
from sal.zeroshot_flags import ALL_TEXTS, OFFICIAL, BackboneFlags, InputFlags, JudgingFlags, TaskFlags, TrainingFlags
from shared_data import zeroshot_splits as splits
from shared_data.errors import LabError
from tests.orchestrator.documented import simple_commands

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/zero-shot.md"
SYSTEMS = sorted(models.discover("zeroshot"))
PAGES = [PAGE, *(ROOT / "models" / name / "README.md" for name in SYSTEMS)]


def typed(page: Path) -> list[tuple[str, ...]]:
    """All commands of a page's bash blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [words for block in blocks for words in simple_commands(block)]


COMMANDS = [(page.parent.name, words) for page in PAGES for words in typed(page)]


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line is read as a whole, down to the plan of a run, and nothing is done."""

    def parsed(function: Callable[..., int], argv: list[str], prog: str) -> int:
        found = signature.parser(function, prog).parse_args(argv)
        if function is not zeroshot.run_:
            return 0
        plan = zeroshot.plan_of(*(part(kind, found) for kind in (TaskFlags, TrainingFlags, JudgingFlags)))
        models.find(found.model, "zeroshot")
        inputs = part(InputFlags, found)
        chain = zeroshot.chain_of(part(BackboneFlags, found), inputs)
        if chain is not None:
            chain_module._backbone_config(chain[0])
        else:
            phase = {"all": None, "train": "test", "val": "val"}[found.phase]
            zeroshot.source_of(inputs, len(plan.test.unseen), phase)
        return 0

    def part(kind: Any, found: object) -> Any:
        return kind(**{name: getattr(found, name) for name in kind.__dataclass_fields__})

    monkeypatch.setattr(signature, "call", parsed)


def check(words: tuple[str, ...]) -> str:
    """Check a command; returns its kind, "" for a program that is not ours."""
    match words:
        case ("sal", *rest):
            assert sal.__main__._dispatch(list(rest)) == 0
            return f"sal {rest[0]}"
        case ("docker", "run", *_):
            at = next(i for i, word in enumerate(words) if word.startswith("skeleton-lab:"))
            system, command = words[at].partition(":")[2], words[at + 1 :]
            targets = re.findall(r"target=([^ ,]+)", " ".join(words))
            folder = f"/workspace/models/{system}"
            assert targets == [f"{folder}/{name}" for name in ("sk_feats", "text_feats", "results")]
            assert check((command[0], f"{folder}/{command[1]}", *command[2:])) == "main.py"
            return "docker run"
        case ("python3", script, *rest):
            system, name = Path(script).parts[-2:]
            assert (ROOT / "models" / system / name).is_file(), script
            function = {"main.py": "main", "train.py": "train", "gen_text_feat.py": "text"}[name]
            assert getattr(zeroshot_scripts, function)(system, rest) == 0, words
            return name
        case ("bash", script, *rest):
            system, name = Path(script).parts[-2:]
            text = (ROOT / "models" / system / name).read_text()
            verb = re.search(r"main\.py\" (.*) \"\$@\"", text)
            assert verb is not None
            assert zeroshot_scripts.main(system, [*verb[1].split(), *rest]) == 0
            return "bash"
        case _:
            assert words[0] in ("cd", "mkdir"), f"nobody knows this command: {words}"
            return ""


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else " ".join(value)[:70])
def test_a_command_is_accepted(page: str, words: tuple[str, ...], only_parsed: None) -> None:
    check(words)


def test_every_kind_of_command_is_there(only_parsed: None) -> None:
    kinds = {check(words) for _, words in COMMANDS}
    assert kinds >= {"sal zeroshot", "sal report", "docker run", "main.py", "train.py", "bash"}
    words = [words for _, words in COMMANDS]
    assert {w[2] for w in words if w[:2] == ("sal", "zeroshot")} >= {"run", "text"}


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("sal zeroshot run --model fsvae --ss 5", ("--ss 5", "--ss 6")),
        ("sal zeroshot run --model fsvae --ss 5", ("--model", "--modell")),
        ("sal zeroshot text --without-clip", ("--without-clip", "--no-clip")),
        ("python3 x/models/fsvae/train.py --ss 5 --phase val", ("--phase val", "--phase test")),
        ("python3 x/models/fsvae/train.py --ss 5 --phase val", ("train.py", "trane.py")),
        ("bash x/models/msf_gzssar/run60.sh", ("run60.sh", "run61.sh")),
        ("bash x/models/msf_gzssar/run60.sh --seeds 1", ("--seeds", "--sheets")),
    ],
)
def test_a_wrong_command_is_found(good: str, bad: tuple[str, str], only_parsed: None) -> None:
    assert check(tuple(good.split()))
    assert bad[0] in good
    with pytest.raises((AssertionError, LabError, OSError, KeyError)):
        check(tuple(good.replace(*bad).split()))


def test_every_flag_of_run_has_its_row_and_no_other() -> None:
    rows = PAGE.read_text().split("\n## Flags of `run`\n")[1].split("\n## ")[0]
    told = {flag for row in re.findall(r"^\| (`--.*?) \|", rows, re.MULTILINE) for flag in re.findall(r"--[\w-]+", row)}
    known = {
        flag for action in signature.parser(zeroshot.run_, "x")._actions for flag in action.option_strings
        if flag.startswith("--") and flag != "--help" and not flag.endswith("+")
    }  # fmt: skip
    assert told == known | set(OFFICIAL)


def test_defaults_in_the_rows_are_those_of_the_parser() -> None:
    text = PAGE.read_text()
    defaults = {action.dest: action.default for action in signature.parser(zeroshot.run_, "x")._actions}
    for name in ("st", "le", "select", "phase", "mode"):
        assert f"| `--{name}` | `{defaults[name]}` |" in text, name
    assert defaults["tm"] is None and f"| `--tm` | `{ALL_TEXTS}` |" in text
    assert f"| `--backbone-weights` | `{defaults['backbone_weights']}` |" in text
    assert "| `--t`, `--th` | 2, 50 |" in text and (defaults["t"], defaults["th"]) == (2, 50)


def test_every_flag_that_is_mentioned_exists() -> None:
    spoken = re.sub(r"^```.*?^```", "", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    known = {
        flag for function in (zeroshot.run_, zeroshot.text, zeroshot.published, features)
        for action in signature.parser(function, "x")._actions for flag in action.option_strings
    }  # fmt: skip
    mentioned = {flag.replace("_", "-") for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", spoken)}
    assert mentioned and mentioned - {"--stream"} <= known | set(OFFICIAL)  # --stream is of sal train


def test_the_table_of_splits() -> None:
    rows = re.findall(r"^\| `--ntu (\d+) --ss (\d+)` \| ([\d ]+) \| ([\d ]+) \|$", PAGE.read_text(), re.MULTILINE)
    told = {(int(n), int(k)): tuple(tuple(map(int, side.split())) for side in (test, val)) for n, k, test, val in rows}
    assert told == {task: (splits.UNSEEN[task], splits.VALIDATION_UNSEEN[task]) for task in splits.UNSEEN}


def test_the_tree_of_files_is_the_layout() -> None:
    from engine.zeroshot.features import LAYOUT, folder_name

    tree = PAGE.read_text().split("```text\n")[1].split("```")[0]
    for phase, parts in LAYOUT.items():
        names = {name for files in parts for name in (files.features, files.labels, files.logits) if name}
        behind = tree.split(f"{folder_name(5, phase)}/")[1].split("shift_val_5_r/")[0].split("text_feats/")[0]
        assert set(re.findall(r"── (\w+\.npy)", behind)) == names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`((?:docs|benchmarks|engine|tests|models)/[\w./]+)`", text):
        assert (ROOT / name).exists(), name
    if page != PAGE:
        listed = re.findall(r"^\| (`[^|]+`) \|", text.split("| file | what |")[1].split("\n\n")[0], re.MULTILINE)
        assert all((page.parent / name).is_file() for row in listed for name in re.findall(r"`([^`]+)`", row))
