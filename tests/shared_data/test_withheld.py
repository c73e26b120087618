"""What a backbone is not shown: which classes and clips that is, and that no step, score or resumed run meets them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from engine import assembly
from engine.config import RunConfig, parse
from engine.errors import WorkDirError
from engine.step import TrainStep
from engine.train import train
from shared_data import withheld
from shared_data import zeroshot_splits as splits
from shared_data.clips import Clips
from shared_data.datasets import DataSet
from shared_data.errors import DataError, LabError, UsageError
from shared_data.skeletons import NTU25
from shared_data.withheld import LeftOut
from shared_data.zeroshot_splits import UNSEEN, Split


def clips(labels: list[int], ids: list[str] | None = None) -> Clips:
    n = len(labels)
    whole = np.zeros(n, np.int64)
    names = np.array(ids or [f"c{i:05}" for i in range(n)])
    return Clips(np.zeros((1, 25, 3), np.float32), whole, whole, whole, whole, np.array(labels, np.int64), names, 2)


def data_set(classes: int, train: list[int], test: list[int]) -> DataSet:
    names = tuple(map(str, range(classes)))
    return DataSet("made up", Path("made_up"), "none", "", NTU25, classes, names, clips(train), clips(test), ())


def spread(count: int, classes: int) -> list[int]:
    return [i % classes for i in range(count)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", LeftOut(())),
        ("7,1, 4", LeftOut((1, 4, 7))),
        ("3+0,2", LeftOut((3,), (0, 2))),
        ("60/5", LeftOut((10, 11, 19, 26, 56), (), (60, 5))),
        ("60/5-val", LeftOut((10, 11, 19, 26, 56), (16, 21, 25, 31, 48), (60, 5))),
    ],
)
def test_what_a_text_means(text: str, found: LeftOut) -> None:
    assert withheld.read(text) == found
    assert found.phase == ("val" if found.val else "test")


@pytest.mark.parametrize(
    "text", ["60/7", "60/5-test", "6o", "1;2", "1,,2", ",1", "1+", "+1", "1+2+3", "-1", "1.5", "60/5,1", "kick"]
)  # fmt: skip
def test_a_text_that_means_nothing_is_refused_before_data_is_read(text: str) -> None:
    with pytest.raises(UsageError, match="names no classes"):
        withheld.read(text)
    with pytest.raises(UsageError, match="names no classes"):
        parse(["--recipe", "smoke", f"--leave-out={text}"], model="ctrgcn")


@pytest.mark.parametrize("task", UNSEEN)
@pytest.mark.parametrize("phase", ["test", "val"])
@pytest.mark.parametrize("truncated", [True, False])
def test_published_tasks_by_name_and_by_their_splits(task: tuple[int, int], phase: splits.Phase, truncated: bool) -> None:
    test, val = splits.published(*task), splits.published(*task, "val", truncated=truncated)
    text = withheld.text_of(test, val, phase)
    assert text == f"{task[0]}/{task[1]}" + ("-val" if phase == "val" else "")
    left = withheld.read(text)
    assert left.split(task[0], truncated=truncated) == (test if phase == "test" else val)
    unseen = set(test.unseen) | (set(val.unseen) if phase == "val" else set())
    assert set(left.classes) == unseen, "classes that a list lacks by accident are trained on"


def test_own_splits_by_numbers() -> None:
    test, val = splits.split_of(9, (7, 2)), splits.split_of(9, (0, 4), without=(7, 2))
    assert [withheld.text_of(test, val, phase) for phase in ("test", "val")] == ["2,7", "2,7+0,4"]
    assert withheld.read("2,7+0,4").split(9) == val == Split(9, (1, 3, 5, 6, 8), (0, 4))
    ntu120 = splits.split_of(120, UNSEEN[60, 5])
    assert withheld.text_of(ntu120, ntu120, "test") == "10,11,19,26,56", "of another data set than the task's"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4", "class 4 cannot be left out"), ("1,1", "class 1 cannot"), ("1+1", "class 1 cannot"), ("0,1,2,3", "0 seen"),
        ("0,1+2,3", "0 seen"), ("60/5", "of 60 classes, the data has 4"),
    ],
)  # fmt: skip
def test_classes_that_the_data_cannot_do_without(text: str, message: str, tiny_data: Path) -> None:
    run = parse(["--recipe", "smoke", "--data", str(tiny_data), "--leave-out", text], model="ctrgcn")
    with pytest.raises(UsageError, match=message):
        assembly.load_data(run)


def test_a_part_without_clips_is_refused() -> None:
    with pytest.raises(DataError, match="no test clip is left"):
        withheld.without_classes(data_set(3, [0, 1, 2], [2]), withheld.read("2"))


def test_the_first_clips_of_each_class_by_name() -> None:
    names = ["b", "a10", "a9", "z", "c", "a1"]
    found = withheld.held_out(clips([0, 0, 0, 1, 1, 0], names), 2)
    assert [name for name, out in zip(names, found, strict=True) if out] == ["a10", "z", "c", "a1"]
    assert not withheld.held_out(clips([0, 1]), 0).any()


@pytest.mark.parametrize("count", [2, 3])
def test_a_class_keeps_a_clip_to_learn_from(count: int) -> None:
    data = data_set(2, [0, 0, 0, 1, 1], [0, 1])
    assert len(withheld.without_held_out(data, 1).train) == 3
    with pytest.raises(DataError, match="below 2"):
        withheld.without_held_out(data, count)


@pytest.mark.parametrize(
    ("text", "size", "count"),
    [
        ("60/5-val", (60, 40_091, 16_487), 40), ("60/12-val", (60, 40_000, 16_487), 40),
        ("120/10-val", (120, 63_026, 50_919), 40),
        ("120/24-val", (120, 63_026, 50_919), 100), ("60/5-val", (60, 6_000, 1_200), 3), ("1+2", (60, 40_091, 16_487), 8),
    ],
)  # fmt: skip
def test_how_many_clips_to_hold_out(text: str, size: tuple[int, int, int], count: int) -> None:
    data = data_set(size[0], spread(size[1], size[0]), spread(size[2], size[0]))
    left = withheld.read(text)
    assert withheld.suitable_count(data, left) == count
    if count not in (40, 100):
        seen, unseen = len(left.split(size[0]).seen), sum(size[2] // size[0] for _ in left.val)
        assert count * seen / unseen == pytest.approx(withheld.SEEN_TO_UNSEEN, rel=0.4)


def test_at_most_half_of_the_rarest_class_is_held_out() -> None:
    data = data_set(4, [0, 0, 0, 1, 2, 3, *[3] * 20], [2] * 50 + [0, 1, 3])
    assert withheld.suitable_count(data, withheld.read("1+2")) == 1
    with pytest.raises(DataError, match="not two training clips"):
        withheld.suitable_count(data_set(3, [0, 1, 2], [0, 1, 2]), withheld.read("0+1"))


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Labels that training steps were given."""
    labels: list[int] = []
    real = TrainStep.__call__

    def step(self: TrainStep, x: torch.Tensor, truth: torch.Tensor, positions: torch.Tensor | None = None) -> Any:
        labels.extend(truth.tolist())
        return real(self, x, truth, positions)

    monkeypatch.setattr(TrainStep, "__call__", step)
    return labels


