"""The page about segmentation: its commands are read by the real parsers, its tables are those of the code."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import sal.train
from engine import models
from engine.config import RunConfig, parse
from engine.segmentation.settings import Settings, settings
from sal import data, segment, selfsupervised_scripts, signature
from shared_data.errors import LabError
from tests.orchestrator.documented import simple_commands

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/segmentation.md"
PAGES = [PAGE, *(ROOT / "models" / name / "README.md" for name in ("usdrl", "lasa"))]
FRONT = (ROOT / "README.md").read_text().split("\n## Every frame\n")[1].split("\n## ")[0]


def typed(text: str) -> list[tuple[str, ...]]:
    """The commands that segment, and those that prepare for it, in a page's bash blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    commands = [words for block in blocks for words in simple_commands(block)]
    commands = [words[words.index("sal") :] if words[0] == "torchrun" else words for words in commands]
    return [
        words
        for words in commands
        if words[:2] == ("sal", "segment") or "--untrimmed" in words or "action_segmentation.py" in words
    ]


COMMANDS = list(dict.fromkeys(words for text in (*(page.read_text() for page in PAGES), FRONT) for words in typed(text)))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The settings of runs, which are not begun."""
    found: list[RunConfig] = []

    def launched(argv: list[str], *, model: str, phase: str, prog: str, stage: models.Stage) -> int:
        found.append(parse(argv, model=model, phase=phase, prog=prog, stage=stage))
        return 0

    monkeypatch.setattr(sal.train, "launch", launched)
    return found


def check(words: tuple[str, ...], read: list[RunConfig]) -> None:
    if words[0] != "sal":
        assert selfsupervised_scripts.action_segmentation("usdrl", list(words[words.index("action_segmentation.py") + 1 :])) == 0
    elif words[1] == "data":
        verb = {"check": data.check, "prepare": data.prepare}[words[2]]
        assert signature.parser(verb, "sal data").parse_args(list(words[3:])).untrimmed
    elif words[2] == "predict":
        signature.parser(segment.predict, "sal segment predict").parse_args(list(words[3:]))
    else:
        assert segment.run(list(words[2:])) == 0
    for config in read:
        assert config.data and (config.weights or config.recipe or config.pipeline == "normalised")
        settings(config.segment_args)
        assert set(config.model_args) <= set(models.arguments(models.find_for(config.model, "segment")))


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:90])
def test_a_command_is_accepted(words: tuple[str, ...], read: list[RunConfig]) -> None:
    check(words, read)


def test_every_verb_is_on_the_page() -> None:
    commands = typed(PAGE.read_text())
    assert {words[2] for words in commands if words[1] == "segment"} == set(segment.VERBS) and typed(FRONT)
    assert any("action_segmentation.py" in words for words in commands) and len(commands) > 10


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("sal segment train usdrl --recipe smoke --data F", ("smoke", "smke")),
        ("sal segment train usdrl --recipe smoke --data F --segment-args.mode window", ("window", "windows")),
        ("sal segment train lasa --recipe smoke --data F", ("lasa", "lassa")),
        ("sal segment predict W C --html P", ("--html", "--htm1")),
        ("python3 action_segmentation.py --backbone STTR --finetune-dataset pku_v2 --data F", ("pku_v2", "pku_v4")),
    ],
)
def test_a_wrong_command_is_found(good: str, bad: tuple[str, str], read: list[RunConfig]) -> None:
    check(tuple(good.split()), read)
    read.clear()
    with pytest.raises((AssertionError, LabError)):
        check(tuple(good.replace(*bad).split()), read)


def test_every_setting_has_its_row_and_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", PAGE.read_text().split("\n## Settings\n")[1].split("\n## ")[0], re.MULTILINE)
    assert {name: yaml.safe_load(told) for name, told in rows} == dataclasses.asdict(Settings())


def test_published_figures_are_those_of_the_toml() -> None:
    table = PAGE.read_text().split("\n## Published figures")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:6]] for line in table.splitlines() if line.startswith("|")]
    found: list[Any] = []
    for name, called in (("usdrl", lambda row: "USDRL"), ("lasa", lambda row: row["variant"])):
        for row in models.find(name, None).toml["published"]:
            if row.get("by") == "segmentation" and "not here" not in row.get("variant", ""):
                mark, f1 = "≈ " if row.get("approximate") else "", ", ".join(map(str, row.get("f1", [])))
                cells = (f"{mark}{row['accuracy']}", f"{mark}{row['edit']}", f"{mark}{f1}" if f1 else "")
                found.append((called(row), row["protocol"], *cells))
    assert sorted(map(tuple, rows[2:])) == sorted(found) and len(found) == 5


def test_every_model_is_in_the_table_of_backbones() -> None:
    table = PAGE.read_text().split("| model | under the head | |")[1].split("\n\n")[0]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))
    assert sorted(named) == sorted([*models.discover("classifier"), *models.discover("segmenter")])


def test_measured_streaming_is_in_the_file() -> None:
    lines = [
        line for line in (ROOT / "benchmarks/results/streaming_cpu.csv").read_text().splitlines() if not line.startswith("#")
    ]
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    table = PAGE.read_text().split("| frames | streamed")[1].split("\n\n")[0]
    told = {
        int(row[0].replace(",", "")): row[1:] for row in re.findall(r"^\| ([\d,]+) \| (\d+) \| (\d+) \|", table, re.MULTILINE)
    }
    assert len(told) >= 3
    for frames, cells in told.items():
        own = {row["way"]: row["memory_mib"] for row in rows if row["frames"] == str(frames)}
        assert cells == (own["streamed"], own["in one piece"]), frames


def test_recipes_and_files_that_are_named_are_there() -> None:
    text = PAGE.read_text()
    for name in re.findall(r"`((?:docs|benchmarks|engine|tests|models)/[\w./]+)`", text):
        assert (ROOT / name).exists(), name
    named = set(re.findall(r"`((?:sttr|dste|dest_tcn)_\w+)`", text))
    known = {name for model in ("usdrl", "lasa") for name in models.find(model, None).recipes_of("segment")}
    assert named and named <= known, json.dumps(sorted(named - known))


def test_every_recipe_is_in_its_readme() -> None:
    for model in ("usdrl", "lasa"):
        text = (ROOT / "models" / model / "README.md").read_text()
        recipes = models.find(model, None).recipes_of("segment")
        assert recipes and all(f"`{name}`" in text for name in recipes), model
