"""What goes wrong while a state is written, or happens to it afterwards: a whole one is always there, the message is enough."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from engine import recovery, storage
from engine.checkpoint import DamagedError, read, save_state
from engine.errors import SaveError, WeightsError
from engine.optimizers import build_optimizer
from engine.runfolder import RunFolder
from engine.storage import append_line, sweep_temporaries, write_atomically
from tests.engine.zygote import Zygote

SAVE = Path(__file__).with_name("faulty_save.py")
CALLS = ["open", "write", "fchmod", "fsync", "posix_fadvise", "pread", "pread", "close", "unlink", "link", "replace", "unlink",
         "replace", "open", "fsync", "close"]  # fmt: skip
"""Of one save, in order: the new file is written, flushed and read back; the old one is kept; the new one is renamed; the folder
is flushed."""
MAY_PASS = (errno.EIO, errno.EAGAIN, errno.ESTALE)
ERRORS = (*MAY_PASS, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM)


def parts(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer, torch.amp.GradScaler]:
    torch.manual_seed(seed)
    model = nn.Linear(5, 3)
    optimizer = build_optimizer(model.parameters(), lr=0.1)
    model(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    return model, optimizer, torch.amp.GradScaler("cpu", enabled=False)


def position(epoch: int) -> dict[str, object]:
    sums = {"loss": 0.5, "correct": 1, "seen": 2}
    return {"epoch": epoch, "step": 0, "global_step": 9, "sums": sums, "last": None, "best": None, "seconds_before": 1.0,
            "log_size": 0, "data": 7}  # fmt: skip


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Three states of a run: the one before, the last, the new one."""
    folder = tmp_path_factory.mktemp("states")
    for epoch in range(3):
        save_state(folder / str(epoch), *parts(epoch), position(epoch))
    return [(folder / str(epoch)).read_bytes() for epoch in range(3)]


class Saving:
    """A folder with two states, in which a third one is saved by another process under `faulty_save`'s conditions."""

    def __init__(self, parent: Zygote, folder: Path, states: list[bytes]) -> None:
        self.parent, self.folder, self.states = parent, folder, states
        self.last, self.previous = folder / "last.safetensors", folder / "previous.safetensors"

    def save(self, mode: str, at: int = -1, error: int = 0) -> int:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        (self.folder / "new").write_bytes(self.states[2])
        self.previous.write_bytes(self.states[0])
        self.last.write_bytes(self.states[1])
        return self.parent.run(SAVE, str(self.folder), mode, str(at), str(error))

    def require_whole(self) -> int:
        """Which state a run would go on from; every file under the name of a state is one."""
        found = [self.states.index(file.read_bytes()) for file in (self.last, self.previous) if file.exists()]
        for file in (self.last, self.previous):
            if file.exists():
                read(file)
        return found[0]

    def require_next_save_works(self) -> None:
        """What is left does not stand in the way, and is removed at the start."""
        before = self.last.read_bytes() if self.last.exists() else None
        write_atomically(self.last, self.states[2], previous=self.previous)
        assert self.last.read_bytes() == self.states[2]
        if before is not None:
            assert self.previous.read_bytes() == before
        sweep_temporaries(self.folder)
        assert {file.name for file in self.folder.iterdir()} == {"last.safetensors", "previous.safetensors", "new"}


@pytest.fixture
def saving(parent: Zygote, tmp_path: Path, states: list[bytes]) -> Saving:
    return Saving(parent, tmp_path / "states", states)


def test_the_calls_of_a_save_are_known(saving: Saving) -> None:
    assert saving.save("record") == 0
    assert saving.parent.said().split() == CALLS
    assert (saving.last.read_bytes(), saving.previous.read_bytes()) == (saving.states[2], saving.states[1])


@pytest.mark.parametrize("mode", ["kill", "killed after", "torn"])
def test_killed_between_any_two_calls(saving: Saving, mode: str) -> None:
    at = [i for i, name in enumerate(CALLS) if mode != "torn" or name == "write"]
    renamed = max(i for i, name in enumerate(CALLS) if name == "replace") + (mode == "kill")
    for index in at:
        assert saving.save(mode, index) == -signal.SIGKILL
        assert saving.require_whole() == (2 if index >= renamed else 1), index
        saving.require_next_save_works()


