"""Chains: what a file may say, what a stage came to, published figures beside ours. Whole runs: tests/sal/test_recipe.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine import records
from engine.config import parse
from engine.downstream import chain, chain_report
from engine.downstream.chain import Asked, Chain, Stage
from engine.downstream.results import Result
from engine.errors import ConfigError, WorkDirError

PRETRAIN = "{name: a, verb: pretrain, recipe: smoke}"


def read(text: str, folder: Path) -> Chain:
    file = folder / "made.yaml"
    file.write_text(text)
    return chain.read("isc", file)


def test_a_file_becomes_stages(tmp_path: Path) -> None:
    found = read(
        "# What it is\n#   for.\nsynthetic: {classes: 2}\nstages:\n"
        f"  - {PRETRAIN}\n"
        "  - name: b\n    verb: judge\n    recipe: smoke\n    init: a\n    encoder: graph\n"
        "    flags: {protocols: [linear, knn], model_args: {width: 8}, nesterov: false, labelled: 1%}\n",
        tmp_path,
    )
    assert (found.name, found.about, found.synthetic) == ("made", "What it is for.", {"classes": 2})
    assert found.stages[0] == Stage("a", "pretrain", "smoke")
    assert found.stages[1].words(Path("F")) == [
        "--recipe", "smoke", "--work-dir", "F/b", "--init", "F/a/encoder_graph.safetensors", "--protocols", "linear", "knn",
        "--model-args", '{"width": 8}', "--nesterov", "false", "--labelled", "1%",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: 3", "no chain"),
        ("stages: []\nstage: []", "no chain"),
        ("stages: [", "no YAML"),
        ("stages: [{name: a, verb: pretrain}]", "no stage of a chain"),
        (f"stages: [{PRETRAIN}, {PRETRAIN}]", "a word that no stage before it has"),
        ("stages: [{name: a/b, verb: pretrain, recipe: smoke}]", "a word that no stage before it has"),
        ("stages: [{name: a, verb: pretain, recipe: smoke}]", "did you mean pretrain?"),
        (f"stages: [{PRETRAIN}, {{name: b, verb: judge, recipe: smoke, init: c}}]", "init 'c'"),
        ("stages: [{name: a, verb: judge, recipe: smoke}, {name: b, verb: judge, recipe: smoke, init: a}]", "leaves an encoder"),
    ],
)
def test_what_is_no_chain(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"made\.yaml") as refused:
        read(text, tmp_path)
    assert said in str(refused.value)


def test_the_nearest_chain_is_named() -> None:
    assert chain.find("mamp/ntu60_xsub_full").stages[2].verb == "tune"
    with pytest.raises(ConfigError, match=r"did you mean ntu60_xsub_full\?"):
        chain.find("mamp/ntu60_xsub_ful")
    with pytest.raises(ConfigError, match=r"did you mean mamp\?"):
        chain.find("mampp/ntu60_xsub_full")


def test_figures_of_a_fine_tuned_classifier() -> None:
    """MAMP's published row of 10 % of the labels beside that share, whoever drew it, and of all labels beside all."""
    of_all = parse(["--recipe", "finetune_ntu60_xsub"], model="mamp")
    few = parse(["--recipe", "finetune_ntu60_xsub", "--labelled", "mamp:10%/0"], model="mamp")
    assert [row.top1 for row in chain.published_of_training(of_all)] == [0.93, 0.93]
    assert [(row.setting, row.top1) for row in chain.published_of_training(few)] == [("10% of the labels", 0.88)]
    row = {"epoch": 3, "top1": 0.5, "top5": 0.75}
    (last, best) = chain.trained(few, {"selection": {"last": row, "best_on_test": {**row, "epoch": 1, "top1": 0.625}}})
    assert last == Result("fine-tuned", "10% of the labels", "last", (0.5,), (0.75,), (1,), "epoch 4 of 100")
    assert (best.rule, best.top1, best.note) == ("best_on_test", (0.625,), "epoch 2 of 100")
    (honest,) = chain.trained(of_all, {"selection": {"last": row}, "test": {"last": {**row, "top1": 0.25}}})
    assert (honest.setting, honest.top1) == ("all labels", (0.25,))


