"""The stages over a work folder: they find what can be found, repeat bit for bit, and go on where they were cut off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import OutOfMemoryError, WorkDirError
from engine.runfolder import RunFolder
from engine.zeroshot import cycles, pipeline, plan, results, synthetic, synthetic_folder
from engine.zeroshot.plan import Plan
from engine.zeroshot.run import run
from engine.zeroshot.sources import Source
from engine.zeroshot.work import Data, Work
from shared_data import zeroshot_splits as splits
from shared_data.errors import DataError, MissingInputError, UsageError
from tests.engine.zeroshot import folders
from tests.engine.zeroshot.folders import QUICK, SHORT
from tests.engine.zeroshot.systems import SYSTEMS

CHANCE = 1 / 5
HERE = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Source:  # type: ignore[no-untyped-def]
    return folders.source(tmp_path_factory.mktemp("world"))


def short(path: Path, source: Source, name: str = "fsvae", **choices: Any) -> dict[str, Any]:
    options = {key: choices.pop(key) for key in ("after", "force", "official_log") if key in choices}
    return run(path, name, SYSTEMS[name], folders.plan(**choices), source, **options)


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a work folder."""
    return {f.relative_to(path).as_posix(): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file() and f.name != ".lock"}


def watched() -> tuple[list[tuple[int, str, int]], Callable[..., None]]:
    seen: list[tuple[int, str, int]] = []
    return seen, lambda seed, phase, cycle: seen.append((seed, phase, cycle.number))


@pytest.mark.parametrize("name", SYSTEMS)
def test_end_to_end(name: str, tmp_path: Path) -> None:
    """All stages over several worlds, from files on disk; no cycle is chosen by looking at the test."""
    found = []
    for seed in range(3):
        source = folders.source(tmp_path / f"world-{seed}", seed=seed, per_class=20, mode="lb_ad_md")
        choices = folders.plan(QUICK, seeds=(seed, seed + 10), selection="last")
        found.append(run(tmp_path / f"run-{seed}", name, SYSTEMS[name], choices, source)["mean"])
    means = {column: np.mean([row[column] for row in found]) for column in results.COLUMNS}
    assert means["ZSL"] > 3 * CHANCE and min(row["ZSL"] for row in found) > 2 * CHANCE
    assert means["H"] > 0.6 and means["S"] > 0.6 and means["U"] > 2.5 * CHANCE


@pytest.mark.parametrize("name", SYSTEMS)
def test_shuffled_text_falls_to_chance(name: str, tmp_path: Path) -> None:
    found = []
    for seed in range(5):
        source = folders.source(tmp_path / f"world-{seed}", seed=seed, shuffled=True, per_class=10)
        found.append(run(tmp_path / f"run-{seed}", name, SYSTEMS[name], folders.plan(QUICK, selection="last"), source)["mean"])
    assert np.mean([row["ZSL"] for row in found]) < 1.5 * CHANCE
    assert np.mean([row["U"] for row in found]) < 1.5 * CHANCE


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_same_again_bit_for_bit(name: str, world: Source, tmp_path: Path) -> None:
    first = short(tmp_path / "a", world, name, seeds=(1, 2))
    again = short(tmp_path / "b", world, name, seeds=(1, 2))
    assert first == again and contents(tmp_path / "a") == contents(tmp_path / "b")
    other = short(tmp_path / "c", world, name, seeds=(3,))
    assert other["seeds"][0] != first["seeds"][0]


def test_what_is_done_is_skipped(world: Source, tmp_path: Path) -> None:
    seen, after = watched()
    first = short(tmp_path / "a", world, after=after)
    assert seen == [(5, phase, number) for phase in ("test", "val") for number in range(3)]
    before = {name: (tmp_path / "a" / name).stat().st_mtime_ns for name in contents(tmp_path / "a")}
    assert short(tmp_path / "a", world, after=after) == first
    assert len(seen) == 6
    later = {name: (tmp_path / "a" / name).stat().st_mtime_ns for name in before}
    assert {name for name in before if before[name] != later[name]} == {
        "plan.json", "report.html", "results.json", "results.txt",
    }  # fmt: skip


