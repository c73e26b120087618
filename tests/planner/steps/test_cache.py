"""What is kept about steps: the same answers without a network, and never another one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from planner.steps import cache
from planner.steps.cache import SWITCH, Findings, Store, store_of
from planner.steps.peak import Steps
from planner.steps.tracing import TooFewValues
from shared_data.errors import LabError, UsageError
from tests.planner.steps.test_peak import CLIP, SHAPE, PairwiseClips, SmallGraphNet, Threshold


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "network.py").write_text("width = 8\n")
    found = store_of("planted", folder, CLIP, 60)
    assert found is not None and found.file.is_relative_to(tmp_path / "cache" / "skeleton-action-lab" / "plan")
    return found


def never() -> nn.Module:
    raise AssertionError("the network was built")


def answers(steps: Steps) -> list[object]:
    law = steps.law()
    return [
        law, law.peak(100), law.peak(100, "eval"), law.peak(64, micro_batch=16), law.largest_batch(300), steps.batch_norm,
        steps.gradients, steps.peak("train", 7, precision="bf16"), dict(steps.work(50).by_call),
    ]  # fmt: skip


def test_what_is_known_needs_no_network(store: Store) -> None:
    first = answers(Steps(SmallGraphNet, CLIP, 60, store=store))
    assert answers(Steps(never, CLIP, 60, store=store)) == first == answers(Steps(SmallGraphNet, CLIP, 60))


def test_a_network_without_a_law_is_known_by_its_traces(store: Store) -> None:
    first = Steps(PairwiseClips, SHAPE, 10, store=store).law()
    peak, largest = first.peak(300), first.largest_batch(100)
    again = Steps(never, SHAPE, 10, store=store).law()
    assert not again.linear and (again.peak(300), again.largest_batch(100)) == (peak, largest)


def test_a_law_answers_questions_about_other_cards(store: Store) -> None:
    Steps(SmallGraphNet, CLIP, 60, store=store).law()
    assert Steps(never, CLIP, 60, store=store).law().peak(50) == Steps(SmallGraphNet, CLIP, 60).law().peak(50)


def test_a_damaged_file_is_no_file(store: Store) -> None:
    Steps(SmallGraphNet, CLIP, 60, store=store).law()
    whole = store.file.read_text()
    assert store.read().fits
    for length in range(0, len(whole), len(whole) // 50):
        store.file.write_text(whole[:length])
        assert store.read() == Findings()
    for place in [index for index, letter in enumerate(whole) if letter.isdigit()][::40]:
        store.file.write_text(whole[:place] + str((int(whole[place]) + 1) % 10) + whole[place + 1 :])
        assert store.read() == Findings()
    for other in ("[]", "null", '{"about": 1}', "\x00", "[" * 100_000):
        store.file.write_text(other)
        assert store.read() == Findings()
    assert Steps(SmallGraphNet, CLIP, 60, store=store).law().linear
    assert store.read().fits


def test_a_file_of_another_question_is_not_read(store: Store) -> None:
    Steps(SmallGraphNet, CLIP, 60, store=store).law()
    assert Store(store.file, store.about + "\n").read() == Findings()


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = Store(tmp_path / "file" / "plan.json", "")
    assert Steps(SmallGraphNet, CLIP, 60, store=nowhere).law().linear


def test_nothing_is_left_lying_beside_the_file(store: Store) -> None:
    Steps(SmallGraphNet, CLIP, 60, store=store).law()
    assert list(store.file.parent.iterdir()) == [store.file]
    told = json.loads(store.file.read_text())
    assert str(Path.home()) not in json.dumps(told["findings"])


def test_other_code_clips_or_torch_are_another_file(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "planted"

    def file(*parts: object) -> Path:
        cache._code.cache_clear()
        found = store_of("planted", folder, *(parts or (CLIP, 60)))
        assert found is not None
        return found.file

    assert file() == store.file
    assert file((3, 64, 25, 2), 60) != store.file
    (folder / "network.py").write_text("width = 16\n")
    assert file() != store.file
    (folder / "network.py").write_text("width = 8\n")
    assert file() == store.file
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert file() != store.file


def test_a_law_found_wrong_is_kept_as_such(store: Store) -> None:
    law = Steps(Threshold, SHAPE, 10, store=store).law()
    assert law.linear
    largest, at = law.largest_batch(20), law.peak(1000)
    again = Steps(never, SHAPE, 10, store=store)
    assert not again.law().linear
    assert (again.law().largest_batch(20), again.peak("train", 1000)) == (largest, at)


def test_any_file_of_the_models_folder_may_be_read(store: Store, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "planted", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "more").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)  # a circle
    (folder / "nowhere").symlink_to(tmp_path / "missing")

    def code() -> str:
        cache._code.cache_clear()
        return cache._code(folder)

    seen = [code()]

    def changed() -> bool:
        seen.append(code())
        return seen[-1] not in seen[:-1]

    (folder / "width.txt").write_text("8")
    assert changed()
    (folder / "width.txt").write_text("9")
    assert changed()
    (folder / "width.txt").rename(folder / "size.txt")
    assert changed()
    (elsewhere / "table").write_bytes(b"1")
    assert changed()
    (elsewhere / "table").write_bytes(b"2")
    assert changed()
    (elsewhere / "table").write_bytes(bytes(cache.LARGE + 1))
    assert changed()
    os.utime(elsewhere / "table", (1, 1))
    assert changed()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "network.pyc").write_bytes(b"1")
    assert not changed()


def test_off_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    assert store_of("planted", tmp_path) is None


def test_a_batch_that_is_too_small_is_refused_again_without_a_network(store: Store) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 10), nn.BatchNorm1d(10))

    with pytest.raises(TooFewValues) as first:
        Steps(build, SHAPE, 10, store=store).peak("train", 1)
    with pytest.raises(TooFewValues) as again:
        Steps(never, SHAPE, 10, store=store).peak("train", 1)
    assert str(again.value) == str(first.value)


def test_a_network_that_says_no_says_so_again_but_a_fault_is_looked_at_again(store: Store) -> None:
    def refuses() -> nn.Module:
        raise UsageError("no window of 3 frames", expected="64")

    with pytest.raises(UsageError):
        Steps(refuses, SHAPE, 10, store=store).peak("train", 4)
    with pytest.raises(LabError, match="no window of 3 frames") as again:
        Steps(never, SHAPE, 10, store=store).peak("train", 4)
    assert again.value.exit_code == UsageError.exit_code

    class Faulty(nn.Flatten):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise MemoryError("of this machine")

    def faulty() -> nn.Module:
        return nn.Sequential(nn.Linear(1, 1), Faulty())

    with pytest.raises(LabError, match="of this machine"):
        Steps(faulty, SHAPE, 10, store=store).peak("eval", 4)
    assert not [task for task in store.read().refusals if task.phase == "eval"]
