"""The machine's description, with the machine's answers replaced where they matter."""

import builtins
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine import environment
from engine.environment import cores, describe, git_revision, machine_line

HEALTHY: dict[str, Any] = {
    "torch": "2.3.1+cu121", "cuda": "12.1", "cudnn": 8902, "ram_gib": 32.0, "disk_free_gib": 200.0, "shm_gib": 8.0,
    "cores": 8.0, "cpu": "Example CPU", "python": "3.10.14",
    "gpus": [{"name": "Example RTX", "memory_gib": 7.79, "capability": "8.6"}],
    "cuda_architectures": ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"],
}  # fmt: skip


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


@pytest.mark.parametrize(("variable", "folder"), [(None, "work_dir"), ("", "work_dir"), ("/scratch/runs", "/scratch/runs")])
def test_where_runs_go(monkeypatch: pytest.MonkeyPatch, variable: str | None, folder: str) -> None:
    monkeypatch.delenv("SAL_WORK_DIR", raising=False)
    if variable is not None:
        monkeypatch.setenv("SAL_WORK_DIR", variable)
    assert environment.work_dir() == Path(folder)


def importing_torch_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real = builtins.__import__

    def raising(name: str, *rest: Any, **named: Any) -> Any:
        if name == "torch":
            raise error
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", raising)


def test_works_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    importing_torch_raises(monkeypatch, ModuleNotFoundError("No module named 'torch'", name="torch"))
    about = describe()
    assert about["torch"] == "not installed"
    assert "torch not installed" in machine_line(about)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcudart.so.12: cannot open shared object file"),
        OSError("libcublas.so.12: cannot open shared object file"),
        ValueError("libcublas.so.*[0-9] not found in the system path"),
        ModuleNotFoundError("No module named 'typing_extensions'", name="typing_extensions"),
    ],
)
def test_a_torch_that_cannot_be_imported_is_not_called_absent(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    importing_torch_raises(monkeypatch, error)
    assert describe()["torch"] == f"does not load: {error}"


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


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 << 30),
        ({"memory.max": "max", "memory.current": str(1 << 30)}, 8 << 30),
        ({"memory.max": str(4 << 30), "memory.current": str(3 << 30)}, 1 << 30),
        ({"memory.max": str(4 << 30), "memory.current": str(3 << 30), "memory.stat": f"inactive_file {2 << 30}"}, 3 << 30),
        ({"memory/memory.limit_in_bytes": str(2 << 30), "memory/memory.usage_in_bytes": str(3 << 30)}, 0),
    ],
)
def test_free_ram_respects_a_containers_limit(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int) -> None:
    meminfo = f"MemTotal: {16 << 20} kB\nMemAvailable: {8 << 20} kB\n"
    monkeypatch.setattr(environment, "_cgroup", files.get)
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: meminfo if str(path) == "/proc/meminfo" else real(path, *a, **k))
    assert environment.free_ram_bytes() == expected


def test_a_command_that_hangs_or_is_missing_has_no_answer() -> None:
    assert environment.command("sleep", "5", seconds=0.05) is None
    assert environment.command("no-such-command-anywhere") is None
    assert environment._run("false") is None
    assert environment._run("echo", "yes") == "yes"
    assert environment.installed("sh") and not environment.installed("no-such-command-anywhere")