def test_seeds_are_added(world: Source, tmp_path: Path) -> None:
    first = short(tmp_path / "a", world, seeds=(1,))
    seen, after = watched()
    both = short(tmp_path / "a", world, seeds=(1, 2), after=after)
    assert {seed for seed, _, _ in seen} == {2} and both["seeds"][0] == first["seeds"][0]
    values = [row["ZSL"] for row in both["seeds"]]
    assert both["mean"]["ZSL"] == pytest.approx(np.mean(values)) and both["spread"]["ZSL"] == pytest.approx(
        np.std(values, ddof=1)
    )
    assert first["spread"]["ZSL"] is None
    with pytest.raises(WorkDirError, match=r"seeds: \[1, 2\] -> \[2\]"):
        short(tmp_path / "a", world, seeds=(2,))


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("checkpoints/seed-5/val/cycle-1.safetensors", [("val", 0), ("val", 1), ("val", 2)]),
        ("checkpoints/seed-5/test/record.json", [("test", 0), ("test", 1), ("test", 2)]),
        ("seed-5/gzsl_zs.npy", []),
        ("seed-5/unseen_zs.npy", []),
        ("seed-5/gate.json", []),
    ],
)
def test_a_damaged_or_missing_file_is_made_again(world: Source, tmp_path: Path, file: str, again: list[Any]) -> None:
    path = tmp_path / "a"
    short(path, world)
    whole = contents(path)
    for spoil in ((path / file).unlink, lambda: (path / file).write_bytes(b"{"), lambda: (path / file).write_bytes(b"[]")):
        spoil()
        seen, after = watched()
        short(path, world, after=after)
        assert [(phase, number) for _, phase, number in seen] == again
        assert contents(path) == whole


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("evaluation.json", {"zero_shot": 5}),
        ("evaluation.json", {"confusions": {}}),
        ("gate.json", {"bias": float("nan")}),
        ("gate.json", {"more": 1}),
        ("gate.json", {"weights": None}),
    ],
)
def test_a_changed_record_is_made_again(world: Source, tmp_path: Path, file: str, change: dict[str, Any]) -> None:
    path = tmp_path / "a"
    short(path, world)
    whole = contents(path)
    record = json.loads((path / "seed-5" / file).read_text())
    record["found"].update(change)
    (path / "seed-5" / file).write_text(json.dumps(record))
    short(path, world)
    assert contents(path) == whole


def test_networks_larger_than_the_machine_are_refused_in_words(world: Source, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError, match=r"this machine(.|\n)*--latent-size"):
        short(tmp_path / "a", world, settings=replace(SHORT, latent=10**12))


KILLED = """
import os, signal, sys
from pathlib import Path
from engine.zeroshot import cycles
from tests.engine.zeroshot.test_pipeline import short
from engine.zeroshot.sources import Source
name, place, number = sys.argv[3], sys.argv[4], int(sys.argv[5])
target, count = (cycles.checkpoint, "save_state") if place == "state" else (cycles, place), 0
module, attribute = target
real = getattr(module, attribute)
def counted(*given, **named):
    global count
    count += 1
    if count == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given, **named)
setattr(module, attribute, counted)
short(Path(sys.argv[1]), Source(Path(sys.argv[2])), name)
"""


@pytest.mark.parametrize(
    ("place", "number", "left"),
    [
        ("train_cycle", 2, 1),  # in the second cycle
        ("write_atomically", 3, 2),  # before the third cycle's networks
        ("state", 2, 1),  # between a cycle's networks and its state
        ("make_folder", 2, 3),  # between the test's stage and the validation's
        ("train_cycle", 6, 5),  # in the validation's last
    ],
)
def test_a_killed_run_goes_on_with_the_same_bits(world: Source, tmp_path: Path, place: str, number: int, left: int) -> None:
    name = "fsvae" if number % 2 else "msf_gzssar"
    whole = short(tmp_path / "whole", world, name)
    path = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(path), str(world.root), name, place, str(number)]
    ended = subprocess.run(command, check=False, cwd=HERE, env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"})
    assert ended.returncode == -signal.SIGKILL
    seen, after = watched()
    assert short(path, world, name, after=after) == whole
    assert len(seen) == 6 - left, "the cycles before are not done again"
    assert contents(path) == contents(tmp_path / "whole")


@pytest.mark.parametrize("file", ["cycle-0.safetensors", "state.safetensors"])
def test_a_cut_off_run_with_a_damaged_file_is_begun_anew(world: Source, tmp_path: Path, file: str) -> None:
    class Stop(Exception):
        pass

    def stop(seed: int, phase: str, cycle: Any) -> None:
        if cycle.number == 1:
            raise Stop

    path = tmp_path / "a"
    with pytest.raises(Stop):
        short(path, world, after=stop)
    assert (path / "checkpoints/seed-5/test/state.safetensors").exists()
    damaged = path / "checkpoints/seed-5/test" / file
    damaged.write_bytes(damaged.read_bytes()[:-8])
    seen, after = watched()
    short(path, world, after=after)
    assert len(seen) == 6 and not list(path.rglob("state.safetensors"))


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "a setting": ({"settings": replace(SHORT, steps=18)}, r"settings\.steps: 17 -> 18"),
    "noise": ({"settings": replace(SHORT, noise="per_dimension")}, r"noise: per_sample -> per_dimension"),
    "selection": ({"selection": "last"}, r"selection: oracle -> last"),
    "threshold": ({"threshold": None}, r"threshold: 0\.5 -> None"),
}


