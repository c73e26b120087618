"""`check_gpu.py` and `benchmark_models.py` as a user runs them, on a machine without a GPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from engine import models
from engine.errors import ConfigError

FOLDER = models.find("baselines").folder
WITHOUT_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def script(name: str, *flags: str, folder: Path = FOLDER, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / name), *flags]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={**WITHOUT_GPU, **environment}, cwd=folder
    )


def test_check_gpu_without_a_gpu() -> None:
    done = script("check_gpu.py")
    assert done.returncode == 0, done.stderr
    assert "CUDA available: no" in done.stdout and "GPUs:           0" in done.stdout
    import torch

    assert f"torch:          {torch.__version__}" in done.stdout
    assert "next:" in done.stdout  # why there is none, and what to do


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A script as a module; it may set its own `sys.path[0]`, which is put back."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda name: models.import_module(models.find("baselines"), name)


def test_check_gpu_with_one(
    imported: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_gpu = imported("check_gpu")
    gpu = {"name": "Some GPU", "memory_gib": 8.0, "capability": "8.6"}
    machine = {"torch": "2.3.1", "cuda": "12.1", "cudnn": 8902, "gpus": [gpu]}
    monkeypatch.setattr(check_gpu, "describe", lambda: machine)
    monkeypatch.setattr(check_gpu, "findings", list)
    assert check_gpu.main() == 0
    said = capsys.readouterr().out
    assert all(words in said for words in ("2.3.1", "12.1", "8902", "CUDA available: yes", "0: Some GPU, 8.0 GiB", "8.6"))


def test_benchmark_as_a_table(
    imported: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    flags = ["--model", "baselines", "--steps", "1", "--batch-size", "2", "--seq_len", "8", "--device", "cpu"]
    assert imported("benchmark_models").benchmark(flags) == 0
    said = capsys.readouterr().out
    assert "baselines stgcn" in said and "baselines mlp" in said
    assert "514,298" in said and "466,492" in said


def test_benchmark_as_json() -> None:
    done = script(
        "benchmark_models.py", "--model", "baselines", "--steps", "2", "--batch-size", "2", "--seq-len", "8", "--device", "cpu",
        "--amp", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert (result["precision"], result["steps"], result["device"]) == ("bf16", 2, "cpu")
    assert [row["model_args"]["architecture"] for row in result["rows"]] == ["stgcn", "mlp"]
    for row in result["rows"]:
        assert row["ms_per_step"] > 0 and row["window"] == 8 and row["batch"] == 2
        assert row["clips_per_s"] == pytest.approx(2000 / row["ms_per_step"], rel=0.01)
        assert row["peak_mib"] is None and row["problem"] == ""


def test_a_broken_model_does_not_hide_the_others(tmp_path: Path) -> None:
    """Two models, one of which raises in its forward pass: its row says so, the other has figures, the exit code is 1."""
    for name in ("baselines", "broken"):
        shutil.copytree(FOLDER, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (tmp_path / name).rglob("*.*"):
            if file.suffix in (".py", ".toml", ".yaml"):
                text = file.read_text().replace("models.baselines", f"models.{name}")
                file.write_text(text.replace("model: baselines", f"model: {name}"))
    network = tmp_path / "broken" / "network.py"
    network.write_text(network.read_text().replace("return self.network(x)", 'raise ValueError("planted fault")'))
    flags = ("--steps", "1", "--batch-size", "2", "--seq-len", "8", "--device", "cpu", "--json")
    done = script("benchmark_models.py", *flags, SAL_MODELS=str(tmp_path))
    assert done.returncode == 1, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(row["model"], row["problem"]) for row in rows] == [("baselines", "")] * 2 + [("broken", "planted fault")] * 2
    assert all((row["ms_per_step"] is None) == bool(row["problem"]) for row in rows)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model", "ctrgnc"), "did you mean ctrgcn?"),
        (("--stebs", "3"), "did you mean --steps?"),
        (("--steps", "0"), "steps is 0"),
        (("--seq-len", "-1"), "seq_len is -1"),
    ],
)
def test_wrong_words(imported: Callable[[str], ModuleType], flags: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        imported("benchmark_models").benchmark(flags)


def test_no_gpu_leaves_with_2() -> None:
    done = script("benchmark_models.py", "--device", "cuda:0")
    assert done.returncode == 2 and "error: no GPU 0" in done.stderr
