"""A run without labels, from the command line to its encoder, cut off and resumed, and what goes on from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from engine.pretraining.step import PretrainStep
from engine.runfolder import read_log
from sal.__main__ import main


def pretrain(data: Path, folder: Path, *more: str) -> int:
    return main(["pretrain", "planted_toy", "--recipe", "small", "--data", str(data), "--work-dir", str(folder), *more])


@pytest.fixture
def pretrained(toy: Path, tiny_data: Path, tmp_path: Path) -> Path:
    assert pretrain(tiny_data, tmp_path / "run") == 0
    return tmp_path / "run"


def test_a_run_leaves_its_encoder_and_says_how_it_went(pretrained: Path) -> None:
    with safe_open(pretrained / "encoder.safetensors", "pt") as file:
        about = json.loads(file.metadata()["about"])
        assert set(file.keys()) == {"linear.weight", "linear.bias"}
    assert (about["model"], about["model_args"], about["skeleton"], about["epoch"]) == ("planted_toy", {}, "ntu25", 3)
    log = list(read_log(pretrained / "log.jsonl"))
    steps, epochs = ([entry for entry in log if entry["event"] == word] for word in ("step", "epoch"))
    assert {"loss", "nce", "spread", "lr", "grad_norm"} <= set(steps[0]) and len(epochs) == 3
    metrics = json.loads((pretrained / "metrics.json").read_text())
    assert metrics["encoders"] == ["encoder.safetensors"] and metrics["last"]["epoch"] == 2
    state = load_file(pretrained / "checkpoints" / "last.safetensors")
    assert state["model/queue.ids"].min() >= 0 and not torch.equal(
        state["model/key.linear.weight"], state["model/query.linear.weight"]
    )


def test_a_report_is_written_at_the_end_and_again_when_asked_for(
    toy: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no step of an epoch is due to be logged: what the last step said is told all the same."""
    folder = tmp_path / "run"
    assert pretrain(tiny_data, folder, "--log-interval", "1000") == 0
    page = folder / "report.html"
    assert f"report: {page}" in capsys.readouterr().out
    first = page.read_text(encoding="utf-8")
    assert "Pretraining run, without labels" in first and "nce, epoch 3: " in first and "spread, epoch 1: " in first
    page.unlink()
    assert main(["report", str(folder)]) == 0
    assert page.read_text(encoding="utf-8") == first
    assert {"nce", "spread"} <= set(json.loads((folder / "metrics.json").read_text())["last"]["terms"])


def test_cut_off_anywhere_it_ends_with_the_same_bits(
    pretrained: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Momentum encoder, queue and ids included. Here a step raises; processes are killed in the slow tests."""
    call = PretrainStep.__call__
    for number in (2, 5, 8, 14):  # of 18 steps, 6 an epoch: before and after what an epoch leaves in the state
        steps = 0

        def counted(self, *given, number=number):  # type: ignore[no-untyped-def]
            nonlocal steps
            steps += 1
            if steps == number:
                raise RuntimeError("cut off")
            return call(self, *given)

        folder = tmp_path / f"cut_{number}"
        monkeypatch.setattr(PretrainStep, "__call__", counted)
        with pytest.raises(RuntimeError, match="cut off"):
            pretrain(tiny_data, folder, "--save-steps", "1")
        monkeypatch.setattr(PretrainStep, "__call__", call)
        assert pretrain(tiny_data, folder, "--save-steps", "1") == 0
        assert pretrain(tiny_data, folder, "--save-steps", "1") == 0  # a finished run is finished
        for name in ("encoder.safetensors", "checkpoints/last.safetensors"):
            ours, theirs = load_file(folder / name), load_file(pretrained / name)
            assert ours.keys() == theirs.keys()
            assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_objective_arguments_reach_the_objective_and_wrong_ones_are_refused(
    toy: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(tiny_data, tmp_path / "a", "--objective-args.queue", "5", "--num-epoch", "1") == 0
    assert load_file(tmp_path / "a" / "checkpoints" / "last.safetensors")["model/queue.ids"].shape == (5,)
    assert pretrain(tiny_data, tmp_path / "b", "--objective-args.queu", "5") == 2
    assert "objective_args" in capsys.readouterr().err
    assert pretrain(tiny_data, tmp_path / "c", "--weights", "x.safetensors") == 2


def test_tuning_goes_on_from_the_encoder(pretrained: Path, tiny_data: Path, tmp_path: Path) -> None:
    words = ["tune", "planted_toy", "--recipe", "small", "--data", str(tiny_data), "--work-dir", str(tmp_path / "tuned")]
    assert main(words) == 2  # no --init
    encoder = str(pretrained / "encoder.safetensors")
    assert main([*words, "--init", encoder, "--base-lr", "0"]) == 0
    ours, theirs = load_file(tmp_path / "tuned" / "encoder.safetensors"), load_file(encoder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_tuning_goes_on_from_the_whole_state_of_another_stage(pretrained: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Head and queues, too: STARS' third stage has those of its second."""
    words = ["tune", "planted_toy", "--recipe", "small", "--data", str(tiny_data), "--base-lr", "0"]
    encoder, last = str(pretrained / "encoder.safetensors"), Path("checkpoints") / "last.safetensors"
    assert main([*words, "--work-dir", str(tmp_path / "second"), "--init", encoder]) == 0
    assert main([*words, "--work-dir", str(tmp_path / "third"), "--init", str(tmp_path / "second" / last), "--seed", "9"]) == 0
    assert main([*words, "--work-dir", str(tmp_path / "fresh"), "--init", encoder, "--seed", "9"]) == 0
    second, third, fresh = (load_file(tmp_path / name / last)["model/projector.weight"] for name in ("second", "third", "fresh"))
    assert torch.equal(second, third) and not torch.equal(second, fresh)


def test_finetuning_starts_from_the_encoder_with_a_new_head(pretrained: Path, tiny_data: Path, tmp_path: Path) -> None:
    words = ["finetune", "planted_toy", "--recipe", "small", "--data", str(tiny_data), "--num-epoch", "1", "--nesterov", "false"]
    encoder = str(pretrained / "encoder.safetensors")
    assert main([*words, "--work-dir", str(tmp_path / "no")]) == 2
    # A decay of 0 from the head to the encoder: that stays what it was.
    flags = ["--init", encoder, "--layer-decay", "0", "--work-dir", str(tmp_path / "fine"), "--weight-decay", "0"]
    assert main([*words, *flags]) == 0
    tuned, theirs = load_file(tmp_path / "fine" / "checkpoints" / "best.safetensors"), load_file(encoder)
    assert all(torch.equal(tuned[f"encoder.{name}"], theirs[name]) for name in theirs)
    assert main([*words, "--init", encoder, "--work-dir", str(tmp_path / "all")]) == 0
    moved = load_file(tmp_path / "all" / "checkpoints" / "best.safetensors")
    assert not torch.equal(moved["encoder.linear.weight"], theirs["linear.weight"])


def test_a_model_without_an_objective_says_so(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "ctrgcn", "--recipe", "small", "--data", str(tiny_data)]) == 2
    assert "ctrgcn has nothing to pretrain with" in capsys.readouterr().err


def test_a_run_without_labels_is_fitted_to_a_gpu(
    toy: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is predicted, and cut into pieces, is the objective's own step."""
    assert pretrain(tiny_data, tmp_path / "run", "--fit", "8GiB", "--num-epoch", "1") == 0
    assert "fit: " in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert 0 < record["predicted_mib"]["after"]["train"] < record["room_mib"]
