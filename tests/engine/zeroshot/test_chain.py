"""From skeletons to the harmonic mean in one work folder: every step, skipped where it is done, and honest about its numbers."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from engine.errors import ConfigError, WorkDirError
from engine.zeroshot import chain, features
from engine.zeroshot.chain import Backbone
from engine.zeroshot.plan import Plan
from engine.zeroshot.settings import Settings
from engine.zeroshot.text.source import TextSource
from shared_data import zeroshot_splits as splits
from shared_data.errors import LabError
from shared_data.synthetic import write_synthetic
from tests.engine.zeroshot import backbones
from tests.engine.zeroshot.folders import SHORT
from tests.engine.zeroshot.systems import SYSTEMS

ROOT = Path(__file__).resolve().parents[3]
TEST, VAL = splits.split_of(6, (1, 4)), splits.split_of(6, (0, 3), without=(1, 4))
PLAN = Plan(TEST, VAL, SHORT, selection="last")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with skeletons and texts."""
    root = tmp_path_factory.mktemp("made")
    backbones.skeletons(root)
    backbones.texts(root / "texts")
    return root


def ran(
    path: Path, made: Path, plan: Plan = PLAN, *, name: str = "fsvae", flags: tuple[str, ...] = (), **options: Any
) -> tuple[dict[str, Any], Any]:
    """The summary of a chain, and in order: phases of trained backbones, then (seed, phase, cycle)."""
    done: list[Any] = []

    def train(model: str, words: list[str]) -> None:
        done.append(Path(words[words.index("--work-dir") + 1]).name)
        backbones.trained(model, words)

    options.setdefault("backbone", Backbone("baselines", made / "synthetic.npz", (*backbones.FLAGS, *flags)))
    options.setdefault("text", TextSource(descriptions=made / "texts"))
    found = chain.run(
        path, name, SYSTEMS[name], plan, device="cpu", train=train, note=lambda text: None,
        after=lambda seed, phase, cycle: done.append((seed, phase, cycle.number)), **options,
    )  # fmt: skip
    return found, done


@pytest.fixture(scope="module")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Any]:
    path = tmp_path_factory.mktemp("chain") / "work"
    return path, *ran(path, made)


CYCLES = [(5, phase, number) for phase in ("test", "val") for number in range(SHORT.cycles)]


def test_every_step_and_what_it_left(whole: Any, made: Path) -> None:
    path, found, done = whole
    assert done == ["test", "val", *CYCLES]
    assert json.loads((path / "results.json").read_text()) == found
    about = found["about"]
    assert {name: about[name] for name in ("text", "mode", "features")} == {
        "text": "shared_words", "mode": "lb", "features": "baselines",
    }  # fmt: skip
    for phase, left in (("test", "1,4"), ("val", "1,4+0,3")):
        made_by = about["backbone"][phase]
        assert (made_by["model"], made_by["recipe"], made_by["leave_out"]) == ("baselines", "tiny_cpu", left)
        assert (made_by["num_epoch"], made_by["weights"], made_by["began_with"]) == (1, "last", "none")
        assert f"backbone ({phase}): model baselines, recipe tiny_cpu" in (path / "results.txt").read_text()
    assert "tiny_cpu" in (path / "report.html").read_text() and str(path) not in json.dumps(about)
    assert not [d for d in found["deviations"] if "backbone" in d["name"]]
    assert (path / "features/text_feats/shared_words/lb_6.npy").is_file()
    for phase, split, left, held in (("test", TEST, "1,4", 0), ("val", VAL, "1,4+0,3", 3)):
        config = yaml.safe_load((path / "backbone" / phase / "config.yaml").read_text())
        assert (config["leave_out"], config["hold_out"]) == (left, held)
        name = features.folder_name(2, phase, extractor="baselines")  # type: ignore[arg-type]
        assert features.read(path / "features/sk_feats" / name, split, phase).train.features.shape[1] == 256  # type: ignore[arg-type]
    with np.load(path / "backbone/test/scores.npz") as scores:
        assert not set(scores["labels"].tolist()) & set(TEST.unseen)


