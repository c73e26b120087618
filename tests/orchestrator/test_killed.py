"""Whatever ends the command, at whatever moment, no container outlives its next start; an engine may go away, too."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import leftovers
from tests.orchestrator.conftest import absent
from tests.orchestrator.hanging import command, owned_by, started

pytestmark = pytest.mark.docker

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_nothing(client, busybox, number):
    process = started(client, ignoring=True)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert owned_by(client, process.pid) == []


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_two_signals_at_once_leave_nothing(client, busybox, first):
    for _ in range(4):
        process = started(client)
        for number in (first, signal.SIGHUP, signal.SIGINT):
            os.kill(process.pid, number)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130 and "interrupted" in err, err
        assert owned_by(client, process.pid) == []


def test_the_next_start_removes_what_a_killed_run_left(client, busybox):
    process = started(client)
    process.kill()
    process.communicate(timeout=60)
    assert len(owned_by(client, process.pid)) == 2
    leftovers.sweep(client)
    assert owned_by(client, process.pid) == []


@pytest.mark.parametrize("rounds", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_times(client, busybox, rounds):
    draw = random.Random(rounds)
    killed = []
    for turn in range(rounds):
        process = command()
        time.sleep(draw.uniform(0.0, 3.0))
        os.kill(process.pid, SIGNALS[turn % len(SIGNALS)])
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode != 0
        killed.append(process.pid)
    last = started(client)  # the next start
    try:
        left = {pid: [c.name for c in owned_by(client, pid)] for pid in killed}
        assert not any(left.values()), left
        assert len(owned_by(client, last.pid)) == 2, "its own are not swept"
    finally:
        last.terminate()
        last.communicate(timeout=60)
    assert owned_by(client, last.pid) == []


class Between:
    """A socket that hands everything on to the engine's, until it is cut: then, to a client, the engine is gone."""

    def __init__(self, path: Path) -> None:
        self.path, self.open = path, True
        self._pairs: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(32)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect("/var/run/docker.sock")
                self._pairs += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """The engine dies."""
        self.path.unlink(missing_ok=True)
        for one in (self._listener, *self._pairs):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def between(tmp_path) -> Iterator[Between]:
    made = Between(tmp_path / "engine.sock")
    yield made
    made.cut()


def test_an_engine_that_dies_in_the_middle_of_a_run(client, busybox, between):
    if not Path("/var/run/docker.sock").exists():
        absent("the engine is not at /var/run/docker.sock")
    process = started(client, DOCKER_HOST=f"unix://{between.path}")
    between.cut()
    _, err = process.communicate(timeout=90)
    assert process.returncode == 69, err
    assert "stopped answering" in err and "next:" in err and "Traceback" not in err, err
    assert len(owned_by(client, process.pid)) == 2, "the engine was gone: nobody could remove them"
    leftovers.sweep(client)
    assert owned_by(client, process.pid) == []
