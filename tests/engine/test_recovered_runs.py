"""Whole runs that meet damage, a clock that jumps, limits of time and of room, and go on to the same end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from engine import room, train
from engine.checkpoint import load_state, read, save_state, save_weights
from engine.config import parse
from engine.errors import Interrupted, SaveError
from engine.optimizers import build_optimizer
from engine.runfolder import RunFolder
from engine.signals import TIME_IS_UP, StopWish
from sal.train import main
from tests.engine.test_faults import parts, position
from tests.engine.test_train import assert_same
from tests.engine.zygote import MAIN, ROOT, Zygote

STATES = ("last.safetensors", "previous.safetensors")


def run(words: list[str], folder: Path, *more: str) -> int:
    """A run in this process; returns the exit code."""
    return main("baselines", [*words, "--work-dir", str(folder), *more])


@pytest.fixture
def cut_off(parent: Zygote, words: list[str], tmp_path: Path) -> Path:
    """A run that was killed between its epochs, with two states."""
    folder = tmp_path / "run"
    command = [*words, "--work-dir", str(folder), "--save-steps", "1"]
    process = parent.start(MAIN, *command)
    while not (folder / "checkpoints/best.safetensors").exists():
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    assert parent.wait(process) == -signal.SIGKILL, parent.said()
    assert all((folder / "checkpoints" / name).exists() for name in STATES)
    return folder


@pytest.mark.parametrize("kind", ["cut", "flipped", "missing"])
def test_a_damaged_last_state_costs_a_step_and_no_bit(
    cut_off: Path, words: list[str], straight: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    last = cut_off / "checkpoints/last.safetensors"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 16
    if kind == "missing":
        last.unlink()
    else:
        last.write_bytes(content if kind == "flipped" else content[:1000])
    assert run(words, cut_off) == 0
    told = re.sub(r"\s+", "", capsys.readouterr().out)
    assert str(last) in told and "goesonfromthestatebefore" in told
    if kind != "missing":
        assert f"({len(content) if kind == 'flipped' else 1000}bytes)" in told
    assert_same(straight, cut_off)
    names = {file.name for file in (cut_off / "checkpoints").iterdir()}
    assert names == {*STATES, "best.safetensors", *(["damaged.safetensors"] if kind != "missing" else [])}


def test_two_damaged_states_end_with_65(cut_off: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name in STATES:
        (cut_off / "checkpoints" / name).write_bytes(b"x" * 50)
    assert run(words, cut_off) == 65
    said = capsys.readouterr().err
    assert all(name in said for name in STATES) and "--resume never --force" in said
    assert run(words, cut_off, "--resume", "never", "--force") == 0
    assert not (cut_off / "checkpoints/damaged.safetensors").exists()


def test_a_clock_that_jumps_changes_nothing(
    cut_off: Path, words: list[str], straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files from the far future and the past, and a time of day that goes back and forth while the run goes on."""
    for number, file in enumerate(sorted(cut_off.rglob("*"))):
        os.utime(file, (4e9, 4e9) if number % 2 else (1, 1))
    calls = iter(range(10**9))

    def jumping() -> float:
        return 1e9 - 1e8 * next(calls) if next(calls) % 4 else 4e9

    monkeypatch.setattr(time, "time", jumping)
    assert run(words, cut_off) == 0
    assert_same(straight, cut_off)


