"""`sal train --fit` and `main.py --fit`, from the command line to the run folder, and what a full GPU is answered with."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine import checkpoint, evaluate, memory, models, step
from engine.config import parse
from engine.errors import OutOfMemoryError
from engine.runfolder import CALIBRATION_ROW, read_log
from engine.segmentation.trained import as_trained
from engine.train import Trainer
from planner import fit as fitting
from planner.card import calibration
from planner.card.budget import Budget
from planner.costs import asked_of, costs_of
from planner.fit import size_of_data
from sal.__main__ import main
from sal.train import _verb as verb_of
from sal.train import given
from shared_data.sequence_store import write_sequences
from shared_data.synthetic_sequences import synthetic_sequences

LITTLE, NEXT_TO_NOTHING = (f"{Budget(8).card_for(mib):.3f}GiB" for mib in (122, 10))
"""GPUs on which so many MiB of tensors fit."""


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["--precision", "bf16", "--batch-size=8"], {"precision", "batch_size"}),
        (["--recompu", "blocks"], {"recompute"}),  # the parser takes it
        (["--model-args.width", "3", "--step", "35", "55"], {"model_args", "step"}),
        (["--config", "x.yaml", "--"], set()),
        (["--memory-friendly"], {"memory_friendly"}),
    ],
)
def test_what_a_command_line_sets_itself(words: list[str], keys: set[str]) -> None:
    assert given(words) == keys


def test_main_fits_trains_records_and_resumes(
    run_main: Callable[..., subprocess.CompletedProcess[str]], quick: list[str], tiny_data: Path, tmp_path: Path
) -> None:
    """A small GPU, with batches that do not fit it, planned for on a CPU and trained there."""
    folder = tmp_path / "run"
    flags = [*quick, "--data", str(tiny_data), "--work-dir", str(folder), "--num-epoch", "1", "--batch-size", "24"]
    done = run_main(*flags, "--fit", LITTLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fit: --" in done.stdout and "predicted before" in done.stdout
    record, saved = json.loads((folder / "fit.json").read_text()), yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["fit"] == LITTLE
    assert (saved["batch_size"], saved["test_batch_size"]) == (24, 12)  # given by the user
    chosen = {lever["setting"]: lever["value"] for lever in record["levers"]}
    assert chosen and all(str(saved[key]) == value for key, value in chosen.items())
    assert record["predicted_mib"]["after"]["train"] <= record["room_mib"] < record["predicted_mib"]["before"]["train"]
    again = run_main(*flags, "--fit", LITTLE)
    assert again.returncode == 0 and "resuming" in again.stdout, again.stdout + again.stderr
    other = run_main(*flags, "--fit", LITTLE, "--precision", "fp32", "--forward-batch-size", "1")
    assert other.returncode == 73 and "forward_batch_size" in other.stderr, other.stdout + other.stderr
    assert json.loads((folder / "fit.json").read_text()) == record


def test_what_cannot_fit_leaves_with_76_and_no_folder(
    run_main: Callable[..., subprocess.CompletedProcess[str]], quick: list[str], tiny_data: Path, tmp_path: Path
) -> None:
    flags = ["--data", str(tiny_data), "--work-dir", str(tmp_path / "run"), "--fit", NEXT_TO_NOTHING, "--recompute", "none"]
    done = run_main(*quick, *flags, "--precision", "fp32", "--forward-batch-size", "4", "--test-batch-size", "12")
    assert done.returncode == 76, done.stdout + done.stderr
    assert "nearest: the settings as they are" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture
def flags(quick: list[str], tiny_data: Path, tmp_path: Path) -> list[str]:
    """`sal train` into `tmp_path`, for seconds; the size of the evaluation is left to `--fit`."""
    at = quick.index("--test-batch-size")
    rest = [*quick[:at], *quick[at + 2 :], "--data", str(tiny_data), "--work-dir", str(tmp_path)]
    return ["train", "ctrgcn", *rest, "--num-epoch", "1", "--max-clips", "8"]


def test_what_was_fitted_is_kept_before_the_first_step(monkeypatch: pytest.MonkeyPatch, flags: list[str], tmp_path: Path) -> None:
    """A process that is killed has no end at which to write."""

    class Killed(BaseException):
        pass

    found = []

    def run(trainer: Trainer) -> None:
        found.append(json.loads((tmp_path / "fit.json").read_text())["fit"])
        raise Killed

    monkeypatch.setattr(Trainer, "run", run)
    for size in ("8GiB", "7GiB"):  # started, gone on with
        with pytest.raises(Killed):
            main([*flags, "--fit", size])
    assert found == ["8GiB", "7GiB"]


def test_a_resumed_run_is_fitted_as_it_was_begun(capsys: pytest.CaptureFixture[str], flags: list[str], tmp_path: Path) -> None:
    def settings() -> dict[str, object]:
        return dict(yaml.safe_load((tmp_path / "config.yaml").read_text()))

    assert main([*flags, "--fit", LITTLE]) == 0
    begun, record = settings(), (tmp_path / "fit.json").read_text()
    assert begun["test_batch_size"] != parse(["--recipe", "tiny_cpu"], model="ctrgcn").test_batch_size
    assert "with which this run was begun" not in capsys.readouterr().out
    assert main(flags) == 0
    assert f"--fit {LITTLE}, with which this run was begun" in capsys.readouterr().out
    assert (settings(), (tmp_path / "fit.json").read_text()) == (begun, record)


@pytest.mark.slow
def test_a_resumed_run_may_have_another_fit_or_none(capsys: pytest.CaptureFixture[str], flags: list[str], tmp_path: Path) -> None:
    assert main([*flags, "--fit", "8"]) == 0
    assert main([*flags, "--fit", "7"]) == 0
    assert json.loads((tmp_path / "fit.json").read_text())["fit"] == "7"
    assert main([*flags, "--fit", ""]) == 0
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["fit"] == ""
    assert "with which this run was begun" not in capsys.readouterr().out


def test_a_record_does_not_outlive_the_run(capsys: pytest.CaptureFixture[str], flags: list[str], tmp_path: Path) -> None:
    assert main([*flags, "--fit", "8"]) == 0
    assert "nothing to change" in capsys.readouterr().out
    assert main([*flags, "--resume", "never", "--force"]) == 0
    assert not (tmp_path / "fit.json").exists()
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["fit"] == ""


@pytest.mark.slow
def test_a_test_run_keeps_its_own_record(flags: list[str], tmp_path: Path) -> None:
    assert main(flags) == 0
    test = ["test", *flags[1:], "--weights", str(tmp_path / "checkpoints/best.safetensors")]
    test[test.index("--work-dir") + 1] = str(tmp_path / "test")
    assert main([*test, "--fit", "8"]) == 0
    assert json.loads((tmp_path / "test/fit.json").read_text())["predicted_mib"]["after"]["train"] == 0
    assert main(test) == 0
    assert not (tmp_path / "test/fit.json").exists()


def test_the_documents_name_the_code() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/exit-codes.md").read_text()
    assert f"| {fitting.DoesNotFit.exit_code} | `--fit`" in text


def put_gpu(monkeypatch: pytest.MonkeyPatch, gib: float, *allocated: float) -> None:
    """A GPU in the CPU's place, on which steps take as much as `allocated` says, one figure (MiB) for each question."""
    figures = list(allocated)

    def peaks(device: torch.device) -> dict[str, float]:
        peak = figures.pop(0) if figures else 1.0
        return {"peak_allocated_mib": peak, "peak_reserved_mib": 1.5 * peak, "rss_mib": 1.0}

    monkeypatch.setattr(memory, "counted", lambda device: True)
    monkeypatch.setattr(memory, "gpu", lambda device: memory.Gpu("Planted 1000", int(gib * 2**30), 0))
    monkeypatch.setattr(memory, "peaks", peaks)


