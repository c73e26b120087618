"""An engine that stands in for a real one in tests of a sweep's queue: containers are entries of a table."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from orchestrator import leftovers, sweep_hosts
from orchestrator.command import Command
from orchestrator.errors import OrchestratorError
from orchestrator.sweep_file import Run, Slot, Sweep


@dataclass
class Engine:
    """What ran on it, and what happens next.

    codes     run -> its exit codes, one for each time that it is started, 0 when they are used up; None: it goes on for ever
    ran       every run that was started, in that order
    refuses   what it says to whoever wants to start something; "" for nothing
    silent    whether it answers at all; `hangs`: it does so when this is set; `unanswered`: how often somebody asked in vain
    """

    codes: dict[str, list[int | None]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    there: dict[str, tuple[str, int]] = field(default_factory=dict)
    heard: list[tuple[str, str]] = field(default_factory=list)
    images: bool = True
    refuses: Exception | None = None
    silent: bool = False
    hangs: threading.Event | None = None
    unanswered: int = 0

    def asked(self) -> None:
        if self.hangs is not None:
            self.hangs.wait(30)
        if self.silent:
            self.unanswered += 1
            raise requests.exceptions.ConnectionError("Connection refused")

    def containers(self) -> dict[str, str]:
        self.asked()
        return {name: status for name, (status, _) in self.there.items()}

    def start(self, run: Run, name: str) -> None:
        self.asked()
        if self.refuses is not None:
            raise self.refuses
        assert name not in self.there, "a name that is taken"
        self.ran.append(run.name)
        codes = self.codes.get(run.name, [])
        code = codes.pop(0) if codes else 0
        self.there[name] = ("running", 0) if code is None else ("exited", code)

    def collect(self, name: str) -> tuple[int, str]:
        self.asked()
        return self.there[name][1], "the last line"

    def send(self, name: str, number: str) -> None:
        self.asked()
        self.heard.append((name, number))
        if name in self.there:
            self.there[name] = ("exited", 130 if number == "SIGINT" else 143)

    def remove(self, name: str) -> None:
        self.asked()
        self.there.pop(name, None)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Engine]:
    """Docker context -> its engine, in place of all real ones; waiting is short."""
    found = {"": Engine(), "far": Engine()}

    def connect(context: str) -> Any:
        engine = found[context]
        engine.close = lambda: None  # type: ignore[attr-defined]
        engine.asked()
        return engine

    def missing(engine: Engine, models: list[str]) -> list[OrchestratorError]:
        return [] if engine.images else [OrchestratorError(f"the image of {models[0]} is not on this engine", "build it")]

    monkeypatch.setattr(sweep_hosts, "connect", connect)
    monkeypatch.setattr(sweep_hosts, "missing_images", missing)
    monkeypatch.setattr(sweep_hosts, "containers", lambda engine, label: engine.containers())
    monkeypatch.setattr(sweep_hosts, "start", lambda engine, run, gpus, name, label: engine.start(run, name))
    monkeypatch.setattr(sweep_hosts, "collect", lambda engine, name, log: engine.collect(name))
    monkeypatch.setattr(sweep_hosts, "send", lambda engine, name, signal: engine.send(name, signal))
    monkeypatch.setattr(sweep_hosts, "remove", lambda engine, name: engine.remove(name))
    for name, seconds in (("_TICK", 0.005), ("_LOOK", 0.01), ("_AWAY", 0.01)):
        monkeypatch.setattr(f"orchestrator.sweep_queue.{name}", seconds)
    assert "running" in leftovers.AT_WORK
    return found


def sweep_of(*names: str, slots: tuple[Slot, ...] = (Slot("", "none"),), **settings: Any) -> Sweep:
    """Runs of these names."""
    runs = [Run(name, "ctrgcn", (), Command((), Path("/nowhere") / name), f"digest of {name}") for name in names]
    return Sweep(slots, runs, **{"back_off": 0.01, **settings})