def test_done_again_is_skipped(whole: Any, made: Path) -> None:
    path, found, _ = whole
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}
    assert ran(path, made) == (found, [])
    changed = {file.name for file, time in before.items() if file.stat().st_mtime_ns != time}
    assert changed == {".lock", "plan.json", "report.html", "results.json", "results.txt"}


def test_seeds_are_added_without_a_new_backbone(whole: Any, made: Path, tmp_path: Path) -> None:
    path, _, _ = whole
    copy = shutil.copytree(path, tmp_path / "work")
    _, done = ran(copy, made, dataclasses.replace(PLAN, seeds=(5, 6)))
    assert done == [(6, phase, number) for _, phase, number in CYCLES]


PLACES = {
    "features": (chain.from_skeletons, "write", 1, ["val", *CYCLES]),  # a backbone is trained
    "backbone": (chain, "_is_finished", 2, ["val", *CYCLES]),  # its features are made
    "systems": (chain.zeroshot_run, "run", 1, CYCLES),
}
"""What a chain is cut off before: module, function, its call, and what is left to do."""


@pytest.mark.parametrize("place", PLACES)
def test_a_chain_that_was_cut_off_goes_on(
    whole: Any, made: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(monkeypatch, place, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path / "work", made)
    monkeypatch.undo()
    found, done = ran(tmp_path / "work", made)
    assert done == PLACES[place][3]
    assert found == whole[1], "to the same bits"


def cut_off(monkeypatch: pytest.MonkeyPatch, place: str, how: Callable[[], Any]) -> None:
    module, name, number, _ = PLACES[place]
    real, calls = getattr(module, name), []

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == number:
            raise how()
        return real(*given, **named)

    monkeypatch.setattr(module, name, counted)


KILLED = """
import os, signal, sys
from pathlib import Path
import pytest
from tests.engine.zeroshot import test_chain
test_chain.cut_off(pytest.MonkeyPatch(), sys.argv[3], lambda: os.kill(os.getpid(), signal.SIGKILL))
test_chain.ran(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_killed_chain_goes_on(whole: Any, made: Path, tmp_path: Path, place: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "work"), str(made), place]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, check=False, cwd=ROOT, env=env).returncode == -signal.SIGKILL
    assert ran(tmp_path / "work", made) == (whole[1], PLACES[place][3])


def test_another_backbone_is_refused_and_made_if_forced(whole: Any, made: Path, tmp_path: Path) -> None:
    path = shutil.copytree(whole[0], tmp_path / "work")
    with pytest.raises(WorkDirError, match="seed: 1 -> 2"):
        ran(path, made, flags=("--seed", "2"))
    found, done = ran(path, made, flags=("--seed", "2"), force=True)
    assert done == ["test", "val", *CYCLES] and found["inputs"] != whole[1]["inputs"]
    assert yaml.safe_load((path / "backbone/val/config.yaml").read_text())["seed"] == 2


def test_changed_skeletons_are_refused_and_trained_on_if_forced(whole: Any, made: Path, tmp_path: Path) -> None:
    path = shutil.copytree(whole[0], tmp_path / "work")
    with np.load(made / "synthetic.npz") as arrays:
        columns = dict(arrays)
    np.savez(tmp_path / "synthetic.npz", **{**columns, "x_train": 3 * columns["x_train"]})
    backbone = Backbone("baselines", tmp_path / "synthetic.npz", backbones.FLAGS)
    with pytest.raises(WorkDirError, match="other clips"):
        ran(path, made, backbone=backbone)
    assert ran(path, made, backbone=backbone, force=True)[1] == ["test", "val", *CYCLES]


def test_a_folder_of_another_run_is_refused_before_anything_is_trained(whole: Any, made: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkDirError, match="selection: last -> oracle"):
        ran(whole[0], made, dataclasses.replace(PLAN, selection="oracle"))
    with pytest.raises(WorkDirError, match="holds a training run"):
        ran(whole[0] / "backbone/test", made)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(WorkDirError, match="not a run of this lab"):
        ran(tmp_path / "mine", made)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "flag",
    [("--leave-out", "1"), ("--hold-out", "2"), ("--work-dir", "x"), ("--data", "x"), ("--device", "cpu"), ("--force", "true")],
)
def test_what_the_chain_says_itself_cannot_be_said(made: Path, tmp_path: Path, flag: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="follows from the zero-shot run"):
        ran(tmp_path / "work", made, flags=flag)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": Backbone("fsvae", Path("x"))}, "zero-shot system"),
        ({"backbone": Backbone("baselines", Path("none.npz"), backbones.FLAGS)}, r"none\.npz"),
        ({"text": TextSource(descriptions=Path("none"))}, r"lb_6\.csv"),
        ({"text": TextSource(mode="label")}, "no text mode"),
        ({"plan": dataclasses.replace(PLAN, test=splits.split_of(60, (1, 4)), val=splits.split_of(60, (0, 3), without=(1, 4))),
          "text": TextSource()}, "the data has 6 classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_trained(
    made: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    trained: list[str] = []
    options = {"backbone": Backbone("baselines", made / "synthetic.npz", backbones.FLAGS), "plan": PLAN,
               "text": TextSource(descriptions=made / "texts")} | change  # fmt: skip
    with pytest.raises(LabError, match=message):
        chain.run(
            tmp_path / "work", "fsvae", SYSTEMS["fsvae"], options.pop("plan"), **options, device="cpu",
            train=lambda model, flags: trained.append(model), note=lambda text: None,
        )  # fmt: skip
    assert not trained


# Ten actions in three postures: an unseen class is an action and a posture that are seen, and so are the words of its label.
COMBINED = 30
FAR = splits.split_of(COMBINED, (2, 8, 14, 21, 27)), splits.split_of(COMBINED, (5, 11, 19, 23, 26), without=(2, 8, 14, 21, 27))
LEARNING = Settings(
    latent=20, cycles=2, steps=800, lr=1e-3, samples=200, classifier_steps=200, classifier_lr=1e-2, relu_logits=False
)
THIRTY_EPOCHS = (
    "--recipe", "mlp", "--num-epoch", "30", "--batch-size", "16", "--eval-interval", "10", "--weight-decay", "0.05",
    "--train-window-size", "32", "--test-window-size", "32", "--model-args.dropout", "0.3",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_unseen_actions_are_recognised_by_their_words_and_not_by_others(tmp_path: Path) -> None:
    """Skeletons to harmonic mean in one call each; with the words of other classes nothing is left but chance."""
    data = write_synthetic(
        tmp_path / "synthetic.npz", classes=COMBINED, train_per_class=24, test_per_class=12, frames=100, seed=1
    )
    backbone = Backbone("baselines", data, THIRTY_EPOCHS)
    plan = Plan(*FAR, LEARNING, seeds=(1, 2, 3), selection="last")
    chance = 1 / len(FAR[0].unseen)
    backbones.texts(tmp_path / "texts", COMBINED)
    for name in SYSTEMS:
        path = tmp_path / name
        if name != next(iter(SYSTEMS)):
            copy_features(tmp_path / next(iter(SYSTEMS)), path)
        found, done = ran(path, tmp_path, plan, name=name, backbone=backbone)
        print(name, found["mean"], found["spread"], "chance", chance)
        assert len(done) == 12 + 2 * (name == next(iter(SYSTEMS)))
        assert min(row["ZSL"] for row in found["seeds"]) > 2 * chance and found["mean"]["ZSL"] > 3 * chance
        assert found["mean"]["S"] > 0.6 and found["mean"]["U"] > 2 * chance and found["mean"]["H"] > 0.5
    shuffled = []
    for seed in range(5):
        texts = backbones.texts(tmp_path / f"texts-{seed}", COMBINED, np.random.default_rng(seed).permutation(COMBINED).tolist())
        path = tmp_path / f"shuffled-{seed}"
        copy_features(tmp_path / next(iter(SYSTEMS)), path)
        found, _ = ran(path, tmp_path, plan, backbone=backbone, text=TextSource(descriptions=texts))
        shuffled.append(found["mean"])
    means = {column: float(np.mean([row[column] for row in shuffled])) for column in ("ZSL", "S", "U", "H")}
    print("shuffled", means)
    assert means["ZSL"] < 1.5 * chance and means["U"] < 1.5 * chance


def copy_features(one: Path, other: Path) -> None:
    """Backbones and their features, which know no text."""
    for part in ("backbone", "features/sk_feats"):
        shutil.copytree(one / part, other / part)
    (other / ".lock").touch()