def test_out_of_time_again_and_again_ends_the_same(
    words: list[str], straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse([*words, "--work-dir", str(tmp_path / "run"), "--time-limit", "1h"], model="baselines")
    codes: list[int] = []
    # Longer each time: an evaluation that is stopped begins anew.
    monkeypatch.setattr(train, "deadline", lambda limit: time.monotonic() + 0.01 * len(codes))
    while True:
        try:
            train.train(config, Console(quiet=True))
            break
        except Interrupted as stopped:
            codes.append(stopped.exit_code)
            assert "run the same command again" in str(stopped)
    assert set(codes) == {85} and len(codes) > 1
    assert_same(straight, tmp_path / "run")


@pytest.mark.parametrize(("text", "length"), [("3h50m", 13800), ("90m", 5400), ("1d2h", 93600), ("45s", 45), ("13800", 13800)])
def test_time_limits(text: str, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import signals

    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    wish = StopWish(signals.deadline(parse(["--time-limit", text], model="baselines").time_limit))
    now[0] += length - 1
    assert wish.signal_number is None
    now[0] += 1
    assert wish.signal_number == TIME_IS_UP


@pytest.mark.parametrize("text", ["0", "soon", "3h50", "1.5h", "50m3h", "-5", "0h", "３h"])
def test_no_time_limits(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main("baselines", ["--recipe", "tiny_cpu", f"--time-limit={text}", "--work-dir", str(tmp_path / "run")])
    if text == "3h50":  # seconds may be left without their letter
        assert code != 2
    else:
        assert code == 2
        assert "3h50m" in capsys.readouterr().err


def test_only_a_second_ctrl_c_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import signals

    now = [0.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    wish = StopWish()
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        now[0] += 5
        wish(number, None)
    assert wish.signal_number == signal.SIGTERM
    now[0] += 5
    with pytest.raises(KeyboardInterrupt):
        wish(signal.SIGINT, None)
    wish = StopWish()
    wish(signal.SIGINT, None)
    now[0] += 0.2  # the same, passed on by torchrun
    wish(signal.SIGINT, None)
    now[0] += 1
    with pytest.raises(KeyboardInterrupt):
        wish(signal.SIGINT, None)


def test_room_is_judged_by_what_is_then_written(straight: Path, words: list[str], tmp_path: Path) -> None:
    """The estimates are those of the files, to 1 %."""
    config = parse([*words, "--work-dir", str(tmp_path / "run")], model="baselines")
    with RunFolder(tmp_path / "run") as folder:
        trainer = train.Trainer(config, folder, Console(quiet=True))
    state, best = (straight / "checkpoints" / name for name in ("last.safetensors", "best.safetensors"))
    assert room.state_bytes(trainer.model, trainer.optimizer) == pytest.approx(state.stat().st_size, rel=0.01)
    assert room.weights_bytes(trainer.model) == pytest.approx(best.stat().st_size, rel=0.01)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_size_of_a_state_does_not_depend_on_steps_taken(tmp_path: Path, name: str) -> None:
    model, _, scaler = parts()
    optimizer = build_optimizer(model.parameters(), name=name, lr=0.1)  # type: ignore[arg-type]
    before = room.state_bytes(model, optimizer)
    optimizer.step()
    save_state(tmp_path / "last", model, optimizer, scaler, position(1))
    assert before == room.state_bytes(model, optimizer)


def test_no_room_is_told_before_anything_is_written(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda path: 5_000_000)
    assert run(words, tmp_path / "run") == 74
    said = capsys.readouterr().err
    assert "5000000 bytes free" in said and str(tmp_path / "run") in said and "three states of" in said
    assert not (tmp_path / "run").exists()


def test_only_the_kept_weights_have_no_room(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda path: 17_500_000)
    assert run(words, tmp_path / "run", "--save-interval", "1", "--max-clips", "8") == 0
    assert "--save-interval 1 will keep 2 files" in " ".join(capsys.readouterr().out.split())


LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_file_size_limit_leaves_the_state_before_it(parent: Zygote, words: list[str], straight: Path, tmp_path: Path) -> None:
    """The first state, without momentum, is below the limit; the next is above."""
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)
    command = [*words, "--work-dir", str(tmp_path / "run"), "--save-steps", "1"]
    last = tmp_path / "run/checkpoints/last.safetensors"
    assert parent.run(script, str(MAIN), *command) == 74
    assert str(last) in parent.said() and re.search(r"could not write 36\d{5} bytes: the file size limit", parent.said())
    assert 1_800_000 < last.stat().st_size < 2_500_000
    read(last)
    assert parent.run(MAIN, *command) == 0
    assert_same(straight, tmp_path / "run")


def namespace() -> list[str]:
    """Words in front of a command that may mount file systems nobody else sees. Skips where that is not allowed."""
    words = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (util-linux) for a small file system of its own")
    tried = subprocess.run([*words, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {tried.stderr.strip()}")
    return words


def test_a_disk_that_fills_up_or_becomes_read_only(words: list[str], straight: Path, tmp_path: Path) -> None:
    """On a file system of 24 MiB: refused at first, then full in the middle of a run, then read-only, then with room again."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    script = Path(__file__).with_name("on_a_small_disk.py")
    inside = [sys.executable, str(script), str(disk), str(kept), str(MAIN), *words]
    done = subprocess.run(
        [*namespace(), "sh", "-c", f'mount -t tmpfs -o size=24m none {disk} && exec "$@"', "sh", *inside],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(straight, kept)


def test_a_start_over_that_is_cut_off_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The states are the first to go, the older one before the newer: what is left is never half of a run with a state."""
    with RunFolder(tmp_path / "run") as folder:
        for file in (folder.last, folder.previous, folder.best, folder.log):
            file.write_bytes(b"x")
        gone: list[str] = []
        real = Path.unlink
        monkeypatch.setattr(Path, "unlink", lambda file, missing_ok=False: (gone.append(file.name), real(file, missing_ok))[1])
        folder.clear()
    assert gone[:2] == ["previous.safetensors", "last.safetensors"]


def test_the_lock_says_who_holds_the_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run"):
        held = (tmp_path / "run/.lock").read_text()
    host, when = re.escape(os.uname().nodename), r"\d{4}-\d\d-\d\d [\d:]+\+00:00"
    assert re.fullmatch(rf"process {os.getpid()} on {host} since {when}\n", held)


def test_weights_are_sealed_too(tmp_path: Path) -> None:
    model, optimizer, scaler = parts()
    file = tmp_path / "best.safetensors"
    save_weights(file, model, {"epoch": 1})
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    from engine.weights import load_weights

    with pytest.raises(Exception, match="SHA-256"):
        load_weights(file, model, "baselines")
    with pytest.raises(Exception, match="SHA-256"):
        load_state(file, model, optimizer, scaler)


def test_a_save_that_fails_for_good_says_how_often_it_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import storage

    slept: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", slept.append)

    def stale(*_: object, **__: object) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "fsync", stale)
    with pytest.raises(SaveError, match="also when tried 4 times more"):
        storage.write_atomically(tmp_path / "state", b"x")
    assert slept == sorted(slept) and len(slept) == 4 and sum(slept) > 5