def events(folder: Path, name: str) -> list[dict[str, object]]:
    return [event for event in read_log(folder / "log.jsonl") if event["event"] == name]


def last_state(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / "checkpoints/last.safetensors")[0]


def test_a_run_is_held_against_its_prediction_and_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], tmp_path: Path
) -> None:
    elsewhere = list(flags)
    elsewhere[elsewhere.index("--work-dir") + 1] = str(tmp_path / "plain")
    flags[flags.index("--work-dir") + 1] = str(tmp_path / "run")
    assert main([*elsewhere, "--recompute", "none"]) == 0
    assert not events(tmp_path / "plain", "memory")
    plain = last_state(tmp_path / "plain")
    monkeypatch.setenv("SAL_CALIBRATION", str(tmp_path / "none.csv"))
    put_gpu(monkeypatch, 8, 5000.0)
    assert main([*flags, "--recompute", "none"]) == 0
    said, folder = capsys.readouterr().out, tmp_path / "run"
    assert "warning: a step takes 4.88 GiB of GPU memory" in said and "sal calibrate" in said
    (event,) = events(folder, "memory")
    assert (event["step"], event["peak_allocated_mib"]) == (2, 5000.0)
    (row,) = calibration.read(folder / CALIBRATION_ROW)
    assert calibration.as_csv(row) in said
    assert row.workspace_mib == pytest.approx(5000 - float(str(event["predicted_tensors_mib"])), abs=0.1)
    again = last_state(folder)
    assert [name for name in plain if not torch.equal(plain[name], again[name])] == []