@pytest.mark.parametrize(("choices", "message"), OTHER.values(), ids=OTHER)
def test_a_folder_of_another_run_is_refused(world: Source, tmp_path: Path, choices: dict[str, Any], message: str) -> None:
    path = tmp_path / "a"
    short(path, world)
    whole = contents(path)
    with pytest.raises(WorkDirError, match=message):
        short(path, world, **choices)
    assert contents(path) == whole
    fresh = short(tmp_path / "b", world, **choices)
    assert short(path, world, force=True, **choices) == fresh
    assert contents(path) == contents(tmp_path / "b")


def test_another_model_and_other_data_are_refused(world: Source, tmp_path: Path) -> None:
    short(tmp_path / "a", world)
    with pytest.raises(WorkDirError, match="model: fsvae -> msf_gzssar"):
        short(tmp_path / "a", world, "msf_gzssar")
    with pytest.raises(WorkDirError, match=r"inputs\.test: [0-9a-f]+ -> [0-9a-f]+"):
        short(tmp_path / "a", replace(world, mode="md"))


def test_a_folder_of_something_else_is_refused(world: Source, tmp_path: Path) -> None:
    for name, content in (("notes.txt", "mine"), ("config.yaml", "model: ctrgcn"), ("plan.json", "{")):
        path = tmp_path / name.replace(".", "-")
        path.mkdir()
        (path / name).write_text(content)
        (path / ".lock").touch() if name == "plan.json" else None
        with pytest.raises(WorkDirError, match="work folder"):
            short(path, world)
        assert (path / name).read_text() == content


def test_bad_files_end_a_run_before_it_trains(world: Source, tmp_path: Path) -> None:
    root = shutil.copytree(world.root, tmp_path / "world")
    source = replace(world, root=root)
    (root / "sk_feats/shift_val_5_r/val_out.npy").unlink()
    seen, after = watched()
    with pytest.raises(MissingInputError, match=r"val_out\.npy"):
        short(tmp_path / "a", source, after=after)
    shutil.copy(world.root / "sk_feats/shift_val_5_r/val_out.npy", root / "sk_feats/shift_val_5_r/val_out.npy")
    labels = root / "sk_feats/shift_5_r/train_label.npy"
    np.save(labels, np.full_like(np.load(labels), 56))
    with pytest.raises(DataError, match="class 56 where only seen"):
        short(tmp_path / "b", source, after=after)
    assert not seen and not (tmp_path / "b").exists()


PLANS = {
    "120/10": plan.published(120, 10, settings=SHORT),
    "120/10 with all seen classes": plan.published(120, 10, settings=SHORT, truncated=False),
    "120/24": plan.published(120, 24, settings=SHORT),
    "3 of 10": Plan(splits.split_of(10, [0, 4, 7]), splits.split_of(10, [1, 2, 3], without=[0, 4, 7]), SHORT),
}


@pytest.mark.parametrize("chosen", PLANS.values(), ids=PLANS)
def test_other_tasks(chosen: Plan, tmp_path: Path) -> None:
    source, classes = Source(tmp_path / "world"), chosen.test.classes
    synthetic_folder.write(source, synthetic.world(classes=classes, seed=0), chosen, per_class=3)
    found = run(tmp_path / "a", "fsvae", SYSTEMS["fsvae"], chosen, source)
    assert found["classes"] == classes and found["unseen"] == list(chosen.test.unseen)
    probabilities = np.load(tmp_path / "a/seed-5/gzsl_zs.npy")
    assert probabilities.shape == (3 * classes, len(chosen.test.unseen)) and np.allclose(probabilities.sum(1), 1, atol=1e-5)
    labels = np.load(source.features_folder(len(chosen.val.unseen), "val") / "train_label.npy")
    assert set(labels.tolist()) == set(chosen.val.seen)


