"""`sal recipe`: every chain of every model can begin; one that is cut off anywhere ends with the record of one that was not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine import models
from engine.downstream import chain, judging
from engine.pretraining.step import PretrainStep
from engine.step import TrainStep
from sal import recipe
from sal.__main__ import main

CHAINS = [f"{card.name}/{name}" for card in models.discover().values() for name in chain.chains(card)]
NARROW = {
    "--max-clips": ["8"], "--train-window-size": ["16"], "--test-window-size": ["16"], "--device": ["cpu"], "--batch-size": ["4"],
    "--save-steps": ["1"], "--pretrain.objective-args.encoders": ["{seq: {width: 8, layers: 1}, graph: {width: 8}}"],
    "--pretrain.objective-args.moco_k": ["16"], "--judge.model-args.width": ["8"], "--judge.probe-epochs": ["2"],
    "--judge.probe-drops": ["1"], "--judge.k": ["1", "2"], "--finetune.model-args.width": ["8"],
}  # fmt: skip
"""`isc/smoke` in seconds: two steps of each training."""


def go(data: Path, folder: Path) -> int:
    words = [word for flag, values in NARROW.items() for word in (flag, *values)]
    return main(["recipe", "run", "isc/smoke", "--data", str(data), "--work-dir", str(folder), *words])


@pytest.fixture(scope="module")
def straight(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "chain"
    assert go(tiny_data, folder) == 0
    return folder


@pytest.mark.parametrize("title", CHAINS)
def test_every_stage_of_every_chain_is_a_command(title: str, tmp_path: Path) -> None:
    of = chain.find(title)
    assert of.about and len(of.stages) > 1 and of.stages[0].verb == "pretrain"
    for stage in of.stages:
        asked = recipe._asked(of, stage, [*stage.words(tmp_path), "--data", "F"])
        assert asked.config.work_dir == str(tmp_path / stage.name)
        if title.endswith("_full"):
            assert title.endswith(f"{asked.config.dataset}_{asked.config.split}_full")
            assert asked.wishes is None or judging.published(asked.config)


def test_self_supervised_models_have_a_full_and_a_smoke_chain() -> None:
    for card in models.discover().values():
        if "pretraining" in card.toml:
            assert "smoke" in chain.chains(card) and any(name.endswith("_full") for name in chain.chains(card)), card.name


def test_one_report_of_all_stages(straight: Path) -> None:
    record = json.loads((straight / "report.json").read_text())
    assert list(record["stages"]) == ["pretrain", "judge", "finetune"]
    evaluations = [row["evaluation"] for row in record["stages"]["judge"]["results"]]
    assert evaluations == ["linear", "linear", "k-NN", "k-NN"]
    assert record["stages"]["finetune"]["results"][0]["note"] == "epoch 1 of 1"
    assert {"pretrain", "judge", "finetune"} <= {file.name for file in straight.iterdir() if file.is_dir()}


def test_cut_off_in_any_stage_it_ends_with_the_same_record(
    straight: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second step of pretraining, in the evaluation, in the second step of fine-tuning, in one folder."""
    steps = {PretrainStep: 0, TrainStep: 0}

    def cut(kind: type, at: int) -> None:
        call = kind.__call__

        def counted(self, *given):  # type: ignore[no-untyped-def]
            steps[kind] += 1
            if steps[kind] == at:
                raise RuntimeError("cut off")
            return call(self, *given)

        monkeypatch.setattr(kind, "__call__", counted)

    cut(PretrainStep, 2)
    cut(TrainStep, 2)
    folder, knn = tmp_path / "chain", judging.evaluations.knn
    with pytest.raises(RuntimeError, match="cut off"):
        go(tiny_data, folder)
    assert not (folder / "pretrain.json").exists()

    def stopped(*_: object, **__: object) -> None:
        raise RuntimeError("cut off")

    monkeypatch.setattr(judging.evaluations, "knn", stopped)
    with pytest.raises(RuntimeError, match="cut off"):
        go(tiny_data, folder)
    assert (folder / "pretrain.json").exists() and not (folder / "judge.json").exists()
    monkeypatch.setattr(judging.evaluations, "knn", knn)
    with pytest.raises(RuntimeError, match="cut off"):
        go(tiny_data, folder)
    assert go(tiny_data, folder) == 0
    assert steps == {PretrainStep: 3, TrainStep: 3}  # two of each, and the one that was cut off
    assert (folder / "report.json").read_bytes() == (straight / "report.json").read_bytes()
    assert len(json.loads((folder / "report.json").read_text())["stages"]["pretrain"]["encoders"]) == 2  # their bits


def test_a_chain_that_is_done_only_reports(straight: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (straight / "report.json").read_bytes()
    assert go(tiny_data, straight) == 0
    out = capsys.readouterr().out
    assert out.count("done before") == 3 and "finetune  fine-tuned  all labels" in out
    assert (straight / "report.json").read_bytes() == before
    assert main(["recipe", "run", "isc/smoke", "--data", str(tiny_data), "--work-dir", str(straight)]) == 73
    assert "settings.batch_size: 4 -> 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ran"], "did you mean run?"),
        (["run"], "no chain named"),
        (["run", "isc/smok"], "did you mean smoke?"),
        (["run", "isc/smoke", "--data", "F", "--num-epok", "1"], "did you mean --num-epoch?"),
        (["run", "isc/smoke", "--data", "F", "--pretrain.num-epok", "1"], "did you mean --num-epoch?"),
    ],
)
def test_wrong_words_leave_with_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", *words]) == 2
    assert said in capsys.readouterr().err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "list"]) == 0
    out = capsys.readouterr().out
    assert all(f"{title}: " in out for title in CHAINS)
    assert main(["recipe", "list", "mamp"]) == 0
    assert "isc/" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("title", [title for title in CHAINS if title.endswith("/smoke")])
def test_smoke_chains_run_on_made_up_clips(title: str, tmp_path: Path) -> None:
    assert main(["recipe", "run", title, "--work-dir", str(tmp_path / "chain"), "--device", "cpu"]) == 0
    record = json.loads((tmp_path / "chain" / "report.json").read_text())
    assert len(record["stages"]) == len(chain.find(title).stages)