@pytest.mark.parametrize("error", ERRORS, ids=[errno.errorcode[error] for error in ERRORS])
def test_any_call_may_fail(saving: Saving, error: int) -> None:
    """Once: what may pass is tried again, and the save succeeds. Again and again: it ends with 74, path and bytes."""
    for index, name in enumerate(CALLS):
        for mode in ("once", "always"):
            case = f"{mode} {index} {name}"
            code = saving.save(mode, index, error)
            assert code in (0, 74), (case, saving.parent.said())
            if code == 74:
                assert str(saving.last) in saving.parent.said() and f"{len(saving.states[2])} bytes" in saving.parent.said(), case
            whole = saving.require_whole()
            if code == 0:
                assert (whole, saving.previous.read_bytes()) == (2, saving.states[1]), case
            else:
                renamed = index > max(i for i, call in enumerate(CALLS) if call == "replace")
                assert whole == (2 if renamed else 1), case
            if mode == "once" and error in MAY_PASS:
                assert code == 0 and "trying again" in saving.parent.said(), case
            elif not (name == "link" and error in storage.NO_LINKS):
                assert code == 74, case
            saving.require_next_save_works()


def test_without_hard_links_a_whole_state_is_there_too(saving: Saving) -> None:
    """As on FAT: for a moment only under the name of the previous one."""
    only_previous = 0
    for index in range(CALLS.index("link") + 1, CALLS.index("link") + 3):  # one call less than with links
        assert saving.save("kill without links", index, errno.EPERM) == -signal.SIGKILL
        assert saving.require_whole() == 1
        only_previous += not saving.last.exists()
        saving.require_next_save_works()
    assert only_previous == 1


def test_saved_twice_from_the_same_state(tmp_path: Path) -> None:
    """A kill between the two renames leaves two names of one file; renaming one to the other does nothing."""
    last, previous = tmp_path / "last", tmp_path / "previous"
    last.write_bytes(b"1")
    previous.hardlink_to(last)
    write_atomically(last, b"2", previous=previous)
    assert (last.read_bytes(), previous.read_bytes()) == (b"2", b"1")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last", "previous"]


def test_somebody_who_reads_all_the_time_always_finds_a_state(tmp_path: Path, states: list[bytes]) -> None:
    last, end, read_times, wrong = tmp_path / "last.safetensors", threading.Event(), itertools.count(), []
    last.write_bytes(states[0])

    def look() -> None:
        while not end.is_set():
            try:
                read(last)
                next(read_times)
            except Exception as error:
                wrong.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(200):
        write_atomically(last, states[number % 3], previous=tmp_path / "previous.safetensors")
    end.set()
    reader.join()
    assert not wrong
    assert next(read_times) > 20


def test_a_disk_that_keeps_something_else_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last, real = tmp_path / "last", os.write
    write_atomically(last, b"good" * 1000)
    monkeypatch.setattr(storage, "PAUSES", (0.0,))

    def flipped(handle: int, content: bytes) -> int:
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 4
        return real(handle, bytes(changed))

    monkeypatch.setattr(os, "write", flipped)
    with pytest.raises(SaveError, match=r"reads back differently from byte 0 on") as caught:
        write_atomically(last, b"new." * 1000)
    assert "4000 bytes" in str(caught.value)
    assert last.read_bytes() == b"good" * 1000
    assert list(tmp_path.iterdir()) == [last]


def test_a_line_is_added_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, real, failures = tmp_path / "log.jsonl", os.write, [errno.EIO, errno.ENOSPC]
    append_line(log, b"one\n")

    def torn(handle: int, content: bytes) -> int:
        if failures:
            real(handle, content[:2])
            raise OSError(failures[0], os.strerror(failures.pop(0)))
        return real(handle, content)

    monkeypatch.setattr(os, "write", torn)
    monkeypatch.setattr(storage, "PAUSES", (0.0,))
    with pytest.raises(SaveError, match="the disk is full"):  # after EIO, which was tried again
        append_line(log, b"two\n")
    assert log.read_bytes() == b"one\n"
    append_line(log, b"two\n")
    assert log.read_bytes() == b"one\ntwo\n"


