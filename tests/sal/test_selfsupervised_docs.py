"""Pages about learning without labels: their commands are read by the real parsers, their tables hold."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import sal.__main__
from engine import config, models
from engine.downstream import chain, judging, probe
from engine.downstream.selection import RULES
from engine.labelled import asked
from planner.answers import recipe_config
from sal import data, judge, recipe, signature
from sal.plan import plan
from shared_data.errors import LabError
from tests.orchestrator.documented import simple_commands

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/self-supervised.md"
PRETRAINED = sorted(name for name, card in models.discover().items() if "pretraining" in card.toml)
PAGES = [PAGE, *(ROOT / "models" / name / "README.md" for name in PRETRAINED)]
TRAINING = ("train", "test", "pretrain", "tune", "finetune", "semi")
JUDGING = ("judge", *judge.VERBS)


def typed(text: str) -> list[tuple[str, ...]]:
    """The commands of `sal` in a page's bash blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [words for block in blocks for words in simple_commands(block) if words[0] == "sal"]


FRONT = (ROOT / "README.md").read_text().split("\n## Without labels\n")[1].split("\n## ")[0]
COMMANDS = [words for text in (*(page.read_text() for page in PAGES), FRONT) for words in typed(text)]


class Judged(Exception):
    """Settings and wishes are read; nothing is opened."""


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> list[config.RunConfig]:
    """The command line is read down to the settings of a run, which are kept here, and nothing is done."""
    read: list[config.RunConfig] = []

    def launched(argv: list[str], *, model: str, phase: str, prog: str, stage: models.Stage, needs: list[str]) -> int:
        settings = config.parse(argv, model=model, phase=phase, prog=prog, stage=stage)
        assert settings.data and settings.recipe and not [name for name in needs if not getattr(settings, name)]
        assert settings.init or stage != "tune"
        if settings.labelled:
            asked(settings.labelled)
        read.append(settings)
        return 0

    def judged(settings: config.RunConfig, wishes: judging.Wishes, told: Any) -> None:
        assert settings.data and settings.recipe
        assert not wishes.probe or wishes.probe in probe.OFFICIAL
        assert wishes.probe or "linear" not in wishes.protocols or judging.default_probe(settings)
        read.append(settings)
        raise Judged

    def gone(of: chain.Chain, asked: list[chain.Asked], *_: Any) -> None:
        assert [one.stage for one in asked] == list(of.stages)
        raise Judged

    monkeypatch.setattr(sal.__main__, "launch", launched)
    monkeypatch.setattr(chain, "go", gone)
    monkeypatch.setattr(recipe, "_made_up", lambda of, folder: folder / "synthetic.npz")
    monkeypatch.setattr(judging, "judge", judged)
    return read


def check(words: tuple[str, ...], read: list[config.RunConfig]) -> None:
    """Check a command; the settings of runs go to `read`, for keys that an objective or a classifier takes."""
    verb, rest = words[1], list(words[2:])
    if verb == "plan":
        found = signature.parser(plan, "sal plan").parse_args(rest)
        recipe_config(models.find(found.name), found.recipe)
    elif (verb, rest[0]) == ("data", "labelled"):
        asked(signature.parser(data.labelled, "sal data labelled").parse_args(rest[1:]).share)
    elif (verb, rest[0]) == ("segment", "train"):  # those of docs/segmentation.md have a test of their own
        assert config.parse(rest[2:], model=rest[1], stage="segment").init
    elif verb == "ensemble":
        assert all(word.endswith("scores.npz") for word in rest)
    elif verb in JUDGING or (verb, rest[0]) == ("recipe", "run"):
        with pytest.raises(Judged):
            sal.__main__._dispatch([verb, *rest])
    else:
        assert verb in TRAINING or (verb, rest[0]) == ("recipe", "list"), f"nobody knows this command: {words}"
        assert sal.__main__._dispatch([verb, *rest]) == 0
    for settings in read:
        card = models.find(settings.model)
        assert set(settings.objective_args) <= set(models.arguments(card, settings.stage))
        assert set(settings.model_args) <= set(models.arguments(card))
        assert settings.forward_batch_size is None or settings.forward_batch_size < settings.batch_size


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:90])
def test_a_command_is_accepted(words: tuple[str, ...], only_parsed: list[config.RunConfig]) -> None:
    check(words, only_parsed)


