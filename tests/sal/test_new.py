"""`sal new` as a user meets it: the model that it writes passes every contract, trains, and is described by measured figures."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine import models
from engine.errors import ConfigError
from sal import new as sal_new
from sal import verbs
from shared_data.atomic import WriteError
from shared_data.errors import LabError
from tests.orchestrator.test_dockerfiles import faults

ROOT = Path(__file__).resolve().parents[2]
LONGEST = "a_model_with_quite_a_long_name_1"


def scaffolded(home: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models folder in which `sal new NAME` was called."""
    monkeypatch.setenv(models.MODELS_VARIABLE, str(home / "models"))
    assert verbs.typed(sal_new.new, "new")([name]) == 0
    return home / "models"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder that holds the model `toy` and nothing else."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return scaffolded(tmp_path_factory.mktemp("new"), "toy", monkeypatch)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A Python command in the repository that sees the models of `folder` only."""
    environment = {**os.environ, models.MODELS_VARIABLE: str(folder)}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, timeout=600, env=environment, cwd=ROOT
    )


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_one_folder_and_one_dockerfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    scaffolded(tmp_path, "toy", monkeypatch)
    assert tree(tmp_path) == [
        "dockerfiles/toy.Dockerfile", "models/toy/README.md", "models/toy/__init__.py", "models/toy/main.py",
        "models/toy/model.toml", "models/toy/network.py", "models/toy/recipes/smoke.yaml", "models/toy/recipes/tiny_cpu.yaml",
        "models/toy/requirements.txt",
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["toy"]  # nothing of the making is left


def test_it_passes_every_contract(toy: Path) -> None:
    done = run(toy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract/test_models.py", "-k", "toy")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    contracts = set(re.findall(r"^def (test_\w+)\(name", (ROOT / "tests/contract/test_models.py").read_text(), re.MULTILINE))
    passed = re.search(r"^(\d+) passed", done.stdout.splitlines()[-1])
    assert passed and int(passed[1]) >= len(contracts) > 10, done.stdout[-2000:]
    assert "skipped" not in done.stdout and "failed" not in done.stdout


def test_it_trains_an_epoch(toy: Path, tiny_data: Path, tmp_path: Path) -> None:
    flags = ("--data", str(tiny_data), "--device", "cpu", "--work-dir", str(tmp_path / "run"))
    done = run(toy, "-m", "sal", "train", "toy", "--recipe", "smoke", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["model"], metrics["recipe"], metrics["num_classes"]) == ("toy", "smoke", 4)
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file() and (tmp_path / "run" / "report.html").is_file()


def test_its_smoke_test_passes(toy: Path) -> None:
    done = run(toy, "smoke_tests/smoke.py", "--model", "toy")
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and all(result["assertions"].values()), result


def test_the_planner_and_the_list_know_it(toy: Path) -> None:
    done = run(toy, "-m", "sal", "models", "--json")
    assert list(json.loads(done.stdout)) == ["toy"]
    done = run(toy, "-m", "sal", "plan", "toy")
    assert done.returncode == 0 and done.stdout.count("comfortable ") == 2, done.stdout + done.stderr


def test_figures_are_measured_on_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another network in the templates gets figures of its own, and they are right."""
    figures = {}
    for width in (32, 12):
        templates = tmp_path / f"templates{width}"
        shutil.copytree(sal_new.TEMPLATES, templates)
        network = templates / "model" / "network.py.template"
        network.write_text(network.read_text().replace("width: int = 32", f"width: int = {width}"))
        monkeypatch.setattr(sal_new, "TEMPLATES", templates)
        scaffolded(tmp_path / str(width), "toy", monkeypatch)
        toml = models.find("toy").toml
        built = models.build(models.find("toy"), num_classes=60, skeleton="ntu25", people=2)
        assert toml["expect"][0]["parameters"] == toml["smoke"]["parameters"] == sum(p.numel() for p in built.parameters())
        figures[width] = (toml["expect"][0]["parameters"], toml["expect"][0]["gflops"], toml["smoke"]["loss"])
    assert all(wide > narrow for wide, narrow in zip(figures[32][:2], figures[12][:2], strict=True))
    assert figures[32][2] != figures[12][2]


def test_any_skeleton_and_people(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv(models.MODELS_VARIABLE, str(toy))
    for name, joints in (("ucla20", 20), ("coco17", 17)):
        network = models.build(models.find("toy"), num_classes=5, skeleton=name, people=1, width=4)
        assert network(torch.randn(2, 3, 9, joints, 1)).shape == (2, 5)
    with pytest.raises(LabError, match=r"expected: \(N, 3, T, 17, 1\)"):
        network(torch.randn(2, 3, 9, 25, 2))
    with pytest.raises(LabError, match="width is 0"):
        models.build(models.find("toy"), num_classes=5, skeleton="ntu25", people=2, width=0)


def test_its_dockerfile_is_that_of_every_model(toy: Path) -> None:
    text = (toy.parent / "dockerfiles" / "toy.Dockerfile").read_text()
    assert faults(text) == []
    pattern = (ROOT / "dockerfiles" / "ctrgcn.Dockerfile").read_text()
    assert text == pattern.replace("ctrgcn", "toy").replace("CTR-GCN", "toy")


@pytest.mark.parametrize("name", ["x", LONGEST])
def test_what_is_written_is_lint_free(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = scaffolded(tmp_path, name, monkeypatch) / name
    for file in folder.rglob("*.py"):
        place = f"models/{name}/{file.name}"
        for task in (("check",), ("format", "--check")):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *task, "--stdin-filename", place, "-"],
                input=file.read_text(), capture_output=True, text=True, check=False, cwd=ROOT,
            )  # fmt: skip
            assert done.returncode == 0, f"{file.name}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "cannot be called ''"), ("2s_agcn", "my_gcn"), ("my-gcn", "my_gcn"), ("MyGCN", "my_gcn"), ("../x", "my_gcn"),
        ("a b", "my_gcn"), ("toy\n", "my_gcn"), ("été", "my_gcn"), (LONGEST + "x", "at most 31"), ("class", "a word of Python"),
        ("base", "the image that all models share"),
    ],
)  # fmt: skip
def test_names_that_no_model_can_have(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(models.MODELS_VARIABLE, str(tmp_path / "models"))
    with pytest.raises(ConfigError, match=re.escape(said)):
        sal_new.new(name)
    assert not list(tmp_path.iterdir())


def test_what_exists_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(models.MODELS_VARIABLE, str(tmp_path / "models"))
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "dockerfiles").mkdir()
    (tmp_path / "dockerfiles" / "imaged.Dockerfile").write_text("FROM x\n")
    (tmp_path / "models" / "linked").symlink_to(tmp_path / "nowhere")
    for name in ("mine", "imaged", "linked"):
        with pytest.raises(ConfigError, match="exists already"):
            sal_new.new(name)
    assert tree(tmp_path) == ["dockerfiles/imaged.Dockerfile"]
    assert not (tmp_path / "nowhere").exists()


def test_both_or_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that cannot be measured, or a disk that refuses, leaves nothing behind."""
    monkeypatch.setenv(models.MODELS_VARIABLE, str(tmp_path / "models"))
    templates = tmp_path / "templates"
    shutil.copytree(sal_new.TEMPLATES, templates)
    with monkeypatch.context() as broken:
        broken.setattr(sal_new, "TEMPLATES", templates)
        (templates / "model" / "network.py.template").write_text("raise ZeroDivisionError\n")
        with pytest.raises(ZeroDivisionError):
            sal_new.new("toy")
    assert tree(tmp_path / "models") == ["__init__.py"] and not list((tmp_path / "dockerfiles").iterdir())

    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if self.suffix == ".Dockerfile":
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    with monkeypatch.context() as refusing:
        refusing.setattr(Path, "rename", full)
        with pytest.raises(WriteError, match="No space left on device") as caught:
            sal_new.new("toy")
    assert caught.value.exit_code == 74 and "toy.Dockerfile" in str(caught.value)
    assert tree(tmp_path / "models") == ["__init__.py"] and not list((tmp_path / "dockerfiles").iterdir())
    assert len(list((tmp_path / "models").iterdir())) == 1
    assert sal_new.new("toy") == 0  # the same command, once the disk is mended
