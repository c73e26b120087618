"""What runs inside the images, run here: that it passes for a sound model and names what is wrong with an unsound one."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine import models
from engine.config import parse
from engine.zeroshot import losses
from engine.zeroshot.losses import Terms
from orchestrator.log import Log
from orchestrator.verdict import REQUIRED, VRAM_KEYS, Finished
from orchestrator.verdict import judge as judge_container
from planner.card import calibration
from planner.costs import asked_of, costs_of, size_of
from planner.verdict import judge
from shared_data.errors import UsageError
from smoke_tests import classifier, fingerprint, segmenter, smoke, vram, zeroshot

ROOT = Path(__file__).resolve().parents[2]
NAMES = list(models.discover(None))
SYSTEMS = list(models.discover("zeroshot"))
SEGMENTERS = list(models.discover("segmenter"))


@pytest.mark.parametrize("name", NAMES)
def test_the_network_of_every_model_holds_all_assertions(name, tmp_path):
    card = models.find(name, None)
    kind = smoke.kind_of(card)
    holds, figures = kind.check_network(card, kind.table(card), "cpu", tmp_path)
    assert holds.keys() == REQUIRED - {"trains"} and all(holds.values()), (holds, figures)


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
    holds, _ = classifier.check_network(card, dataclasses.replace(classifier.table(card), **change), "cpu", tmp_path)
    assert not holds[assertion]


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize(
    ("change", "assertion"),
    [
        ({"parameters": 1}, "parameter_count"),
        ({"unseen": 6}, "parameter_count"),
        ({"loss": 1.0}, "loss_fingerprint"),
        ({"batch": 9}, "loss_fingerprint"),
    ],
)
def test_a_wrong_expectation_of_a_zero_shot_system_is_seen(tmp_path, name, change, assertion):
    card = models.find(name, None)
    holds, _ = zeroshot.check_network(card, dataclasses.replace(zeroshot.table(card), **change), "cpu", tmp_path)
    assert not holds[assertion]


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("term", Terms._fields)
def test_the_loss_of_a_zero_shot_system_has_every_term(tmp_path, monkeypatch, name, term):
    card = models.find(name, None)
    whole = losses.terms
    monkeypatch.setattr(losses, "terms", lambda *a, **k: whole(*a, **k)._replace(**{term: torch.zeros((), requires_grad=True)}))
    holds, _ = zeroshot.check_network(card, zeroshot.table(card), "cpu", tmp_path)
    assert not holds["loss_fingerprint"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_loss_of_a_zero_shot_system_has_its_classifiers(tmp_path, monkeypatch, name):
    card = models.find(name, None)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda scores, labels: 0 * scores.sum())
    holds, _ = zeroshot.check_network(card, zeroshot.table(card), "cpu", tmp_path)
    assert not holds["loss_fingerprint"]


def test_a_missing_key_of_a_zero_shot_system_is_named():
    card = models.find("fsvae", None)
    table = {key: value for key, value in card.toml["smoke"].items() if key != "latent"}
    with pytest.raises(models.ModelError, match="latent"):
        zeroshot.table(dataclasses.replace(card, toml={**card.toml, "smoke": table}))


def results(folder: Path, *, model: str = "fsvae", harmonic: float = 0.5, phases: tuple[str, ...] = ("test", "val")) -> Path:
    """What a run leaves, as far as it is looked at."""
    row = {"seed": 5, "ZSL": 0.5, "S": 0.5, "U": 0.5, "H": harmonic}
    for phase in phases:
        networks = folder / "checkpoints/seed-5" / phase
        networks.mkdir(parents=True)
        (networks / "cycle-0.safetensors").touch()
    (folder / "results.json").write_text(json.dumps({"model": model, "seeds": [row]}))
    return folder


@pytest.mark.parametrize(
    ("wrong", "holds"),
    [({}, True), ({"model": "other"}, False), ({"harmonic": math.nan}, False), ({"harmonic": 1.5}, False),
     ({"phases": ("test",)}, False)],
)  # fmt: skip
def test_what_a_zero_shot_run_must_leave(tmp_path, wrong, holds):
    assert zeroshot.trained(models.find("fsvae", None), results(tmp_path, **wrong)) is holds


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize(
    ("change", "assertion"),
    [
        ({"parameters": 1}, "parameter_count"),
        ({"classes": 13}, "parameter_count"),
        ({"loss": 1.0}, "loss_fingerprint"),
        ({"frames": 41}, "loss_fingerprint"),
    ],
)
def test_a_wrong_expectation_of_a_segmenter_is_seen(tmp_path, name, change, assertion):
    card = models.find(name, None)
    holds, _ = segmenter.check_network(card, dataclasses.replace(segmenter.table(card), **change), "cpu", tmp_path)
    assert not holds[assertion]


@pytest.mark.parametrize(
    ("wrong", "holds"),
    [({}, True), ({"model": "other"}, False), ({"loss": math.nan}, False), ({"accuracy": math.nan}, False),
     ({"weights": False}, False)],
)  # fmt: skip
def test_what_a_run_of_a_segmenter_must_leave(tmp_path, wrong, holds):
    said = {"model": "lasa", "loss": 1.5, "accuracy": 12.0, "weights": True, **wrong}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "log.jsonl").write_text(json.dumps({"event": "epoch", "loss": said["loss"]}) + '\n{"event": "eval"}\n')
    (tmp_path / "metrics.json").write_text(json.dumps({"model": said["model"], "last": {"raw": {"accuracy": said["accuracy"]}}}))
    (tmp_path / "predictions_last.npz").write_bytes(b"x")
    if said["weights"]:
        (tmp_path / "checkpoints/last.safetensors").write_bytes(b"x")
    assert segmenter.trained(models.find("lasa", None), tmp_path) is holds


@pytest.mark.parametrize("name", SEGMENTERS)
def test_the_whole_script_of_a_segmenter(name, tmp_path):
    (tmp_path / "clips.npz").touch()
    done = run(name, "--vram-limit", "8", "--data", str(tmp_path / "clips.npz"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"holds clips: {name} learns from untrimmed sequences" in done.stdout
    finished = Finished(0, False, False, 1.0, Log.of(done.stdout + done.stderr))
    verdict = judge_container(name, finished, timeout=600, memory="4g", vram=True)
    assert verdict.passed, verdict.reason
    assert verdict.result["assertions"].keys() == REQUIRED and verdict.result["vram"] is None


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_whole_script_of_a_zero_shot_system(name, tmp_path):
    done = run(name, "--vram-limit", "8", "--data", str(results(tmp_path) / "results.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"holds clips: {name} learns from features, and was not tried on it" in done.stdout
    finished = Finished(0, False, False, 1.0, Log.of(done.stdout + done.stderr))
    verdict = judge_container(name, finished, timeout=600, memory="4g", vram=True)
    assert verdict.passed, verdict.reason
    assert verdict.result["assertions"].keys() == REQUIRED | {"fits_vram_limit"}
    assert verdict.result["vram"]["recipe"] == "60/5" and verdict.result["vram"]["word"] == "comfortable"


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
        classifier.table(with_table(tmp_path, edit))
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(("key", "value"), [("window", "64"), ("loss", "x"), ("losses", 1.0)])
def test_a_wrong_key_or_value_is_named(tmp_path, key, value):
    def edit(toml):
        toml["smoke"][key] = value
        return toml

    with pytest.raises(models.ModelError, match=key):
        classifier.table(with_table(tmp_path, edit))


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


@pytest.mark.slow
def test_the_whole_script_on_a_real_file(tiny_data):
    done = run("ctrgcn", "--data", str(tiny_data))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kind"] == "smoke_result" and result["assertions"]["trains"] and result["assertions"]["trains_on_data"]
    assert result["peak_rss_bytes"] > 2**26 and result["versions"]["torch"] == torch.__version__


@pytest.fixture
def plays(monkeypatch):
    """Let main.py end with this code on the mounted file, and with the other on the synthetic one."""

    def play(on_data: int, on_synthetic: int = 0) -> None:
        codes = {"mine.npz": on_data, "synthetic.npz": on_synthetic}
        monkeypatch.setattr(classifier, "train", lambda card, recipe, device, data, work_dir: codes[data.name])
        monkeypatch.setattr(classifier, "trained", lambda card, work_dir: True)

    return play


@pytest.mark.parametrize(("code", "words"), [(2, "not of the kind that the recipe is set for"), (65, "cannot be used")])
def test_a_file_that_does_not_suit_the_recipe_is_said_in_one_line(plays, tmp_path, capsys, code, words):
    plays(code)
    card = models.find("skateformer")
    holds = classifier.check_training(card, classifier.table(card), "cpu", tmp_path / "mine.npz", tmp_path)
    assert holds == {"trains": True, "trains_on_data": False}
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path / 'mine.npz'} does not suit skateformer's recipe 'smoke': ") and words in line


@pytest.mark.parametrize(("on_data", "on_synthetic"), [(2, 2), (0, 0), (70, 0), (0, 65)])
def test_what_is_not_the_files_fault_is_not_laid_on_it(plays, tmp_path, capsys, on_data, on_synthetic):
    plays(on_data, on_synthetic)
    card = models.find("ctrgcn")
    holds = classifier.check_training(card, classifier.table(card), "cpu", tmp_path / "mine.npz", tmp_path)
    assert holds == {"trains": on_synthetic == 0, "trains_on_data": on_data == 0}
    assert "does not suit" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_file_of_another_skeleton_ends_in_the_reason(tmp_path):
    """NW-UCLA has 20 joints, the smoke recipes are set for 25."""
    rng, file = np.random.default_rng(0), tmp_path / "ucla.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name in (f"a{action:02}_s01_e00_v0{view}" for action in (1, 2, 3, 4, 5) for view in (1, 2, 3)):
            archive.writestr(
                f"all/{name}.json", json.dumps({"file_name": name, "skeletons": rng.normal(size=(52, 20, 3)).tolist()})
            )
    done = run("skateformer", "--data", str(file))
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    *_, told, result = done.stdout.splitlines()
    assert told.startswith(f"{file} does not suit skateformer's recipe 'smoke'")
    assert json.loads(result)["assertions"]["trains_on_data"] is False
    assert "25 joints" in done.stderr
    log = Log.of(done.stderr + done.stdout)
    assert log.tail[-1].startswith(str(file)) and any("25 joints" in line for line in log.tail)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("ctrgcn", "ntu60_xsub"), ("hypergcn", "base_ntu60_xsub"), ("skateformer", "ntu60_xsub"), ("baselines", "mlp"),
        ("fsvae", "60/5"),
    ],
)  # fmt: skip
def test_the_main_recipe_of_a_model(name, recipe):
    assert vram.main_recipe(models.find(name, None)) == recipe


KEYS = {"limit_gib", "recipe", "batch", "word", "reason", "predicted_mib", "interval", "predicted_allocated_mib", "usable_mib",
        "measured_allocated_mib", "measured_reserved_mib", "measured_note", "out_of_memory_mib"}  # fmt: skip


def test_gpu_memory_is_the_planners_prediction():
    card = models.find("ctrgcn")
    config = parse(["--config", str(card.recipe("ntu60_xsub"))], model="ctrgcn")
    budget = vram.budget(8.0, "cpu")
    expected = judge(costs_of(card, config, size_of("ntu60")), budget, asked_of(config))
    said = vram.judged(card, budget, "cpu")
    assert set(said) == KEYS == VRAM_KEYS | {"predicted_allocated_mib", "out_of_memory_mib"}
    assert (said["limit_gib"], said["recipe"], said["batch"], said["word"]) == (8.0, "ntu60_xsub", 64, expected.word)
    assert said["predicted_mib"] == {"train": round(expected.train.point, 1), "eval": round(expected.eval.point, 1)}
    for phase, (low, high) in said["interval"].items():
        assert low <= said["predicted_allocated_mib"][phase] <= said["predicted_mib"][phase] <= high
    assert said["measured_allocated_mib"] is None and said["measured_reserved_mib"] is None
    assert said["measured_note"] == "not measured (no GPU)"
    assert vram.assertions(said) == {"fits_vram_limit": True}  # nothing is asserted of what was not measured


@pytest.mark.parametrize(("room", "word", "words"), [(1.0, "no", "no lever is enough"), (30.0, "tight", "fits with --test")])
def test_a_card_that_is_too_small_has_its_reason(room, word, words):
    """Cards on which `room` MiB of tensors would just fit."""
    gib = vram.budget(8.0, "cpu").card_for(room)
    said = vram.judged(models.find("baselines"), vram.budget(gib, "cpu"), "cpu")
    assert said["word"] == word and words in said["reason"]
    assert vram.assertions(said)["fits_vram_limit"] is (word == "tight")


@pytest.mark.parametrize("limit", [0.0, -8.0, math.nan, math.inf])
def test_a_limit_that_is_no_size_is_refused(limit):
    with pytest.raises(UsageError):
        vram.budget(limit, "cpu")


def test_a_limit_that_leaves_nothing_is_a_no():
    said = vram.judged(models.find("baselines"), vram.budget(0.1, "cpu"), "cpu")
    assert said["word"] == "no" and "would need a card of" in said["reason"]


def test_a_larger_gpus_own_figures_say_nothing_of_a_smaller_card(monkeypatch, tmp_path):
    monkeypatch.setenv(calibration.USER_FILE, str(tmp_path / "rows.csv"))
    calibration.append(dataclasses.replace(calibration.pessimistic(), gpu="Example RTX", gib=24.0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Example RTX")
    assert [vram.budget(gib, "cuda:0").calibration.measured for gib in (8.0, 24.0)] == [False, True]
    assert not vram.budget(24.0, "cpu").calibration.measured


@pytest.mark.parametrize("name", ["baselines", "msf_gzssar"])
def test_what_is_measured_on_a_gpu(monkeypatch, name):
    """A GPU played by the CPU, whose allocator says more with each phase."""

    class Gpu:
        torch = torch.device("cpu")
        reset_count = 0

        def __init__(self, number):
            assert number == 3

        def release(self): ...

        def reset(self):
            Gpu.reset_count += 1

        def peaks(self):
            return 100.0 * Gpu.reset_count, 120.0 * Gpu.reset_count

        def seconds(self, work):
            work()
            return 1.0

    monkeypatch.setattr("planner.measure.Gpu", Gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Example RTX")
    said = vram.judged(models.find(name, None), vram.budget(8.0, "cuda:3"), "cuda:3")
    assert (said["measured_allocated_mib"], said["measured_reserved_mib"], said["measured_note"]) == (200.0, 240.0, "")
    assert vram.assertions(said) == {"fits_vram_limit": True, "measured_within_vram_limit": True}
    more = {**said, "measured_reserved_mib": said["usable_mib"] + 1}
    assert vram.assertions(more) == {"fits_vram_limit": True, "measured_within_vram_limit": False}
    assert vram.assertions({**more, "word": "tight"})["measured_within_vram_limit"] is True  # as said: not without its levers


def test_a_gpu_that_runs_out_of_memory_is_said(monkeypatch):
    monkeypatch.setattr("planner.measure.Gpu", lambda number: None)
    monkeypatch.setattr("planner.measure.measured_phase", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Example RTX")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=4 << 30))
    said = vram.judged(models.find("baselines"), vram.budget(8.0, "cuda:0"), "cuda:0")
    assert (
        said["measured_reserved_mib"] is None and said["measured_note"] == "not measured: out of memory on this GPU of 4096 MiB"
    )
    assert said["word"] == "comfortable"
    assert vram.assertions(said) == {"fits_vram_limit": True}  # half such a card says nothing about it
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=8 << 30))
    full = vram.judged(models.find("baselines"), vram.budget(8.0, "cuda:0"), "cuda:0")
    assert vram.assertions(full)["measured_within_vram_limit"] is False


def test_the_whole_script_about_gpu_memory():
    done = run("baselines", "--vram-limit", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    finished = Finished(0, False, False, 1.0, Log.of(done.stdout + done.stderr))
    verdict = judge_container("baselines", finished, timeout=600, memory="4g",
                              vram=True)  # fmt: skip
    assert verdict.passed, verdict.reason
    assert "measured_within_vram_limit" not in verdict.result["assertions"]
    assert verdict.result["vram"]["word"] == "comfortable" and verdict.result["peak_cuda_reserved_bytes"] is None
    done = run("baselines", "--vram-limit", "0")
    assert done.returncode == 2 and "no size" in done.stderr


def test_a_main_that_fails_fails_the_test(tmp_path):
    """A model whose network is sound but whose command line is not."""
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "models/ctrgcn/main.py").write_text("import sys\n\nsys.exit(2)\n")
    done = run("ctrgcn", SAL_MODELS=str(tmp_path / "models"))
    assert done.returncode == 1
    assert "main.py ended with exit code 2" in done.stdout and "does not suit" not in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["assertions"]["trains"] is False


@pytest.mark.parametrize(
    ("model", "argv", "word", "code"),
    [("ctrgc", [], "ctrgcn", 2), ("ctrgcn", ["--data", "/nowhere.npz"], "/nowhere.npz", 66)],
)
def test_wrong_arguments(model, argv, word, code):
    done = run(model, *argv)
    assert done.returncode == code
    assert word in done.stderr and "Traceback" not in done.stderr