@pytest.mark.slow
def test_a_resumed_run_is_compared_too_and_a_good_prediction_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], tmp_path: Path
) -> None:
    def stop(trainer: Trainer) -> None:
        close(trainer)
        if trainer.epoch == 1:
            trainer.world.wish(signal.SIGTERM, None)

    close = Trainer.close_epoch
    words = [*flags, "--num-epoch", "2"]
    monkeypatch.setenv("SAL_CALIBRATION", str(tmp_path / "none.csv"))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "close_epoch", stop)
        put_gpu(patch, 8, 5000.0)
        assert main(words) == 143
        (event,) = events(tmp_path, "memory")
        assert (tmp_path / CALIBRATION_ROW).exists()
    capsys.readouterr()
    put_gpu(monkeypatch, 8, float(str(event["predicted_allocated_mib"])) * 1.05)
    assert main(words) == 0
    assert [e["step"] for e in events(tmp_path, "memory")] == [2, 4]
    assert "warning" not in capsys.readouterr().out
    assert not (tmp_path / CALIBRATION_ROW).exists()
    assert main(words) == 0  # finished: nothing is predicted or compared
    assert len(events(tmp_path, "memory")) == 2


def test_no_prediction_is_one_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], tmp_path: Path
) -> None:
    put_gpu(monkeypatch, 8, 5000.0)
    assert main([*flags, "--augment-on", "device"]) == 0
    said = capsys.readouterr().out
    assert said.count("not predicted") == 1 and "warning" not in said
    (event,) = events(tmp_path, "memory")
    assert event["peak_allocated_mib"] == 5000.0 and "predicted_allocated_mib" not in event


def full(*tensors: object, **__: object) -> torch.Tensor:
    """A GPU that has no room for a tensor with values; a prediction goes on."""
    if any(isinstance(tensor, torch.Tensor) and tensor.device.type == "meta" for tensor in tensors):
        return step.forward(*tensors)  # type: ignore[arg-type]
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def command_of(said: str) -> list[str]:
    """The words of the command that a message names as the next step."""
    (line,) = [line for line in said.splitlines() if line.startswith("  next:")]
    return shlex.split(line.removeprefix("  next:"))