def damage(content: bytes, count: int = 400) -> Iterator[tuple[str, bytes]]:
    """Cut off anywhere, with a wrong bit anywhere, with zeros for a block, with something behind it."""
    chance = random.Random(5)
    for size in {*range(0, len(content), len(content) // 150), len(content) - 1}:
        yield f"{size} bytes", content[:size]
    header = int.from_bytes(content[:8], "little") + 8
    for place in [*range(header), *(chance.randrange(header, len(content)) for _ in range(count))]:
        bit = 1 << chance.randrange(8)
        yield f"bit {bit} of byte {place}", content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
    for start in range(0, len(content), 512):
        yield f"zeros from {start}", content[:start] + bytes(len(content[start : start + 512])) + content[start + 512 :]
    yield "more", content + b"\0"


def test_no_damage_goes_unnoticed(tmp_path: Path, states: list[bytes]) -> None:
    """The name of the seal is all that may be damaged and pass: nothing else is wrong then."""
    file, passed = tmp_path / "last.safetensors", []
    good = read(_written(file, states[1]))
    for kind, content in damage(states[1]):
        if content == states[1]:
            continue
        try:
            tensors, header = read(_written(file, content))
        except DamagedError as error:
            assert f"{file} ({len(content)} bytes)" in str(error), kind
            continue
        assert all(torch.equal(tensors[name], value) for name, value in good[0].items()), kind
        assert all(header.get(name) == value for name, value in good[1].items() if name != "sha256"), kind
        passed.append(kind)
    assert len(passed) <= len("sha256") and all(kind.startswith("bit ") for kind in passed), passed


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "missing"])
def test_a_damaged_state_is_put_aside_and_the_one_before_is_taken(tmp_path: Path, states: list[bytes], kind: str) -> None:
    said: list[str] = []
    with RunFolder(tmp_path / "run") as folder:
        folder.previous.write_bytes(states[0])
        bad = {"cut": states[1][:-9], "flipped": states[1][:-1] + bytes([states[1][-1] ^ 1]), "empty": b""}.get(kind)
        if bad is not None:
            folder.last.write_bytes(bad)
        found = recovery.restore(folder, *parts(8), accept=lambda position: None, tell=said.append)
        assert found["epoch"] == 0
        assert folder.last.read_bytes() == states[0] and not folder.previous.exists()
        assert str(folder.last) in said[0] and f"{len(states[0])} bytes" in said[0]
        aside = folder.checkpoints / "damaged.safetensors"
        if bad is None:
            assert not aside.exists()
        else:
            assert aside.read_bytes() == bad and f"({len(bad)} bytes)" in said[0]


def test_two_damaged_states_are_both_named(tmp_path: Path, states: list[bytes]) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.last.write_bytes(states[1][:100])
        folder.previous.write_bytes(states[0][:90])
        with pytest.raises(WeightsError) as caught:
            recovery.restore(folder, *parts(8), accept=lambda position: None, tell=lambda text: None)
        told = str(caught.value)
        assert f"{folder.last} (100 bytes)" in told and f"{folder.previous} (90 bytes)" in told
        assert caught.value.exit_code == 65
        assert folder.last.exists() and folder.previous.exists()


def test_the_state_of_another_run_is_no_damage(tmp_path: Path, states: list[bytes]) -> None:
    """It is refused, and nothing is put aside."""
    with RunFolder(tmp_path / "run") as folder:
        folder.last.write_bytes(states[1])
        folder.previous.write_bytes(states[0])
        other = nn.Linear(9, 9)
        with pytest.raises(WeightsError, match="not the full state"):
            recovery.restore(
                folder, other, build_optimizer(other.parameters(), lr=1.0), parts()[2],
                accept=lambda position: None, tell=lambda text: None,
            )  # fmt: skip
        assert folder.last.read_bytes() == states[1]


LIES: dict[str, Callable[[dict[str, object]], object]] = {
    "epoch in words": lambda p: p.update(epoch="1"),
    "a step before the first": lambda p: p.update(step=-1),
    "no sums": lambda p: p.update(sums=None),
    "a loss that is no number": lambda p: p.update(sums={"loss": float("nan"), "correct": 1, "seen": 2}),
    "a result that is a list": lambda p: p.update(best=[1]),
    "a result without an epoch": lambda p: p.update(last={"top1": 0.5}),
    "no time": lambda p: p.pop("seconds_before"),
    "a log of no size": lambda p: p.update(log_size=None),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_position_that_lies_is_refused(tmp_path: Path, kind: str) -> None:
    with RunFolder(tmp_path / "run") as folder:
        told = position(1)
        LIES[kind](told)
        save_state(folder.last, *parts(), told)
        with pytest.raises(WeightsError, match="not the full state"):
            recovery.restore(folder, *parts(), accept=lambda position: None, tell=lambda text: None)
