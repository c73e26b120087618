"""The machine's description and the doctor's findings, with the machine's answers replaced where they matter."""

import builtins
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine import environment
from engine.environment import Finding, cores, describe, findings, git_revision, machine_line, runs_on


def codes(found: list[Finding]) -> dict[str, Finding]:
    return {finding.code: finding for finding in found}


HEALTHY: dict[str, Any] = {
    "torch": "2.3.1+cu121", "cuda": "12.1", "cudnn": 8902, "ram_gib": 32.0, "disk_free_gib": 200.0, "shm_gib": 8.0,
    "cores": 8.0, "cpu": "Example CPU", "python": "3.10.14",
    "gpus": [{"name": "Example RTX", "memory_gib": 7.79, "capability": "8.6"}],
    "cuda_architectures": ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"],
}  # fmt: skip


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A healthy machine with a GPU and an answering docker; tests spoil it."""
    about = dict(HEALTHY)
    monkeypatch.setattr(environment, "describe", lambda path=".": about)
    monkeypatch.setattr(environment.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(environment, "_run", lambda *command, **_: "25.0" if command[0] == "docker" else None)
    return about


def test_description_is_json_and_names_what_a_reader_needs() -> None:
    about = describe(argv=["sal", "train"])
    assert json.loads(json.dumps(about)) == about
    assert about["command"] == ["sal", "train"]
    assert about["date"].endswith("+00:00")
    assert about["cores"] > 0
    assert about["ram_gib"] > 0
    assert about["disk_free_gib"] >= 0
    assert about["packages"]["numpy"][0].isdigit()
    assert {"torch", "cuda", "gpus", "git", "cpu", "platform", "shm_gib"} <= about.keys()


def test_a_folder_that_does_not_exist_yet_is_measured_at_its_parent(tmp_path: Path) -> None:
    assert describe(tmp_path / "not" / "yet")["disk_free_gib"] == pytest.approx(describe(tmp_path)["disk_free_gib"], abs=1.0)


def test_works_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_torch(name: str, *rest: Any, **named: Any) -> Any:
        if name == "torch":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    about = describe()
    assert about["torch"] == "not installed"
    assert "torch not installed" in machine_line(about)
    assert "torch-missing" in codes(findings())


def test_machine_line_is_one_sentence() -> None:
    assert machine_line(HEALTHY) == ("Example CPU, 8 cores, 32 GiB RAM, Example RTX (8 GiB); Python 3.10.14, torch 2.3.1+cu121.")
    two = {**HEALTHY, "gpus": HEALTHY["gpus"] * 2, "cores": 1.0}
    assert "1 core," in machine_line(two)
    assert "2 x Example RTX" in machine_line(two)
    assert "no GPU" in machine_line({**HEALTHY, "gpus": []})
    assert "\n" not in machine_line()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, 64.0),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64.0),
        ({}, 64.0),
    ],
)
def test_cores_respect_a_containers_quota(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: float) -> None:
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(environment, "_cgroup", files.get)
    assert cores() == expected


def test_ram_respects_a_containers_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_cgroup", {"memory.max": str(256 * 2**20)}.get)
    assert environment.ram_bytes() == 256 * 2**20
    monkeypatch.setattr(environment, "_cgroup", {"memory.max": "max"}.get)
    whole = environment.ram_bytes()
    assert whole is None or whole > 256 * 2**20


def test_git_revision_of_a_checkout_and_of_none(tmp_path: Path) -> None:
    assert git_revision(tmp_path) is None
    git = ("git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org")
    for command in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "first")):
        subprocess.run([*git, *command], check=True)
    revision = git_revision(tmp_path)
    assert revision is not None
    assert len(revision) == 40
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    assert git_revision(tmp_path) == revision + "+changes"


def test_a_healthy_machine_has_no_findings(machine: dict[str, Any]) -> None:
    assert findings() == []


@pytest.mark.parametrize(
    ("spoiled", "code", "severity", "words"),
    [
        ({"torch": "2.2.2"}, "torch-old", "error", "2.2.2"),
        ({"torch": "not installed"}, "torch-missing", "warning", "not installed"),
        ({"gpus": []}, "no-gpu", "info", "no NVIDIA GPU"),
        ({"shm_gib": 0.06}, "little-shm", "warning", "0.06 GiB"),
        ({"disk_free_gib": 2.0}, "little-disk", "warning", "2.0 GiB"),
        ({"ram_gib": 4.0}, "little-ram", "warning", "4.0 GiB"),
    ],
)
def test_each_lack_has_its_finding(
    machine: dict[str, Any], spoiled: dict[str, Any], code: str, severity: str, words: str
) -> None:
    machine.update(spoiled)
    found = codes(findings())
    assert set(found) == {code}
    assert found[code].severity == severity
    assert words in found[code].message
    assert found[code].fix


def test_newer_torch_versions_are_not_old(machine: dict[str, Any]) -> None:
    for version in ("2.3.0", "2.13.0+cpu", "2.10.0a0+git1234", "3.0.0"):
        machine["torch"] = version
        assert findings() == []


def test_a_gpu_newer_than_the_build_is_named_with_the_argument_that_mends_it(machine: dict[str, Any]) -> None:
    machine["gpus"] = [{"name": "Example 5090", "memory_gib": 31.8, "capability": "12.0"}]
    (finding,) = findings()
    assert (finding.code, finding.severity) == ("gpu-too-new", "error")
    assert "12.0" in finding.message
    assert "CUDA 12.1" in finding.message
    assert "BASE_IMAGE" in finding.fix
    machine["gpus"] = [{"name": "Example K80", "memory_gib": 11.2, "capability": "3.7"}]
    assert findings()[0].code == "gpu-unsupported"


@pytest.mark.parametrize(
    ("capability", "built", "expected"),
    [
        ("8.6", ["sm_80"], True),
        ("8.0", ["sm_86"], False),
        ("9.0", ["sm_80", "sm_86"], False),
        ("9.0", ["sm_80", "compute_80"], True),
        ("12.0", ["sm_90", "sm_120"], True),
        ("12.0", ["sm_100"], False),
        ("9.0", ["sm_90a"], True),
        ("9.1", ["sm_90a"], False),
        ("7.5", ["compute_80"], False),
    ],
)
def test_which_builds_run_on_which_gpu(capability: str, built: list[str], expected: bool) -> None:
    assert runs_on(capability, built) is expected


def test_why_torch_sees_no_gpu(machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    machine["gpus"] = []
    monkeypatch.setattr(environment, "_run", lambda *command, **_: "535.129.03")
    assert set(codes(findings())) == {"driver-mismatch"}
    machine["cuda"] = None
    found = codes(findings())
    assert set(found) == {"torch-without-cuda"}
    assert "535.129.03" in found["torch-without-cuda"].message


def test_docker_missing_or_silent_is_only_a_finding(machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_run", lambda *command, **_: None)
    assert codes(findings())["docker-silent"].severity == "warning"
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    assert codes(findings())["docker-missing"].severity == "info"


def test_findings_come_worst_first(machine: dict[str, Any]) -> None:
    machine.update(torch="2.1.0", gpus=[], shm_gib=0.1)
    assert [finding.severity for finding in findings()] == ["error", "warning", "info"]


def test_a_command_that_hangs_or_is_missing_has_no_answer() -> None:
    assert environment._run("sleep", "5", seconds=0.05) is None
    assert environment._run("no-such-command-anywhere") is None
    assert environment._run("false") is None
    assert environment._run("echo", "yes") == "yes"
