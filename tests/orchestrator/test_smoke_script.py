"""What runs inside the images, run here: that it passes for a sound model and names what is wrong with an unsound one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import models
from smoke_tests import fingerprint, smoke

ROOT = Path(__file__).resolve().parents[2]
NAMES = list(models.discover())


@pytest.mark.parametrize("name", NAMES)
def test_the_network_of_every_model_holds_all_assertions(name, tmp_path):
    card = models.find(name)
    holds, figures = smoke.check_network(card, smoke.table(card), "cpu", tmp_path)
    assert len(holds) == 6 and all(holds.values()), (holds, figures)


@pytest.mark.parametrize(
    ("change", "assertion"),
    [
        ({"parameters": 1}, "parameter_count"),
        ({"loss": 4.0}, "loss_fingerprint"),
        ({"window": 33}, "loss_fingerprint"),
        ({"classes": 61}, "parameter_count"),
    ],
)
def test_a_wrong_expectation_is_seen(tmp_path, change, assertion):
    card = models.find("ctrgcn")
    holds, _ = smoke.check_network(card, dataclasses.replace(smoke.table(card), **change), "cpu", tmp_path)
    assert not holds[assertion]


def with_table(tmp_path: Path, edit) -> models.ModelCard:
    """The card of a copy of the model whose model.toml was edited."""
    card = models.find("ctrgcn")
    return dataclasses.replace(card, toml=edit({**card.toml, "smoke": dict(card.toml["smoke"])}), folder=tmp_path)


@pytest.mark.parametrize("key", ["classes", "loss", "recipe"])
def test_a_missing_key_is_named(tmp_path, key):
    def edit(toml):
        del toml["smoke"][key]
        return toml

    with pytest.raises(models.ModelError, match=key) as caught:
        smoke.table(with_table(tmp_path, edit))
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(("key", "value"), [("window", "64"), ("loss", "x"), ("losses", 1.0)])
def test_a_wrong_key_or_value_is_named(tmp_path, key, value):
    def edit(toml):
        toml["smoke"][key] = value
        return toml

    with pytest.raises(models.ModelError, match=key):
        smoke.table(with_table(tmp_path, edit))


def test_the_fingerprint_does_not_depend_on_torchs_generator():
    first, second = torch.nn.Linear(5, 4), torch.nn.Linear(5, 4)
    fingerprint.fill(first)
    torch.manual_seed(7)
    fingerprint.fill(second)
    assert torch.equal(first.weight, second.weight) and not torch.equal(first.weight[0], first.weight[1])
    # Philox of NumPy, by its documented stream: a change would silently void every recorded loss.
    assert fingerprint.numbers("weight", (3,)).tolist() == pytest.approx([-0.01862623, -0.0840217, -0.32271919], abs=1e-7)


def run(model: str, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "smoke_tests/smoke.py", "--model", model, *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})


def test_the_whole_script_on_a_real_file(tiny_data):
    done = run("ctrgcn", "--data", str(tiny_data))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kind"] == "smoke_result" and result["assertions"]["trains"] and result["assertions"]["trains_on_data"]
    assert result["peak_rss_bytes"] > 2**26 and result["versions"]["torch"] == torch.__version__


def test_a_main_that_fails_fails_the_test(tmp_path):
    """A model whose network is sound but whose command line is not."""
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "models/ctrgcn/main.py").write_text("import sys\n\nsys.exit(2)\n")
    done = run("ctrgcn", SAL_MODELS=str(tmp_path / "models"))
    assert done.returncode == 1
    assert "main.py ended with exit code 2" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["assertions"]["trains"] is False


@pytest.mark.parametrize(
    ("model", "argv", "word", "code"),
    [("ctrgc", [], "ctrgcn", 2), ("ctrgcn", ["--data", "/nowhere.npz"], "/nowhere.npz", 66)],
)
def test_wrong_arguments(model, argv, word, code):
    done = run(model, *argv)
    assert done.returncode == code
    assert word in done.stderr and "Traceback" not in done.stderr
