"""A file is whole or not there, two runs never write the same one, and nothing of the user's is overwritten."""

from __future__ import annotations

import fcntl
import os

import pytest

from shared_data import atomic
from shared_data.atomic import WriteError, whole_file


def replaceable(path) -> bool:
    return True


@pytest.mark.parametrize("ending", ["finished", "gave up"])
def test_a_run_that_ends_between_our_opening_and_our_locking_keeps_its_file(ending, tmp_path, monkeypatch):
    target, partial = tmp_path / "a", tmp_path / ".a.partial"
    partial.write_bytes(b"theirs")
    lock, calls = fcntl.flock, []

    def late(descriptor, how):
        if not calls:
            partial.replace(target) if ending == "finished" else partial.unlink()
        calls.append(descriptor)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with whole_file(target, kind="file", replaceable=replaceable) as file:
        assert not target.exists() if ending == "gave up" else target.read_bytes() == b"theirs"
        assert os.path.samestat(os.fstat(file.fileno()), partial.stat()), "the lock is on the file that has the name"
        file.write(b"ours")
    assert target.read_bytes() == b"ours" and len(calls) == 2
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("fails", [False, True])
def test_the_partial_file_of_the_next_run_is_not_removed(fails, tmp_path, monkeypatch):
    target, partial = tmp_path / "a", tmp_path / ".a.partial"

    def another_begins(folder):
        partial.write_bytes(b"theirs")
        if fails:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(atomic, "flush", another_begins)  # what comes right after the file has got its name
    try:
        with whole_file(target, kind="file", replaceable=replaceable) as file:
            file.write(b"ours")
    except WriteError:
        assert fails
    assert target.read_bytes() == b"ours" and partial.read_bytes() == b"theirs"


def test_an_error_in_the_block_removes_our_partial_file(tmp_path):
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a", kind="file", replaceable=replaceable) as file:
        file.write(b"half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["file", "folder", "nothing"])
def test_a_link_is_never_replaced(to, tmp_path):
    place, link = tmp_path / "place", tmp_path / "a"
    if to == "folder":
        place.mkdir()
    elif to == "file":
        place.write_text("mine")
    link.symlink_to(place)
    with pytest.raises(WriteError, match=r"a link, to .*place") as error, whole_file(link, kind="file", replaceable=replaceable):
        pytest.fail("nothing is written")
    assert error.value.exit_code == 74
    assert link.is_symlink() and link.readlink() == place
    assert place.exists() == (to != "nothing") and (to != "file" or place.read_text() == "mine")


def test_a_link_to_the_folder_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    with whole_file(tmp_path / "data" / "a", kind="file", replaceable=replaceable) as file:
        file.write(b"ours")
    assert (tmp_path / "disk" / "a").read_bytes() == b"ours"


def test_a_pipe_in_the_place_of_the_partial_file_is_a_clear_error(tmp_path):
    os.mkfifo(tmp_path / ".a.partial")
    with pytest.raises(WriteError), whole_file(tmp_path / "a", kind="file", replaceable=replaceable):
        pytest.fail("nothing is written")
    assert (tmp_path / ".a.partial").is_fifo()