@pytest.mark.parametrize("fit", ["", pytest.param("7GiB", marks=pytest.mark.slow)])
def test_a_full_gpu_is_answered_with_the_command_that_is_predicted_to_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], tmp_path: Path, fit: str
) -> None:
    """At the very first step, on a GPU that is too small for the batch; the command itself goes on with the run."""
    monkeypatch.setenv("SAL_CALIBRATION", str(tmp_path / "none.csv"))
    words = [*flags, "--batch-size", "8", *(["--fit", fit] if fit else [])]
    with monkeypatch.context() as patch:
        put_gpu(patch, Budget(8).card_for(60) - 0.25)
        patch.setattr(Trainer, "train_epoch", full)
        assert main(words) == 75
    said = capsys.readouterr().err
    assert "where:    training" in said and "predicted: training" in said
    assert "nvidia-smi" not in said
    named = command_of(said)
    assert named[: len(words) + 1] == ["sal", *words]
    config = parse(named[3:], model="ctrgcn")
    asked = asked_of(config)
    costs = costs_of(models.find("ctrgcn"), config, size_of_data(config))
    assert max(costs.train(asked), costs.evaluation(asked)) <= 60 < costs.train(asked_of(parse(words[2:], model="ctrgcn")))
    assert config.fit == ""
    assert main(named[1:]) == 0
    assert "goes on at epoch 1, step 0" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["pretrain mamp", "segment train lasa"])
def test_so_is_one_that_learns_something_else(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
    verb: str,
) -> None:
    monkeypatch.setenv("SAL_CALIBRATION", str(tmp_path / "none.csv"))
    data, size, stage = tiny_data, "8", "pretrain"
    if verb.startswith("segment"):
        data, size, stage = write_sequences(synthetic_sequences(classes=3, train=4, test=2), tmp_path / "s.h5"), "4", "segment"
    flags = ["--recipe", "smoke", "--data", str(data), "--device", "cpu", "--batch-size", size, "--num-epoch", "1"]
    flags += ["--work-dir", str(tmp_path / "run")]
    words, model = [*verb.split(), *flags], verb.rsplit(maxsplit=1)[-1]

    def peak(given: list[str]) -> float:
        config = parse(given, model=model, stage=stage)
        costs = costs_of(models.find_for(model, stage), config, size_of_data(config))
        return max(costs.train(asked_of(config)), costs.evaluation(asked_of(config)))

    asked = peak(flags)
    with monkeypatch.context() as patch:
        put_gpu(patch, Budget(8).card_for(0.9 * asked) - 0.25)
        patch.setattr(Trainer, "train_epoch", full)
        assert main(words) == 75
    said = capsys.readouterr().err
    named = command_of(said)
    assert named[: len(words) + 1] == ["sal", *words] and "predicted: training" in said
    assert peak(named[len(words) - len(flags) + 1 :]) <= 0.9 * asked
    assert main(named[1:]) == 0


