"""Whose containers may be removed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from docker import errors

from orchestrator import leftovers


class FakeContainer:
    def __init__(self, owner: str, error: Exception | None = None) -> None:
        self.labels, self.name, self.error, self.removed = {leftovers.OWNER: owner}, "c", error, False

    def remove(self, *, force: bool, v: bool) -> None:
        if self.error:
            raise self.error
        self.removed = force and v


class FakeClient:
    def __init__(self, *containers: FakeContainer) -> None:
        self.found = list(containers)
        self.containers = self

    def list(self, *, all: bool, filters: dict[str, str], ignore_removed: bool) -> list[FakeContainer]:
        assert all and ignore_removed and set(filters) == {"label"}
        return self.found


def ended_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_this_process_is_alive():
    assert not leftovers.is_dead(leftovers.this_owner())


def test_a_process_that_ended_is_dead():
    assert leftovers.is_dead(f"{socket.gethostname()}/{ended_process()}/1")


def test_an_unreaped_process_is_dead():
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert leftovers.is_dead(f"{socket.gethostname()}/{child.pid}/1")
    child.wait()


def test_a_process_number_used_again_is_dead():
    host, pid, started = leftovers.this_owner().split("/")
    assert leftovers.is_dead(f"{host}/{pid}/{int(started) - 1}")


@pytest.mark.parametrize("owner", ["", "x", "elsewhere/1/1", f"{socket.gethostname()}/word/1"])
def test_what_is_not_known_is_left_alone(owner):
    assert not leftovers.is_dead(owner)


def test_sweep_removes_the_dead_only():
    dead = FakeContainer(f"{socket.gethostname()}/{ended_process()}/1")
    alive, foreign = FakeContainer(leftovers.this_owner()), FakeContainer("elsewhere/1/1")
    assert leftovers.sweep(FakeClient(dead, alive, foreign)) == ["c"]
    assert [c.removed for c in (dead, alive, foreign)] == [True, False, False]


def test_removing_what_is_gone_or_going_is_fine():
    leftovers.remove(FakeContainer("", errors.NotFound("gone")))
    leftovers.remove(FakeContainer("", errors.APIError("removal of container x is already in progress")))
    with pytest.raises(errors.APIError):
        leftovers.remove(FakeContainer("", errors.APIError("driver failed")))
