"""A command of this machine becomes one of the container."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cage import Bind
from orchestrator.command import read_command
from orchestrator.errors import OrchestratorError


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with data, weights of an earlier run, a recipe of the user's, and a checkout with one recipe."""
    for name in ("data/clips.npz", "other/clips.npz", "work_dir/run/best.safetensors", "mine.yaml",
                 "checkout/models/ctrgcn/recipes/ntu60_xsub.yaml"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(*words: str):
    return read_command(words, "ctrgcn", Path("work_dir"), Path("checkout"))


def test_training(here):
    found = read("train", "--recipe", "ntu60_xsub", "--data", "data/clips.npz", "--num-epoch", "3")
    assert found.words == (
        *("python3", "main.py", "--phase", "train", "--recipe", "ntu60_xsub"),
        *("--data", "/workspace/data/clips.npz", "--num-epoch", "3"),
    )
    assert found.binds == (Bind(here / "data/clips.npz", "/workspace/data/clips.npz"),)
    assert found.writes and found.work_dir == Path("work_dir")


def test_what_lies_in_the_work_folder_is_not_mounted_twice(here):
    found = read("test", "--weights=work_dir/run/best.safetensors", "--config=mine.yaml")
    assert found.words[3:] == (
        *("test", "--weights", "/workspace/work_dir/run/best.safetensors"),
        *("--config", "/workspace/config/mine.yaml"),
    )
    assert found.binds == (Bind(here / "mine.yaml", "/workspace/config/mine.yaml"),)


def test_a_work_folder_of_its_own(here):
    found = read("train", "--work-dir", "elsewhere/a", "--weights", "work_dir/run/best.safetensors")
    assert found.work_dir == Path("elsewhere/a")
    assert found.words[4:] == ("--work-dir", "/workspace/work_dir", "--weights", "/workspace/weights/best.safetensors")


def test_the_features_of_a_zero_shot_run(here):
    found = read("python3", "main.py", "run", "--ntu", "60", "--ss", "5", "--root", "data", "--work-dir", "elsewhere/b")
    assert found.words[2:] == (
        *("run", "--ntu", "60", "--ss", "5"),
        *("--root", "/workspace/data/data", "--work-dir", "/workspace/work_dir"),
    )
    assert found.binds == (Bind(here / "data", "/workspace/data/data"),)
    assert found.work_dir == Path("elsewhere/b") and found.writes


def test_a_link_keeps_its_name_and_shows_its_file(here):
    Path("NTU60_CS.npz").symlink_to("data/clips.npz")
    found = read("train", "--data", "NTU60_CS.npz")
    assert found.binds == (Bind(here / "data/clips.npz", "/workspace/data/NTU60_CS.npz"),)


def test_paths_of_the_image_stay(here):
    found = read("train", "--config", "recipes/ntu60_xsub.yaml", "--data", "/workspace/data/mounted.npz")
    assert found.words[4:] == ("--config", "recipes/ntu60_xsub.yaml", "--data", "/workspace/data/mounted.npz")
    assert found.binds == ()


def test_another_command_stays_as_it_is(here):
    found = read("sh", "-c", "ls data/clips.npz", "data/clips.npz")
    assert found.words == ("sh", "-c", "ls data/clips.npz", "data/clips.npz") and not found.writes and found.binds == ()
    assert read().words == ()


@pytest.mark.parametrize("before", [("python3", "main.py"), ("sal", "train", "ctrgcn"), ("sal", "test", "ctrgcn")])
def test_other_ways_to_say_it(here, before):
    found = read(*before, "--recipe", "ntu60_xsub", "--data=data/clips.npz")
    assert found.words == (*before, "--recipe", "ntu60_xsub", "--data", "/workspace/data/clips.npz") and found.writes


def test_other_verbs_of_sal(here):
    found = read("sal", "data", "convert", "data/clips.npz", "--to", "store", "--out=work_dir/new.h5", "ctrgcn", "no/such.npz")
    assert found.words == (
        *("sal", "data", "convert", "/workspace/data/clips.npz", "--to", "store", "--out=/workspace/work_dir/new.h5"),
        *("ctrgcn", "no/such.npz"),
    )
    assert found.binds == (Bind(here / "data/clips.npz", "/workspace/data/clips.npz"),) and not found.writes


def test_a_folder_is_mounted_by_its_name_wherever_one_stands(here, monkeypatch):
    monkeypatch.chdir(here / "data")
    assert read("train", "--data", ".").binds == (Bind(here / "data", "/workspace/data/data"),)
    with pytest.raises(OrchestratorError, match="/ as a whole") as raised:
        read("train", "--data", "/")
    assert raised.value.exit_code == 2


def test_a_folder_that_may_not_be_looked_into(here, monkeypatch):
    def shut(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", shut)
    with pytest.raises(OrchestratorError, match="cannot be looked at: Permission denied") as raised:
        read("train", "--data", "shut/clips.npz")
    assert raised.value.exit_code == 66


@pytest.mark.parametrize(
    ("words", "code", "word"),
    [
        (("train", "--data", "nowhere.npz"), 66, "no nowhere.npz on this machine"),
        (("test", "--weights=gone.pt"), 66, "--weights: no gone.pt"),
        (("train", "--data", "data/clips.npz", "--data", "other/clips.npz"), 2, "two different files are called clips.npz"),
    ],
)
def test_what_cannot_be_read(here, words, code, word):
    with pytest.raises(OrchestratorError) as raised:
        read(*words)
    assert raised.value.exit_code == code and word in raised.value.what and raised.value.next_step
