import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.config import RunConfig
from engine.errors import WorkDirError
from engine.runfolder import FIT, RunFolder, fit_to_resume, read_log

CONFIG = RunConfig(model="ctrgcn", data="a.npz")


def test_one_writer(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    second = f"from pathlib import Path; from engine.runfolder import RunFolder; RunFolder(Path({str(folder.path)!r}))"
    done = subprocess.run([sys.executable, "-c", second], capture_output=True, text=True, check=False)
    assert "WorkDirError" in done.stderr
    assert "in use by process" in done.stderr


def test_another_runs_folder_is_refused_with_the_difference(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run")
    assert first.claim(CONFIG) is False
    first.record(CONFIG)
    first.last.touch()
    other = dataclasses.replace(CONFIG, base_lr=0.5)
    with pytest.raises(WorkDirError) as caught:
        first.claim(other)
    assert "base_lr: 0.1 -> 0.5" in str(caught.value)
    first.claim(dataclasses.replace(other, force=True))


def test_a_folder_with_foreign_files_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    for name in ("thesis.tex", ".precious.tmp", ".my.precious.tmp"):
        (tmp_path / name).write_text("x")
    with pytest.raises(WorkDirError):
        RunFolder(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".my.precious.tmp", ".precious.tmp", "thesis.tex"]
    RunFolder(tmp_path, force=True).release()


def test_results_without_a_checkpoint_are_not_wiped(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.record(CONFIG)
        folder.best.write_bytes(b"weights")
        with pytest.raises(WorkDirError, match="would remove them"):
            folder.claim(CONFIG)
        assert folder.claim(dataclasses.replace(CONFIG, force=True)) is False


@pytest.mark.parametrize("text", ["", "hello", "- 1", "a: [", "!!python/object:os.system {}"])
def test_unreadable_settings_are_not_taken_for_the_same(tmp_path: Path, text: str) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.last.touch()
        (folder.path / "config.yaml").write_text(text)
        with pytest.raises(WorkDirError, match="cannot be read"):
            folder.claim(CONFIG)


def test_scores_are_not_written_over_a_training_run(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.record(CONFIG)
        folder.last.touch()
        with pytest.raises(WorkDirError, match="training run"):
            folder.claim(dataclasses.replace(CONFIG, phase="test", force=True))


def test_a_start_that_failed_does_not_stand_in_the_way(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.claim(CONFIG)  # and then the data turns out to be missing
    with RunFolder(tmp_path / "run") as folder:
        assert folder.claim(dataclasses.replace(CONFIG, base_lr=0.5)) is False


def test_the_fit_of_a_run_is_found_only_where_that_run_goes_on(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.write_json(FIT, {"fit": "8GiB"})
        assert fit_to_resume(CONFIG, folder.path) is None  # nothing to go on from
        folder.last.touch()
        assert (fit_to_resume(CONFIG, folder.path) or {})["fit"] == "8GiB"
        assert fit_to_resume(dataclasses.replace(CONFIG, resume="never"), folder.path) is None
        assert fit_to_resume(dataclasses.replace(CONFIG, phase="test"), folder.path) is None
        for broken in ("{", "[]", "{}", '{"fit": 8}'):
            (folder.path / FIT).write_text(broken)
            with pytest.raises(WorkDirError, match="cannot be read"):
                fit_to_resume(CONFIG, folder.path)
        folder.clear()
        assert not (folder.path / FIT).exists()
    assert fit_to_resume(CONFIG, Path("no\0name")) is None


def test_arrays_come_back_as_they_were_and_objects_are_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.write_arrays("a.npz", ids=np.array(["x"]), logits=np.zeros((1, 2)))
        with np.load(folder.path / "a.npz", allow_pickle=False) as read:
            assert sorted(read.files) == ["ids", "logits"]
        with pytest.raises(AssertionError):
            folder.write_arrays("b.npz", x=np.array([{}], dtype=object))


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(WorkDirError) as caught:
        RunFolder(tmp_path / "run")
    assert caught.value.exit_code == 73


def test_log_torn_at_every_byte_reads_back_a_prefix(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for epoch in range(3):
        folder.append_log("epoch", epoch=epoch, loss=0.5)
    whole = folder.log.read_bytes()
    lines = [len(part) for part in whole.splitlines(keepends=True)]
    ends = [sum(lines[: i + 1]) for i in range(3)]
    for size in range(len(whole) + 1):
        folder.log.write_bytes(whole[:size])
        epochs = [event["epoch"] for event in read_log(folder.log)]
        complete = sum(size >= end - 1 for end in ends)  # a line without its newline is complete too
        assert epochs == list(range(complete))


def test_cutting_the_log_to_a_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.append_log("epoch", epoch=0)
    size = folder.settle_log()
    folder.append_log("epoch", epoch=1)
    folder.cut_log(size)
    assert [event["epoch"] for event in read_log(folder.log)] == [0]
    folder.log.write_bytes(folder.log.read_bytes() + b'{"event": "ep')  # torn, and shorter than the checkpoint remembers
    folder.cut_log(1000)
    folder.append_log("epoch", epoch=2)
    assert [event["epoch"] for event in read_log(folder.log)] == [0, 2]


def test_the_log_is_on_the_disk_before_a_state_counts_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    with RunFolder(tmp_path / "run") as folder:
        assert folder.settle_log() == 0
        folder.append_log("epoch", epoch=0)
        monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
        assert folder.settle_log() == folder.log.stat().st_size
    assert flushed == [str(folder.log)]
