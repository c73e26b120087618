"""Whose containers may be removed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time

import pytest
from docker import errors

from orchestrator import leftovers


class FakeContainer:
    def __init__(self, owner: str, error: Exception | None = None, deadline: float | None = math.inf, status: str = "running"):
        self.labels, self.name, self.error, self.removed = {leftovers.OWNER: owner}, "c", error, False
        self.status = status
        if deadline is not None:
            self.labels[leftovers.DEADLINE] = f"{min(deadline, 10**12):.0f}"

    def remove(self, *, force: bool, v: bool) -> None:
        if self.error:
            raise self.error
        self.removed = force and v


class FakeClient:
    def __init__(self, *containers: FakeContainer) -> None:
        self.found = list(containers)
        self.containers = self

    def list(self, *, filters: dict[str, str], ignore_removed: bool, all: bool = False) -> list[FakeContainer]:
        assert ignore_removed and set(filters) == {"label"}
        return [one for one in self.found if all or one.status == "running"]


def ended_owner() -> str:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return f"{leftovers.this_machine()}/{done.pid}/1"


def test_this_process_is_alive():
    assert not leftovers.is_dead(leftovers.this_owner())


def test_a_process_that_ended_is_dead():
    assert leftovers.is_dead(ended_owner())


def test_an_unreaped_process_is_dead():
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert leftovers.is_dead(f"{leftovers.this_machine()}/{child.pid}/1")
    child.wait()


def test_a_process_number_used_again_is_dead():
    machine, pid, started = leftovers.this_owner().split("/")
    assert leftovers.is_dead(f"{machine}/{pid}/{int(started) - 1}")


@pytest.mark.parametrize("owner", ["", "x", "elsewhere/1/1", f"{leftovers.this_machine()}/word/1"])
def test_what_is_not_known_is_left_alone(owner):
    assert not leftovers.is_dead(owner)


def test_sweep_removes_the_dead_only():
    dead = FakeContainer(ended_owner())
    alive, foreign = FakeContainer(leftovers.this_owner()), FakeContainer("elsewhere/1/1")
    assert leftovers.sweep(FakeClient(dead, alive, foreign)) == ["c"]
    assert [c.removed for c in (dead, alive, foreign)] == [True, False, False]


def test_what_is_far_older_than_it_could_be_goes_whoever_owns_it():
    now = time.time()
    old, young = FakeContainer("elsewhere/1/1", deadline=now - 10), FakeContainer("elsewhere/1/1", deadline=now + 3600)
    leftovers.sweep(FakeClient(old, young))
    assert [c.removed for c in (old, young)] == [True, False]


def test_the_labels_of_a_smoke_test_end_and_those_of_a_training_do_not():
    labels = leftovers.labels("r", 600)
    assert time.time() + 600 < int(labels[leftovers.DEADLINE]) < time.time() + 600 + 2 * 3600
    assert leftovers.DEADLINE not in leftovers.labels("r")


def test_a_training_that_lost_its_owner_goes_on_until_it_ends():
    owner = ended_owner()
    at_work, ended = FakeContainer(owner, deadline=None), FakeContainer(owner, deadline=None, status="exited")
    kept = FakeContainer(leftovers.this_owner(), deadline=None)
    assert leftovers.orphans(FakeClient(at_work, ended, kept)) == ["c"]
    leftovers.sweep(FakeClient(at_work, ended, kept))
    assert [c.removed for c in (at_work, ended, kept)] == [False, True, False]


def test_what_was_detached_is_its_users_once_it_has_started():
    made = [FakeContainer(ended_owner(), deadline=None, status=status) for status in ("created", "running", "exited")]
    for one in made:
        one.labels[leftovers.DETACHED] = "1"
    assert leftovers.orphans(FakeClient(*made)) == []
    leftovers.sweep(FakeClient(*made))
    assert [one.removed for one in made] == [True, False, False]


def test_one_that_cannot_be_removed_does_not_keep_the_others(capsys):
    stuck = FakeContainer(ended_owner(), errors.APIError("driver failed to remove root filesystem"))
    other = FakeContainer(ended_owner())
    assert leftovers.sweep(FakeClient(stuck, other)) == ["c"]
    assert other.removed and "driver failed" in capsys.readouterr().err


def test_a_process_that_is_hidden_from_us_is_alive(monkeypatch):
    def hidden(*_: object) -> str:
        raise FileNotFoundError

    owner = leftovers.this_owner()
    monkeypatch.setattr(leftovers.Path, "read_text", hidden)
    monkeypatch.setattr(leftovers, "this_machine", lambda: owner.partition("/")[0])
    assert not leftovers.is_dead(owner)
    assert leftovers.is_dead(f"{owner.partition('/')[0]}/{ended_owner().split('/')[1]}/1")


def test_machines_that_share_a_name_are_two(monkeypatch, tmp_path):
    ours = leftovers.this_machine()
    usual = leftovers.Path.read_text
    monkeypatch.setattr(
        leftovers.Path, "read_text", lambda self: "another\n" if "-id" in self.name or "boot_id" in self.name else usual(self)
    )
    assert leftovers.this_machine() != ours


def test_removing_what_is_gone_or_going_is_fine():
    leftovers.remove(FakeContainer("", errors.NotFound("gone")))
    leftovers.remove(FakeContainer("", errors.APIError("removal of container x is already in progress")))
    with pytest.raises(errors.APIError):
        leftovers.remove(FakeContainer("", errors.APIError("driver failed")))
