"""`sal train --fit` and `main.py --fit`, from the command line to the run folder, and what a full GPU is answered with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from engine.config import RunConfig, parse
from engine.errors import OutOfMemoryError
from planner import fit as fitting
from sal.__main__ import main
from sal.train import given


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
    """A GPU of 1.38 GiB, with batches that do not fit it, planned for on a CPU and trained there."""
    folder = tmp_path / "run"
    flags = [*quick, "--data", str(tiny_data), "--work-dir", str(folder), "--num-epoch", "1", "--batch-size", "24"]
    done = run_main(*flags, "--fit", "1.38GiB")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fit: --" in done.stdout and "predicted before" in done.stdout
    record, saved = json.loads((folder / "fit.json").read_text()), yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["fit"] == "1.38GiB"
    assert (saved["batch_size"], saved["test_batch_size"]) == (24, 12)  # given by the user
    chosen = {lever["setting"]: lever["value"] for lever in record["levers"]}
    assert chosen and all(str(saved[key]) == value for key, value in chosen.items())
    assert record["predicted_mib"]["after"]["train"] <= record["room_mib"] < record["predicted_mib"]["before"]["train"]
    again = run_main(*flags, "--fit", "1.38GiB")
    assert again.returncode == 0 and "resuming" in again.stdout, again.stdout + again.stderr
    other = run_main(*flags, "--fit", "1.38GiB", "--precision", "fp32", "--forward-batch-size", "1")
    assert other.returncode == 73 and "forward_batch_size" in other.stderr, other.stdout + other.stderr
    assert json.loads((folder / "fit.json").read_text()) == record


def test_what_cannot_fit_leaves_with_76_and_no_folder(
    run_main: Callable[..., subprocess.CompletedProcess[str]], quick: list[str], tiny_data: Path, tmp_path: Path
) -> None:
    flags = ["--data", str(tiny_data), "--work-dir", str(tmp_path / "run"), "--fit", "1.26GiB", "--recompute", "none"]
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
    from engine.train import Trainer

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

    assert main([*flags, "--fit", "1.38GiB"]) == 0
    begun, record = settings(), (tmp_path / "fit.json").read_text()
    assert begun["test_batch_size"] != parse(["--recipe", "tiny_cpu"], model="ctrgcn").test_batch_size
    assert "with which this run was begun" not in capsys.readouterr().out
    assert main(flags) == 0
    assert "--fit 1.38GiB, with which this run was begun" in capsys.readouterr().out
    assert (settings(), (tmp_path / "fit.json").read_text()) == (begun, record)


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


@pytest.mark.parametrize("recompute", ["auto", "blocks"])
def test_a_full_gpu_is_answered_with_fit_first(monkeypatch: pytest.MonkeyPatch, recompute: str) -> None:
    """No GPU is needed: the error is raised by hand, and so is the size of the GPU."""
    from engine import launch, train

    def full(config: RunConfig, console: object, keep: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    class Properties:
        total_memory = int(7.78 * 2**30)

    monkeypatch.setattr(train, "train", full)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    config = parse(["--recipe", "ntu60_xsub", "--device", "cuda", "--recompute", recompute], model="ctrgcn")
    with pytest.raises(OutOfMemoryError) as raised:
        launch.run(config)
    said = raised.value.next_step
    assert raised.value.exit_code == 75
    assert "--fit 7.7GiB" in said and "--forward-batch-size 32" in said
    assert said.index("--fit") < said.index("--forward-batch-size")
    if recompute == "auto":
        assert said.index("--recompute blocks") < said.index("--forward-batch-size")
    else:
        assert "--recompute" not in said