def test_every_verb_and_every_model_is_on_the_page() -> None:
    commands = typed(PAGE.read_text())
    assert typed(FRONT)
    assert {words[1] for words in commands} >= {"pretrain", "tune", "finetune", "semi", "plan", "ensemble", "recipe", *JUDGING}
    assert {words[2] for words in commands if words[1] == "pretrain"} == set(PRETRAINED)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("sal pretrain isc --recipe ntu60_xview_8gb --data F", ("ntu60_xview_8gb", "finetune_ntu60_xview")),
        ("sal pretrain isc --recipe ntu60_xview_8gb --data F --objective-args.moco_k 5", ("moco_k", "moko_k")),
        ("sal finetune mamp --recipe finetune_ntu60_xsub --data F --init E", (" --init E", "")),
        ("sal semi mamp --recipe finetune_ntu60_xsub --data F --init E --labelled 10%/3", ("10%/3", "%10")),
        ("sal tune mamp --recipe ntu60_xsub_merged --data F --init E", ("tune mamp", "tune scdnet")),
        ("sal judge isc --recipe ntu60_xview --data F --protocols linear", ("linear", "linnear")),
        ("sal judge isc --recipe ntu60_xview --data F --shots 1", ("--shots", "--shot")),
        ("sal probe isc --recipe ntu60_xview --data F --probe isc", ("--probe isc", "--probe hcn")),
        ("sal recipe run mamp/ntu60_xsub_full --data F", ("_full", "_ful")),
        ("sal recipe run mamp/ntu60_xsub_full --data F --tune.recompute blocks", ("recompute", "recomputed")),
        ("sal plan mamp --recipe tune/ntu60_xsub_merged", ("tune/", "")),
    ],
)
def test_a_wrong_command_is_found(good: str, bad: tuple[str, str], only_parsed: list[config.RunConfig]) -> None:
    check(tuple(good.split()), only_parsed)
    assert bad[0] in good
    only_parsed.clear()
    with pytest.raises((AssertionError, LabError)):
        check(tuple(good.replace(*bad).split()), only_parsed)


def test_recipes_that_are_named_exist() -> None:
    named = re.findall(r"`(\w+) (pretrain|tune)/(\w+)`", PAGE.read_text())
    assert len(named) >= 6
    for model, stage, name in named:
        assert name in models.find(model).recipes_of("tune" if stage == "tune" else "pretrain")


def test_every_flag_of_judging_has_its_row_and_its_default() -> None:
    rows = re.findall(r"^\| (`--.*?) \| (.*?) \|", PAGE.read_text().split("\n## Judging\n")[1].split("\n## ")[0], re.MULTILINE)
    told = {flag: default for names, default in rows for flag in re.findall(r"--[\w-]+", names)}
    actions = [action for action in judge._parser("judge")._actions if action.dest != "help"]
    assert set(told) == {flag for action in actions for flag in action.option_strings}
    for action in actions:
        if action.default not in (None, ""):
            words = action.default if isinstance(action.default, (list, tuple)) else [action.default]
            assert told[action.option_strings[0]] == f"`{' '.join(map(str, words))}`", action.dest


def test_protocols_rules_and_probes_are_those_of_the_suite() -> None:
    text = PAGE.read_text()
    table = text.split("| protocol | what |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))) == set(judging.PROTOCOLS)
    rules = text.split("| rule | which epoch |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", rules, re.MULTILINE) == list(RULES)
    probes = next(line for line in text.splitlines() if line.startswith("| `--probe` |"))
    assert set(re.findall(r"`(\w+)`", probes)) == set(probe.OFFICIAL)


def test_published_figures_are_those_of_the_toml() -> None:
    """Every cell of both tables, with its mark of doubt."""
    columns = [("ntu60", "xsub"), ("ntu60", "xview"), ("ntu120", "xsub"), ("ntu120", "xset")]
    text, seen = PAGE.read_text(), 0
    for title, by in (("linear", "linear"), ("k-NN, k = 1", "knn")):
        table = text.split(f"\n| {title} | NTU-60")[1].split("\n\n")[0]
        for model, who, *cells in re.findall(r"^\| `(\w+)`,? ?(\w*) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|", table, re.MULTILINE):
            rows = [row for row in models.find(model).toml["published"] if row["stream"] == "j" and row.get("by", "linear") == by]
            rows = [row for row in rows if row.get("variant", "").lower().startswith(who.lower())]
            for cell, column in zip(cells, columns, strict=True):
                row = next(row for row in rows if (row["dataset"], row["protocol"]) == column)
                assert cell == f"{'≈ ' if row.get('approximate') else ''}{row['top1']}", (model, who, column)
                seen += 1
    assert seen == 4 * 10


def test_files_that_are_named_are_there() -> None:
    for name in re.findall(r"`((?:docs|benchmarks|engine|tests|models)/[\w./]+)`", PAGE.read_text()):
        assert "NAME" in name or (ROOT / name).exists(), name
    for script in re.findall(r"`(\w+\.py)`", PAGE.read_text()):
        assert list((ROOT / "models").glob(f"*/{script}")), script


def test_terms_of_the_log_are_those_of_the_objectives() -> None:
    rows = PAGE.read_text().split("| terms in the log | of |")[1].split("\n\n")[0]
    told = [name for cell in re.findall(r"^\| (`.*?) \|", rows, re.MULTILINE) for name in re.findall(r"`([a-z]\w+)`", cell)]
    sources = [inspect.getsource(models.import_module(models.find(name), "pretraining")) for name in PRETRAINED]
    sources += [inspect.getsource(models.import_module(models.find("mamp"), "tuning"))]
    sources += [inspect.getsource(models.import_module(models.find("isc"), "network"))]  # its terms are its representations
    assert len(told) >= 11 and [name for name in told if not any(f'"{name}"' in source for source in sources)] == []
