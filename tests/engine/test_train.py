"""Whole runs: they end, they resume, and they fail in the documented ways.

Through models/ctrgcn/main.py, in a process of its own, where that matters: what is cut off, and one run that it is held against.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.checkpoint import read
from engine.runfolder import read_log
from sal.__main__ import main
from shared_data.errors import MissingInputError

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def finished(tiny_data: Path, quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    done = subprocess.run(command(quick, tiny_data, folder), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def command(quick: list[str], data: Path, folder: Path, *more: str) -> list[str]:
    script = str(ROOT / "models/ctrgcn/main.py")
    return [sys.executable, script, *flags(quick, data, folder, *more)]


def flags(quick: list[str], data: Path, folder: Path, *more: str) -> list[str]:
    return [*quick, "--data", str(data), "--work-dir", str(folder), *more]


def train(*words: str) -> int:
    """`sal train ctrgcn` in this process; returns the exit code."""
    return main(["train", "ctrgcn", *words])


def results(folder: Path) -> dict[str, Any]:
    """Everything a run computed, without the clock."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("seconds")
    timeless = ("seconds", "clips_per_s", "rss_mib", "peak_allocated_mib", "peak_reserved_mib")
    log = [{k: v for k, v in event.items() if k not in timeless} for event in read_log(folder / "log.jsonl")]
    return {"metrics": metrics, "log": log}


def assert_same(a: Path, b: Path) -> None:
    for name in ("last", "best"):
        one, other = (read(f / "checkpoints" / f"{name}.safetensors")[0] for f in (a, b))
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert results(a) == results(b)
    for name in ("scores.npz", "scores_best.npz"):
        with np.load(a / name, allow_pickle=False) as one, np.load(b / name, allow_pickle=False) as other:
            assert all(np.array_equal(one[key], other[key]) for key in ("ids", "labels", "logits"))


def test_run_folder_holds_what_is_promised(finished: Path) -> None:
    names = {p.name for p in finished.iterdir()} - {".lock"}
    assert names == {
        "config.yaml", "env.json", "log.jsonl", "metrics.json", "scores.npz", "scores_best.npz", "examples.npz",
        "checkpoints", "report.html",
    }  # fmt: skip
    metrics = json.loads((finished / "metrics.json").read_text())
    assert set(metrics["selection"]) == {"last", "best_on_test"}
    assert metrics["selection"]["best_on_test"]["top1"] >= metrics["selection"]["last"]["top1"]
    assert np.sum(metrics["selection"]["last"]["confusion"]) == metrics["clips_test"] == 12
    events = list(read_log(finished / "log.jsonl"))
    assert [e["event"] for e in events if e["event"] in ("epoch", "eval")] == ["epoch", "eval"] * 2
    assert all("peak_allocated_mib" in e and "peak_reserved_mib" in e for e in events if e["event"] == "epoch")
    report = (finished / "report.html").read_text()
    assert "<svg" in report and "http://" not in report.replace("http://www.w3.org", "")


def test_scores_are_the_logits_of_the_last_weights(finished: Path, tiny_data: Path, quick: list[str], tmp_path: Path) -> None:
    weights = finished / "checkpoints/last.safetensors"
    assert main(["test", "ctrgcn", *flags(quick, tiny_data, tmp_path / "t", "--weights", str(weights))]) == 0
    with np.load(finished / "scores.npz") as trained, np.load(tmp_path / "t/scores.npz") as tested:
        np.testing.assert_array_equal(trained["logits"], tested["logits"])
        np.testing.assert_array_equal(trained["ids"], tested["ids"])


def wait_for_step(process: subprocess.Popen[str], log: Path, step: int) -> None:
    """Until the log shows global step `step`."""
    for _ in range(6000):
        if any(e.get("step", 0) >= step for e in read_log(log) if e["event"] == "step"):
            return
        if process.poll() is not None:
            pytest.fail(f"the run ended early: {process.communicate()}")
        time.sleep(0.01)
    pytest.fail("no step in the log after a minute")