def test_a_tested_network_is_reckoned_with_as_its_weights_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The words of the command say nothing of its sizes, nor of the recipe."""
    monkeypatch.setenv("SAL_CALIBRATION", str(tmp_path / "none.csv"))
    data = write_sequences(synthetic_sequences(classes=3, train=4, test=2), tmp_path / "s.h5")
    words = ["--data", str(data), "--device", "cpu", "--work-dir"]
    recipe = ["--recipe", "smoke", "--num-epoch", "1"]
    assert main(["segment", "train", "usdrl", *recipe, *words, str(tmp_path / "run")]) == 0
    weights = tmp_path / "run/checkpoints/best.safetensors"
    tested = ["--weights", str(weights), "--test-batch-size", "4096", *words, str(tmp_path / "tested")]
    config = as_trained(parse(tested, model="usdrl", stage="segment", phase="test"))
    costs = costs_of(models.find("usdrl"), config, size_of_data(config))

    def full_gpu(*_: object, **__: object) -> int:
        raise OutOfMemoryError("full", part=memory.EVALUATION)

    with monkeypatch.context() as patch:
        put_gpu(patch, Budget(8).card_for(0.97 * costs.evaluation(asked_of(config))) - 0.25)
        patch.setattr("sal.train.run", full_gpu)
        assert main(["segment", "test", "usdrl", *tested]) == 75
    said = capsys.readouterr().err
    named = command_of(said)
    assert named[: len(tested) + 4] == ["sal", "segment", "test", "usdrl", *tested], said
    fitting = as_trained(parse(named[4:], model="usdrl", stage="segment", phase="test"))
    assert costs.evaluation(asked_of(fitting)) <= 0.97 * costs.evaluation(asked_of(config))
    assert main(named[1:]) == 0


@pytest.mark.parametrize(
    ("stage", "phase", "prog", "verb"),
    [
        ("supervised", "train", "python3 main.py", "python3 main.py"),
        ("supervised", "test", "sal test MODEL", "sal test mamp"),
        ("supervised", "train", "sal demo", "sal train mamp"),
        ("supervised", "train", "python3 main_finetune.py", "sal train mamp"),
        ("tune", "train", "python3 main.py pretrain_clrtuning", "sal tune mamp"),
        ("segment", "test", "python3 action_segmentation.py", "sal segment test mamp"),
    ],
)
def test_the_command_that_is_named_takes_the_words_that_were_understood(stage: Any, phase: str, prog: str, verb: str) -> None:
    """The official scripts translate theirs, and would not take them again."""
    assert " ".join(verb_of(parse([], model="mamp", stage=stage, phase=phase), prog, "mamp")) == verb


def test_steps_without_labels_are_held_against_their_prediction(
    monkeypatch: pytest.MonkeyPatch, tiny_data: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAL_CALIBRATION", str(tmp_path / "none.csv"))
    put_gpu(monkeypatch, 8, 5000.0)
    words = ["--recipe", "smoke", "--data", str(tiny_data), "--device", "cpu", "--batch-size", "8", "--num-epoch", "1"]
    assert main(["pretrain", "mamp", *words, "--work-dir", str(tmp_path / "run")]) == 0
    (event,) = events(tmp_path / "run", "memory")
    assert event["step"] == 2 and 0 < float(str(event["predicted_tensors_mib"])) < 5000


def test_an_evaluation_that_does_not_fit_is_answered_with_a_size_that_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SAL_CALIBRATION", str(tmp_path / "none.csv"))
    words = [*flags, "--test-batch-size", "4096"]
    with monkeypatch.context() as patch:
        put_gpu(patch, 7.75)
        patch.setattr(evaluate, "forward", full)
        assert main(words) == 75
    said = capsys.readouterr().err
    assert "evaluation, tried before the first step" in said
    named = command_of(said)
    assert named[-2] == "--test-batch-size" and int(named[-1]) < 4096
    assert {path.name for path in tmp_path.iterdir()} <= {".lock", "checkpoints"} and not [*tmp_path.rglob("*.safetensors")]
    assert main(named[1:]) == 0


def test_where_nothing_helps_the_nearest_settings_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SAL_CALIBRATION", str(tmp_path / "none.csv"))
    put_gpu(monkeypatch, Budget(8).card_for(2) - 0.25)
    monkeypatch.setattr(Trainer, "train_epoch", full)
    assert main(flags) == 75
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if "nothing is predicted to be enough; nearest: " in line]
    assert "--recompute blocks" in line and "GiB would do" in said
    assert "--fit" not in said and "a smaller --batch-size" in said


def test_where_nothing_can_be_predicted_the_list_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    put_gpu(monkeypatch, 4)
    monkeypatch.setattr(Trainer, "train_epoch", full)
    assert main([*flags, "--augment-on", "device"]) == 75
    said = capsys.readouterr().err
    assert "--forward-batch-size" in said and "--fit" not in said


def test_a_batch_that_the_data_cannot_fill_is_refused_before_its_fit_is_told(
    capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert main([*flags, "--batch-size", "400", "--fit", "64"]) == 2
    said = capsys.readouterr()
    assert "larger than the 8 training clips" in said.err and "fit:" not in said.out


def test_a_run_with_one_step_left_waits_for_no_prediction(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], tmp_path: Path
) -> None:
    put_gpu(monkeypatch, 8, 5000.0)
    monkeypatch.setattr("planner.expectation.expect", full)
    assert main([*flags, "--max-clips", "4"]) == 0
    assert not events(tmp_path, "memory")