def test_stage_1_needs_no_validation(world: Source, tmp_path: Path) -> None:
    """What the official command for training alone asks for."""
    asked: list[str] = []

    def data(phase: splits.Phase) -> Data:
        asked.append(phase)
        return world.data(folders.plan(), phase)

    with RunFolder(tmp_path / "a") as folder:
        work = Work(folder, "fsvae", SYSTEMS["fsvae"], folders.plan(), data)
        kept = pipeline.train(work, 5)
    assert asked == ["test"] and [k.number for k in kept] == [0, 1, 2]
    whole = short(tmp_path / "a", world)
    assert whole["seeds"][0]["ZSL"] == max(cycles.accuracies(kept))


@pytest.mark.parametrize("selection", ["last", "val", "oracle"])
def test_the_cycle_that_counts(world: Source, tmp_path: Path, selection: str) -> None:
    path = tmp_path / selection
    found = short(path, world, settings=QUICK, selection=selection)
    record = {phase: json.loads((path / f"checkpoints/seed-5/{phase}/record.json").read_text()) for phase in ("test", "val")}
    test, val = ([cycle["accuracy"] for cycle in record[phase]["found"]["cycles"]] for phase in ("test", "val"))
    expected = {"last": 3, "val": int(np.argmax(val)), "oracle": int(np.argmax(test))}[selection]
    assert found["seeds"][0]["cycle"] == expected and found["seeds"][0]["ZSL"] == test[expected]
    assert found["selection"]["rule"] == selection


def test_results_for_people_and_the_official_log(world: Source, tmp_path: Path) -> None:
    found = short(tmp_path / "a", world, seeds=(1, 2), official_log=True)
    text = (tmp_path / "a/results.txt").read_text()
    rows = [line.split() for line in text.splitlines() if line.split()[:1] in (["1"], ["2"], ["mean"], ["spread"])]
    assert [row[0] for row in rows] == ["1", "2", "mean", "spread"]
    assert rows[0][2:] == [f"{100 * found['seeds'][0][column]:.2f}" for column in results.COLUMNS]
    assert "selection: oracle" in text and "not as published: relu_logits False" in text and "clips; officially" in text
    log = (tmp_path / "a/ntu60-B16-ls20-nepc17.txt").read_text().splitlines()
    assert [line.split() for line in log] == [row[2:] for row in rows[:2]]
    for row in found["seeds"]:
        s, u = row["S"], row["U"]
        assert row["H"] == pytest.approx(2 * s * u / (s + u) if s + u else 0)
    assert json.loads((tmp_path / "a/results.json").read_text()) == found


def test_official_log_names() -> None:
    assert results.official_log_name(60, "ViT-B/16", 100, 1700) == "ntu60-B16-ls100-nepc1700.txt"
    assert results.official_log_name(120, "ViT-B/32", 200, 1900) == "ntu120-B32-ls200-nepc1900.txt"


def test_the_published_plan_deviates_in_nothing_and_corrections_are_named() -> None:
    for task in splits.UNSEEN:
        assert not plan.deviations(plan.published(*task))
    usual = plan.published(120, 10)
    fixed = plan.published(120, 10, truncated=False, settings=plan.corrected(usual.settings), threshold=None)
    assert [(d.name, d.value, d.published) for d in plan.deviations(fixed)] == [
        ("noise", "per_dimension", "per_sample"),
        ("relu_logits", False, True),
        ("seen classes in validation", 100, 81),
        ("gate", [2.0, None], [2.0, 0.5]),
    ]
    own = Plan(splits.split_of(10, [0, 4, 7]), splits.split_of(10, [1, 2, 3], without=[0, 4, 7]), usual.settings)
    plan.require_sound(own)
    assert "test split" in [d.name for d in plan.deviations(own)]


WRONG: dict[str, dict[str, Any]] = {
    "no seed": {"seeds": ()},
    "a seed twice": {"seeds": (1, 1)},
    "a negative seed": {"seeds": (-1,)},
    "no cycle": {"settings": replace(SHORT, cycles=0)},
    "no rate": {"settings": replace(SHORT, lr=float("nan"))},
    "another noise": {"settings": replace(SHORT, noise="none")},
    "another selection": {"selection": "best"},
    "a threshold of 1": {"threshold": 1.0},
    "temperature 0": {"temperature": 0.0},
}


@pytest.mark.parametrize("choices", WRONG.values(), ids=WRONG)
def test_plans_that_cannot_be(choices: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="zero-shot run"):
        folders.plan(**choices)


def test_a_validation_split_that_does_not_fit() -> None:
    test = splits.published(60, 5)
    for val in (splits.published(60, 12, "val"), splits.split_of(60, [1, 2, 3, 4, 5])):
        with pytest.raises(UsageError, match="validation split"):
            plan.require_sound(Plan(test, val, SHORT))