@pytest.mark.parametrize(
    ("number", "step", "extra", "apart"),
    [
        pytest.param(signal.SIGKILL, 2, [], False, marks=pytest.mark.slow),  # before the first epoch's checkpoint
        pytest.param(signal.SIGKILL, 8, [], False, marks=pytest.mark.slow),  # in the second epoch: back to the epoch's start
        (signal.SIGKILL, 10, ["--save-steps", "1"], True),  # with a state inside the epoch; goes on in a new process
        (signal.SIGINT, 4, [], False),
        pytest.param(signal.SIGINT, 6, [], False, marks=pytest.mark.slow),  # about the end of an epoch
        pytest.param(signal.SIGTERM, 8, [], True, marks=pytest.mark.slow),
    ],
)
def test_cut_off_and_resumed_ends_bit_for_bit_the_same(
    finished: Path,
    tiny_data: Path,
    quick: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    step: int,
    extra: list[str],
    apart: bool,
) -> None:
    folder = tmp_path / "run"
    words = command(quick, tiny_data, folder, *extra)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_step(process, folder / "log.jsonl", step)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), said
    if number != signal.SIGKILL:
        assert "run the same command again" in said
    if apart:
        again = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        assert again.returncode == 0, again.stderr
        out = again.stdout
    else:
        assert train(*flags(quick, tiny_data, folder, *extra)) == 0
        out = capsys.readouterr().out
    assert "resuming" in out
    assert_same(finished, folder)


def test_prefetching_changes_no_bit(finished: Path, tiny_data: Path, quick: list[str], tmp_path: Path) -> None:
    assert train(*flags(quick, tiny_data, tmp_path / "run", "--num-worker", "0")) == 0
    assert_same(finished, tmp_path / "run")


def test_changed_settings_are_shown_and_refused(
    finished: Path, tiny_data: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*flags(quick, tiny_data, finished, "--base-lr", "0.3")) == 73
    assert "base_lr: 0.05 -> 0.3" in capsys.readouterr().err


def test_honest_protocol_holds_clips_out_and_looks_at_the_test_set_once(
    tiny_data: Path, quick: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert train(*flags(quick, tiny_data, folder, "--protocol", "honest", "--num-epoch", "1")) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["selection"]) == {"last", "best_on_validation"}
    assert metrics["clips_train"] + metrics["clips_test"] == 24
    assert np.sum(metrics["test"]["last"]["confusion"]) == 12


def test_divergence_names_the_batch_and_keeps_the_checkpoint(
    tiny_data: Path, quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert train(*flags(quick, tiny_data, folder, "--base-lr", "1e30", "--warm-up-epoch", "0")) == 70
    named = json.loads((folder / "diverged.json").read_text())
    assert len(named["ids"]) == 4
    assert named["ids"][0] in capsys.readouterr().err
    state, _ = read(folder / "checkpoints/last.safetensors")
    assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())


LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_no_room_while_saving(tiny_data: Path, quick: list[str], tmp_path: Path) -> None:
    words = [sys.executable, "-c", LIMITED.format(limit=1_000_000), *command(quick, tiny_data, tmp_path / "run")[1:]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 74, done.stderr
    assert "last.safetensors" in done.stderr and "bytes" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/sys").is_dir(), reason="needs /proc to find a read-only place")
def test_unwritable_work_dir(tiny_data: Path, quick: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*flags(quick, tiny_data, Path("/proc/sys/run"))) == 73
    assert "--work-dir" in capsys.readouterr().err


def test_a_run_that_could_not_start_can_be_started_rightly(tiny_data: Path, quick: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(*flags(quick, tmp_path / "typo.npz", folder)) == 66
    assert train(*flags(quick, tiny_data, folder, "--num-epoch", "1", "--max-clips", "8")) == 0


def test_resuming_on_other_clips_is_refused(
    finished: Path, quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from shared_data.synthetic import write_synthetic

    other = write_synthetic(tmp_path / "other_synthetic.npz", classes=4, train_per_class=7, test_per_class=3, frames=80)
    assert train(*flags(quick, other, finished)) == 73
    assert "other clips" in capsys.readouterr().err


def test_resuming_on_other_coordinates_is_refused_and_on_a_moved_file_is_not(
    finished: Path, tiny_data: Path, quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    with np.load(tiny_data) as arrays:
        columns = dict(arrays)
    np.savez(tmp_path / "tripled_synthetic.npz", **{**columns, "x_train": 3 * columns["x_train"]})
    moved = shutil.copy(tiny_data, tmp_path / "moved_synthetic.npz")
    assert train(*flags(quick, tmp_path / "tripled_synthetic.npz", folder)) == 73
    assert "other clips" in capsys.readouterr().err
    assert train(*flags(quick, moved, folder)) == 0


def test_missing_data(quick: list[str], tmp_path: Path, run_main: Run) -> None:
    done = run_main(*quick, "--data", str(tmp_path / "nothing.npz"), "--work-dir", str(tmp_path / "run"))
    assert done.returncode == 66, done.stderr
    assert "nothing.npz" in done.stderr
    assert "Traceback" not in done.stderr


def test_recipe_of_another_data_set(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*flags(["--recipe", "ntu60_xsub"], tiny_data, tmp_path / "run")) == 65
    assert "60 classes" in capsys.readouterr().err


def test_empty_parameters_and_a_refused_start(tiny_data: Path, tmp_path: Path) -> None:
    """Hyper-GCN without virtual joints has parameters without entries; a start that is refused leaves no folder behind."""
    from rich.console import Console

    from engine.config import parse
    from engine.train import train

    words = ["--recipe", "tiny_cpu", "--num-epoch", "1", "--max-clips", "8", "--train-window-size", "8"]
    words += ["--test-window-size", "8", "--model-args.hyper_joints", "0", "--work-dir", str(tmp_path / "run"), "--device", "cpu"]
    with pytest.raises(MissingInputError):
        train(parse([*words, "--data", str(tmp_path / "none.npz")], model="hypergcn"), Console(quiet=True))
    assert not (tmp_path / "run").exists()
    folder = train(parse([*words, "--data", str(tiny_data)], model="hypergcn"), Console(quiet=True))
    assert (folder / "checkpoints" / "last.safetensors").exists()


def test_a_run_goes_on_with_the_classes_it_began_with(
    finished: Path, quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from shared_data.synthetic import write_synthetic

    other = write_synthetic(tmp_path / "other_synthetic.npz", classes=5, train_per_class=6, test_per_class=3, frames=80, seed=3)
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    assert train(*flags(quick, other, folder)) == 73
    assert "other clips" in capsys.readouterr().err


def test_a_finished_run_says_how_it_gets_more_epochs(
    finished: Path, tiny_data: Path, quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    words = flags(quick, tiny_data, folder)
    assert train(*words) == 0
    more = capsys.readouterr().out.split("for more epochs: ")[1].split(",")[0].split()
    assert "--force" in more
    more[more.index("--num-epoch") + 1] = "3"
    assert train(*words, *more) == 0
    assert "goes on at epoch 3" in capsys.readouterr().out
    assert [e["epoch"] for e in read_log(folder / "log.jsonl") if e["event"] == "eval"] == [0, 1, 2]


def test_stopped_while_the_honest_test_set_is_scored_keeps_the_last_weights(
    monkeypatch: pytest.MonkeyPatch, tiny_data: Path, quick: list[str], tmp_path: Path
) -> None:
    """By then the network holds the validation's choice, which must not be saved as the state of the run."""
    from rich.console import Console

    from engine import closing
    from engine.config import parse
    from engine.errors import Interrupted
    from engine.train import train

    words = [*quick, "--max-clips", "12", "--data", str(tiny_data), "--work-dir", str(tmp_path / "run"), "--protocol", "honest"]
    last, stopped = tmp_path / "run/checkpoints/last.safetensors", []

    def other_weights(file: Path, model: torch.nn.Module, *_: object) -> None:
        """In the place of the best ones, and Ctrl-C right after them."""
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        stopped.append(last.read_bytes())
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(closing, "load_weights", other_weights)
    with pytest.raises(Interrupted):
        train(parse(words, model="ctrgcn"), Console(quiet=True))
    assert stopped == [last.read_bytes()]


def test_a_test_writes_nothing_after_it_gave_up_the_lock(
    finished: Path, tiny_data: Path, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import launch
    from engine.config import parse
    from engine.runfolder import FIT, RunFolder

    events, folder = [], tmp_path / "scores"
    write, release = RunFolder.write_json, RunFolder.release
    monkeypatch.setattr(RunFolder, "write_json", lambda self, name, value: (events.append(name), write(self, name, value)))
    monkeypatch.setattr(RunFolder, "release", lambda self: (events.append("released"), release(self)))
    words = [*flags(quick, tiny_data, folder), "--weights", str(finished / "checkpoints/best.safetensors")]
    config = parse(words, model="ctrgcn", phase="test")
    assert launch.run(config, {FIT: {"fit": "8GiB"}}) == 0
    assert events[-2:] == [FIT, "released"] and (folder / FIT).exists()
    assert launch.run(config) == 0
    assert not (folder / FIT).exists()
