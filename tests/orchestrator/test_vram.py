"""`--vram-limit` from the command line to the exit code, with containers that are played: what each is asked and answers."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import smoke_command
from orchestrator.verdict import REQUIRED
from tests.orchestrator.conftest import good

MEASURED = {"measured_allocated_mib": 2301.5, "measured_reserved_mib": 2480.0, "measured_note": ""}
UNMEASURED = {"measured_allocated_mib": None, "measured_reserved_mib": None, "measured_note": "not measured (no GPU)"}


def result(model: str, word: str, reason: str = "", *, measured: dict[str, Any]) -> str:
    """The last line of a smoke test."""
    vram = {
        "limit_gib": 8.0, "recipe": "ntu60_xsub", "batch": 64, "word": word, "reason": reason, "usable_mib": 7424.0,
        "predicted_mib": {"train": 2542.0, "eval": 925.6}, "interval": {"train": [2204.1, 3313.7], "eval": [721.2, 1504.5]},
        "predicted_allocated_mib": {"train": 2332.1, "eval": 849.2}, **measured,
    }  # fmt: skip
    holds = {"fits_vram_limit": word != "no"} | ({"measured_within_vram_limit": True} if measured is MEASURED else {})
    return good(model, assertions={**dict.fromkeys(REQUIRED, True), **holds}, vram=vram)


class Stream(tuple[tuple[bytes | None, bytes | None], ...]):
    """The pieces of a log, as `container.attach` gives them."""

    def __new__(cls, *pieces: tuple[bytes | None, bytes | None]) -> Stream:
        return super().__new__(cls, pieces)

    def close(self) -> None: ...


class Container:
    def __init__(self, log: str, exit_code: int) -> None:
        self.log = log
        self.attrs = {"State": {"Status": "exited", "ExitCode": exit_code, "OOMKilled": False}}

    def start(self) -> None: ...

    def reload(self) -> None: ...

    def remove(self, **_: Any) -> None: ...

    def attach(self, **_: Any) -> Stream:
        return Stream((self.log.encode(), None))


class Engine:
    """`answers`: model -> (log, exit code); `asked`: model -> what its container was made with."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, int]] = {}
        self.asked: dict[str, dict[str, Any]] = {}
        self.images = SimpleNamespace(get=lambda tag: SimpleNamespace(attrs={"Size": 1_000_000}))
        self.containers = SimpleNamespace(create=self._create, list=lambda **_: [])

    def _create(self, **asked: Any) -> Container:
        model = asked["image"].rpartition(":")[2]
        self.asked[model] = asked
        return Container(*self.answers[model])

    def info(self) -> dict[str, Any]:
        return {"MemTotal": 64 << 30}

    def close(self) -> None: ...


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    fake = Engine()
    monkeypatch.setattr(smoke_command, "connect", lambda: fake)
    monkeypatch.setattr(smoke_command, "choose", list)
    return fake


def test_on_a_gpu(engine, capsys, tmp_path):
    engine.answers = {
        "a": (result("a", "comfortable", measured=MEASURED), 0),
        "b": (f"ntu60_xsub on 8 GiB: no\n{result('b', 'no', 'no lever is enough: a card of 21.3 GiB', measured=UNMEASURED)}", 1),
    }
    file = tmp_path / "verdicts.json"
    assert smoke_command.main(["a", "b", "--use-gpus", "--vram-limit", "8", "--json", str(file)]) == 1
    for model in "ab":
        assert engine.asked[model]["command"][-4:] == ["--device", "cuda:0", "--vram-limit", "8"]
        assert engine.asked[model]["device_requests"]
    out = " ".join(capsys.readouterr().out.split())
    assert "2301" in out or "2302" in out
    assert "2480 reserved" in out and "2542 (2204 to 3314)" in out and "comfortable" in out
    assert "b: ntu60_xsub on 8 GiB of GPU memory: no; no lever is enough: a card of 21.3 GiB" in out
    assert "b: no lever is enough" not in out  # told with the failures, not once more
    assert "1 of 2 passed" in out
    first, second = json.loads(file.read_text())
    assert first["passed"] and first["result"]["vram"]["measured_reserved_mib"] == 2480.0
    assert not second["passed"] and "no lever is enough" in second["reason"]


def test_without_a_gpu(engine, capsys):
    engine.answers = {"a": (result("a", "tight", "fits with --recompute blocks (no number changes)", measured=UNMEASURED), 0)}
    assert smoke_command.main(["a", "--vram-limit", "8"]) == 0
    assert (
        engine.asked["a"]["command"][-4:] == ["--device", "cpu", "--vram-limit", "8"] and not engine.asked["a"]["device_requests"]
    )
    out = " ".join(capsys.readouterr().out.split())
    assert "not measured (no GPU)" in out and "2542 (2204 to 3314)" in out and "a: fits with --recompute blocks" in out


def test_an_image_from_before_is_named(engine, capsys):
    engine.answers = {"a": ("smoke.py: error: unrecognized arguments: --vram-limit 8", 2)}
    assert smoke_command.main(["a", "--vram-limit", "8"]) == 1
    assert "the image is older than --vram-limit" in capsys.readouterr().out