def config(data: Path, folder: Path, quick: list[str], *more: str) -> RunConfig:
    return parse([*quick, "--data", str(data), "--work-dir", str(folder), "--num-epoch", "1", *more], model="baselines")


def quietly(config: RunConfig) -> Path:
    return train(config, Console(quiet=True))


@pytest.mark.parametrize(("text", "seen"), [("", {0, 1, 2, 3}), ("2", {0, 1, 3}), ("2+0", {1, 3})])
def test_no_step_and_no_score_meets_a_class_that_is_left_out(
    text: str, seen: set[int], met: list[int], tiny_data: Path, quick: list[str], tmp_path: Path
) -> None:
    folder = quietly(config(tiny_data, tmp_path / "run", quick, "--leave-out", text))
    assert set(met) == seen
    assert yaml.safe_load((folder / "config.yaml").read_text())["leave_out"] == text
    with np.load(folder / "scores.npz") as scores:
        assert set(scores["labels"].tolist()) == seen and scores["logits"].shape[1] == 4


def test_held_out_clips_are_not_trained_on(tiny_data: Path) -> None:
    whole = parse(["--recipe", "smoke", "--data", str(tiny_data)], model="ctrgcn")
    part = dataclasses.replace(whole, leave_out="3", hold_out=2)
    all_clips, shown = assembly.load_data(whole), assembly.load_data(part)
    held = set(all_clips.train.ids[withheld.held_out(all_clips.train, 2)])
    seen = set(all_clips.train.ids[all_clips.train.labels != 3])
    assert set(shown.train.ids) == seen - held and len(shown.train) == 12
    assert set(shown.test.ids) == set(all_clips.test.ids[all_clips.test.labels != 3])
    assert any("left out" in line for line in assembly.remarks(part, shown))
    assert any("held out" in line for line in assembly.remarks(part, shown))


@pytest.mark.parametrize("flags", [("--leave-out", "2"), ("--hold-out", "1")])
def test_weights_do_not_forget(flags: tuple[str, str], met: list[int], tiny_data: Path, quick: list[str], tmp_path: Path) -> None:
    """Not even --force makes a run that has seen more into one that has not."""
    folder = quietly(config(tiny_data, tmp_path / "run", quick))
    with pytest.raises(LabError):
        quietly(config(tiny_data, folder, quick, *flags))
    with pytest.raises(WorkDirError, match="has seen other clips"):
        quietly(config(tiny_data, folder, quick, *flags, "--force", "--num-epoch", "2"))
    met.clear()
    quietly(config(tiny_data, folder, quick, *flags, "--force", "--resume", "never"))
    assert met and (flags[0] != "--leave-out" or 2 not in met)
    quietly(config(tiny_data, folder, quick, *flags, "--force", "--base-lr", "0.01"))