@pytest.fixture
def done(tiny_data: Path, tmp_path: Path) -> Any:
    """`chain.go` through two stages whose work writes what a run would; the names of the stages that worked."""
    of = read(f"stages:\n  - {PRETRAIN}\n  - {{name: b, verb: finetune, recipe: smoke, init: a, encoder: seq}}\n", tmp_path)
    folder, worked = tmp_path / "chain", []

    def work(one: Asked) -> None:
        worked.append(one.stage.name)
        (folder / one.stage.name / "checkpoints").mkdir(parents=True, exist_ok=True)
        row = {"epoch": 0, "top1": 0.5, "top5": 1.0, "loss": 2.0}
        metrics = {"last": row, "encoders": ["encoder_seq.safetensors"], "clips_train": 24, "selection": {"last": row}}
        (folder / one.stage.name / "metrics.json").write_text(json.dumps(metrics))
        for name in ("encoder_seq", "checkpoints/best"):
            save_file({"w": torch.ones(2)}, folder / one.stage.name / f"{name}.safetensors")

    def go(*flags: str, data: Path = tiny_data) -> list[str]:
        worked.clear()
        asked = []
        for stage in of.stages:
            words = [*stage.words(folder), "--data", str(data), *flags]
            stage_of_run: Any = "pretrain" if stage.verb == "pretrain" else "supervised"
            asked.append(Asked(stage, parse(words, model="isc", stage=stage_of_run), None))
        chain.go(of, asked, folder, work, lambda line: None)
        return list(worked)

    go.of, go.folder = of, folder  # type: ignore[attr-defined]
    return go


def test_a_stage_that_is_done_is_not_done_again(done: Any) -> None:
    assert done() == ["a", "b"]
    assert done("--device", "cpu", "--num-worker", "3") == []
    (done.folder / "b.json").unlink()
    assert done() == ["b"]
    (done.folder / "a" / "encoder_seq.safetensors").unlink()
    assert done() == ["a"]


def test_other_settings_clips_and_encoders_are_refused(done: Any, tmp_path: Path) -> None:
    from shared_data.synthetic import write_synthetic

    assert done() == ["a", "b"]
    with pytest.raises(WorkDirError, match=r"settings.base_lr: 0.01 -> 0.5"):
        done("--base-lr", "0.5")
    other = write_synthetic(tmp_path / "other_synthetic.npz", classes=4, train_per_class=6, test_per_class=3, frames=80, seed=4)
    with pytest.raises(WorkDirError, match=r"clips: \d+ -> \d+"):
        done(data=other)
    (done.folder / "a" / "encoder_seq.safetensors").unlink()
    save_file({"w": torch.zeros(2)}, done.folder / "a" / "encoder_seq.safetensors")
    record = json.loads((done.folder / "a.json").read_text())
    records.write_record(done.folder / "a.json", record["made_from"], ["a/encoder_seq.safetensors"], record["found"])
    with pytest.raises(WorkDirError, match=r"settings.init: \w+ -> \w+"):
        done()
    assert done("--force") == ["b"]


def test_published_figures_stand_beside_ours(tmp_path: Path) -> None:
    stages = (
        Stage("pretrain", "pretrain", "x"),
        Stage("judge", "judge", "x", "pretrain"),
        Stage("late", "semi", "x", "pretrain"),
    )
    of = Chain("isc", "made", stages, "About <it>.")
    found = {
        "results": [Result("linear", "isc", "last", (0.5,)).as_dict()], "collapse": {"verdict": "no collapse"},
        "published": [{"evaluation": "linear", "setting": "isc", "top1": 0.852, "source": "a paper", "rule": "best_on_test"}],
    }  # fmt: skip
    records.write_record(tmp_path / "judge.json", {}, [], found)
    records.write_record(tmp_path / "pretrain.json", {}, [], {"last": {"loss": 1.25}})
    text = chain_report.write(tmp_path, of)
    told = ["judge", "linear", "isc", "last", "50.00", "85.20", "best_on_test", "a", "paper"]
    assert text.splitlines()[1].split() == told
    page = (tmp_path / "report.html").read_text()
    for said in (
        "About &lt;it&gt;.",
        "85.20",
        "a paper",
        "loss 1.2500 in the last epoch",
        "judge: no collapse",
        "last: the last epoch",
    ):
        assert said in page
    record = json.loads((tmp_path / "report.json").read_text())
    assert records.is_sealed(record) and list(record["stages"]) == ["pretrain", "judge"]
