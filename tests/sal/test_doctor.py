"""`sal doctor` on machines that are played: small programs on PATH stand for `nvidia-smi` and `docker`."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import environment, gpus
from engine.environment import GIB
from sal import doctor as verb
from sal import doctor_images
from sal.doctor import doctor
from shared_data.formats.npz import Npz
from shared_data.protocols import PROTOCOLS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "engine/gpus.py", *sorted((ROOT / "sal").glob("doctor*.py"))]
ENGINE = {"Runtimes": {"runc": {}, "nvidia": {}}, "DockerRootDir": "/nowhere/docker", "OperatingSystem": "Debian"}
CARD = "Example RTX, 550.54.15, 8192, 12, 8.6"

Found = dict[str, dict[str, str]]


class Machine:
    """A healthy machine: a GPU that torch and the images know, an engine with the toolkit, room everywhere."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.bin, self.capsys = folder / "bin", capsys
        self.bin.mkdir()
        self.about: dict[str, Any] = {
            **environment.describe(argv=[]), "torch": "2.3.1+cu121", "cuda": "12.1", "cuda_architectures": ["sm_80", "sm_90"],
            "gpus": [{"name": "Example RTX", "memory_gib": 8.0, "capability": "8.6"}],
            "ram_gib": 32.0, "disk_free_gib": 200.0, "shm_gib": 8.0,
        }  # fmt: skip
        self.cards(CARD)
        self.engine(ENGINE)

    def program(self, name: str, script: str = "exit 0") -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def cards(self, *lines: str) -> None:
        self.program("nvidia-smi", "\n".join(f"echo {shlex.quote(line)}" for line in lines) or "exit 9")

    def engine(self, about: dict[str, Any], base: str = "") -> None:
        """`base`: what the images on it were built on; "" where there are none."""
        inspect = f"echo {shlex.quote(base)}" if base else 'echo "Error: No such image: skeleton-lab:base" >&2; exit 1'
        self.program("docker", f"case $1 in info) echo {shlex.quote(json.dumps(about))};; image) {inspect};; esac")

    def without_torch(self) -> None:
        self.about.update(torch="not installed", cuda=None, gpus=[], cuda_architectures=[])

    def doctor(self, **arguments: Any) -> tuple[int, dict[str, Any]]:
        code = doctor(json=True, **arguments)
        return code, json.loads(self.capsys.readouterr().out)

    def found(self, **arguments: Any) -> Found:
        code, said = self.doctor(**arguments)
        assert said["ok"] is (code == 0) is all(finding["severity"] != "error" for finding in said["findings"])
        for finding in said["findings"]:
            assert set(finding) == {"code", "severity", "message", "fix"} and all(finding.values())
            assert "\n" not in finding["fix"]
        found = {finding["code"]: finding for finding in said["findings"]}
        assert len(found) == len(said["findings"])
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Machine:
    result = Machine(tmp_path, capsys)
    for variable in ("DOCKER_HOST", "NTU60", "CUDA_VISIBLE_DEVICES", "SAL_WORK_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(result.bin))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment, "describe", lambda path=".": result.about)
    monkeypatch.setattr(environment, "free_ram_bytes", lambda: 16 * GIB)
    monkeypatch.setattr(environment, "CONTAINER_MARKS", ())
    monkeypatch.setattr(gpus, "PCI", tmp_path / "pci")
    monkeypatch.setattr(doctor_images, "_SOCKET", tmp_path / "docker.sock")
    monkeypatch.setattr(doctor_images, "_CDI_FOLDERS", (tmp_path / "cdi",))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return result


def test_a_healthy_machine_has_no_findings(machine: Machine) -> None:
    code, said = machine.doctor()
    assert code == 0 and said["findings"] == [] and said["ok"] is True
    assert list(said) == ["ok", "environment", "driver", "data", "findings"]
    assert said["driver"] == [
        {"name": "Example RTX", "driver": "550.54.15", "total_mib": 8192.0, "used_mib": 12.0, "capability": "8.6"}
    ]
    assert said["data"] is None and said["environment"]["torch"] == "2.3.1+cu121"


def test_for_people(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor() == 0
    out = capsys.readouterr().out
    assert "Example RTX (8 GiB)" in out and "nothing found" in out
    machine.about.update(shm_gib=0.06, torch="2.1.0")
    assert doctor() == 1
    out = capsys.readouterr().out
    assert out.index("error    torch-old") < out.index("warning  little-shm")
    assert out.count("         fix: ") == 2 and "nothing found" not in out


# driver and GPU against the images


@pytest.mark.parametrize(
    ("driver", "code", "severity"),
    [
        ("515.105.01", "driver-old", "error"),
        ("525.60.11", "driver-old", "error"),
        ("525.60.13", "driver-compatible", "info"),
        ("530.30.01", "driver-compatible", "info"),
        ("530.30.02", "", ""),
        ("580.65.06", "", ""),
    ],
)
def test_the_driver_against_the_images_cuda(machine: Machine, driver: str, code: str, severity: str) -> None:
    machine.without_torch()
    machine.cards(f"Example RTX, {driver}, 8192, 12, 8.6")
    found = machine.found()
    assert set(found) - {"torch-missing"} == ({code} if code else set())
    if code:
        assert found[code]["severity"] == severity
        assert driver in found[code]["message"] and "530.30.02" in found[code]["message"] and "12.1" in found[code]["message"]


@pytest.mark.parametrize("capability", ["10.0", "10.3", "12.0", "12.1"])
def test_a_gpu_newer_than_the_images_is_named_with_the_argument_that_mends_it(machine: Machine, capability: str) -> None:
    machine.without_torch()
    machine.cards(f"Example 5090, 570.26, 32607, 12, {capability}", f"Example 5090, 570.26, 32607, 12, {capability}")
    finding = machine.found()["image-gpu-too-new"]
    assert finding["severity"] == "error"
    assert all(words in finding["message"] for words in ("Example 5090", capability, "12.1", "sm_90"))
    assert "bash build_all_images.sh --base-image pytorch/pytorch:<tag with a CUDA >= 12.8>" in finding["fix"]
    assert "--build-arg BASE_IMAGE=" in finding["fix"]


def test_where_torch_runs_on_the_gpu_the_images_are_only_a_warning(machine: Machine) -> None:
    machine.cards("Example 5090, 570.26, 32607, 12, 12.0")
    machine.about.update(cuda_architectures=["sm_120"], gpus=[{"name": "Example 5090", "memory_gib": 31.8, "capability": "12.0"}])
    assert {code: one["severity"] for code, one in machine.found().items()} == {"image-gpu-too-new": "warning"}


def test_images_rebuilt_on_a_newer_base_are_judged_by_it(machine: Machine) -> None:
    machine.without_torch()
    machine.cards("Example 5090, 570.26, 32607, 12, 12.0")
    machine.engine(ENGINE, base="pytorch/pytorch:2.7.1-cuda12.8-cudnn9-runtime")
    assert set(machine.found()) == {"torch-missing"}
    machine.engine(ENGINE, base="skeleton-lab-base:cu121")
    assert "image-gpu-too-new" in machine.found()
    machine.engine(ENGINE, base="skeleton-lab-base:cpu")
    assert machine.found()["image-without-cuda"]["severity"] == "error"
    machine.engine(ENGINE, base="somebody/else:latest")  # says nothing of its CUDA
    assert set(machine.found()) == {"torch-missing"}
    machine.cards("Example 5090, 570.26, 32607, 12, 12.0")
    machine.engine(ENGINE, base="pytorch/pytorch:2.9.0-cuda13.0-cudnn9-runtime")
    assert "580.65.06" in machine.found()["driver-old"]["message"]


@pytest.mark.parametrize("capability", ["5.0", "6.1", "7.5", "8.9", "9.0"])
def test_what_the_images_run_on(machine: Machine, capability: str) -> None:
    machine.without_torch()
    machine.cards(f"Example, 550.54.15, 8192, 12, {capability}")
    assert set(machine.found()) == {"torch-missing"}


def test_a_gpu_older_than_the_images(machine: Machine) -> None:
    machine.without_torch()
    machine.cards("Example K80, 530.30.02, 11441, 12, 3.7", "No one knows, 530.30.02, 11441, 12, [N/A]")
    found = machine.found()
    assert set(found) == {"torch-missing", "image-gpu-too-old"} and "Example K80" in found["image-gpu-too-old"]["message"]


def test_without_docker_and_with_torch_images_do_not_matter(machine: Machine) -> None:
    (machine.bin / "docker").unlink()
    machine.cards("Example RTX, 515.65.01, 8192, 12, 8.6")
    found = machine.found()
    assert set(found) == {"docker-missing"} and found["docker-missing"]["severity"] == "info"


def test_a_container_needs_no_docker(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.bin / "docker").unlink()
    (tmp_path / ".dockerenv").touch()
    monkeypatch.setattr(environment, "CONTAINER_MARKS", (tmp_path / ".dockerenv",))
    assert machine.found() == {}


def test_with_neither_docker_nor_torch_nothing_can_run(machine: Machine) -> None:
    (machine.bin / "docker").unlink()
    machine.without_torch()
    found = machine.found()
    assert found["docker-missing"]["severity"] == "error"


@pytest.mark.parametrize(
    ("base", "cuda"),
    [
        ("pytorch/pytorch:2.3.1-cuda12.1-cudnn8-runtime", "12.1"),
        ("skeleton-lab-base:cu121", "12.1"),
        ("x:torch2.7-cu128", "12.8"),
        ("skeleton-lab-base:cpu", None),
        ("x:cudnn8", None),
    ],
)
def test_the_cuda_in_the_name_of_a_base(base: str, cuda: str | None) -> None:
    assert doctor_images.cuda_of(base) == cuda


def test_the_base_judged_is_that_of_the_dockerfile_and_of_the_build_script() -> None:
    assert f"ARG BASE_IMAGE={doctor_images.BASE}\n" in (ROOT / "dockerfiles/base.Dockerfile").read_text()
    script = (ROOT / "build_all_images.sh").read_text()
    assert f"official_base={doctor_images.BASE}\n" in script
    label = re.search(r'"(org\.[\w.-]+)"', doctor_images._LABEL)
    assert label and f'--label "{label[1]}=$base_image"' in script


# the engine


def test_an_engine_that_does_not_answer(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.program("docker", 'echo "Cannot connect to the Docker daemon at unix:///var/run/docker.sock." >&2; exit 1')
    finding = machine.found()["docker-silent"]
    assert finding["severity"] == "warning" and "Cannot connect" in finding["message"] and "systemctl" in finding["fix"]
    # An older client prints what it knows of itself, and leaves with 0.
    machine.engine({"ServerErrors": ["Cannot connect to the Docker daemon"]})
    assert "Cannot connect" in machine.found()["docker-silent"]["message"]
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2376")
    assert "DOCKER_HOST" in machine.found()["docker-silent"]["fix"]
    machine.without_torch()
    assert machine.found()["docker-silent"]["severity"] == "error"


def test_an_engine_that_hangs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_images, "_SECONDS", 0.2)
    machine.program("docker", "exec /bin/sleep 20")
    assert "no answer" in machine.found()["docker-silent"]["message"]


def test_a_socket_without_permission(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.program("docker", 'echo "permission denied while trying to connect to the Docker daemon socket" >&2; exit 1')
    finding = machine.found()["docker-permission"]
    assert "sudo usermod -aG docker $USER" in finding["fix"]
    machine.program("docker", "exit 1")  # a client that says nothing: the socket does
    assert "docker-silent" in machine.found()
    (tmp_path / "docker.sock").touch()
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode, **k: str(path) != str(tmp_path / "docker.sock") and real(path, mode, **k)
    )
    assert "docker-permission" in machine.found()


def test_the_container_toolkit(machine: Machine, tmp_path: Path) -> None:
    bare = {**ENGINE, "Runtimes": {"runc": {}}}
    machine.engine(bare)
    assert "nvidia-container-toolkit" in machine.found()["toolkit-missing"]["fix"]
    machine.program("nvidia-ctk")
    assert "nvidia-ctk runtime configure --runtime=docker" in machine.found()["toolkit-not-configured"]["fix"]
    machine.program("nvidia-container-runtime-hook")
    assert machine.found() == {}
    (machine.bin / "nvidia-container-runtime-hook").unlink()
    (machine.bin / "nvidia-ctk").unlink()
    (tmp_path / "specifications").mkdir()
    machine.engine({**bare, "CDISpecDirs": [str(tmp_path / "specifications")]})
    assert "toolkit-missing" in machine.found()
    (tmp_path / "specifications/nvidia.yaml").touch()
    assert machine.found() == {}
    machine.engine(bare)
    (tmp_path / "cdi").mkdir()
    (tmp_path / "cdi/nvidia.json").touch()
    assert machine.found() == {}


def test_the_toolkit_matters_only_with_a_gpu_and_on_an_engine_of_this_machine(machine: Machine) -> None:
    machine.engine({**ENGINE, "Runtimes": {}, "OperatingSystem": "Docker Desktop"})
    assert machine.found() == {}
    machine.engine({**ENGINE, "Runtimes": {}})
    (machine.bin / "nvidia-smi").unlink()
    machine.about["gpus"] = []
    assert set(machine.found()) == {"no-gpu"}


def test_room_for_images(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").mkdir()
    machine.engine({**ENGINE, "DockerRootDir": str(tmp_path / "docker")})
    monkeypatch.setattr(environment, "free_bytes", lambda path: 3 * GIB if path == tmp_path / "docker" else 200 * GIB)
    assert "3.0 GiB" in machine.found()["little-docker-disk"]["message"]
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2376")  # that folder is of another machine
    assert machine.found() == {}


# room, permissions


@pytest.mark.parametrize(
    ("spoiled", "code", "severity", "words"),
    [
        ({"shm_gib": 0.06}, "little-shm", "warning", "0.06 GiB"),
        ({"disk_free_gib": 2.0}, "little-disk", "warning", "2.0 GiB"),
        ({"disk_free_gib": 0.1}, "disk-full", "error", "0.10 GiB"),
        ({"ram_gib": 4.0}, "little-ram", "warning", "4.0 GiB"),
    ],
)
def test_each_lack_has_its_finding(machine: Machine, spoiled: dict[str, Any], code: str, severity: str, words: str) -> None:
    machine.about.update(spoiled)
    found = machine.found()
    assert set(found) == {code}
    assert found[code]["severity"] == severity and words in found[code]["message"]


def test_what_the_system_does_not_tell_is_not_judged(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.about.update(shm_gib=None, disk_free_gib=None, ram_gib=None)
    monkeypatch.setattr(environment, "free_ram_bytes", lambda: None)
    machine.cards("Example, 550.54.15, [N/A], [N/A], 8.6")
    assert machine.found() == {}


def test_free_ram(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "free_ram_bytes", lambda: GIB // 2)
    assert "0.5 GiB" in machine.found()["little-free-ram"]["message"]


def test_a_gpu_in_use_by_others(machine: Machine) -> None:
    machine.cards(CARD, "Example RTX, 550.54.15, 8192, 2048, 8.6")
    finding = machine.found()["gpu-busy"]
    assert "GPU 1" in finding["message"] and "2048 of 8192 MiB" in finding["message"]
    assert "--used 2," in finding["fix"] and "--fit 6GiB" in finding["fix"]


def test_a_work_folder_that_cannot_be_written(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below", Path("/proc/none")):  # /proc refuses root, too
        finding = machine.found(work_dir=folder)["work-dir-unwritable"]
        assert finding["severity"] == "error" and str(folder) in finding["message"]
    assert machine.found(work_dir=tmp_path / "not" / "yet") == {}
    assert not (tmp_path / "not").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["bin", "file"]


def test_the_default_work_folder_is_looked_at_too(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "work_dir").touch()  # a file where the folder should be
    assert machine.found(work_dir=tmp_path / "runs")["default-work-dir-unwritable"]["severity"] == "warning"
    assert set(machine.found()) == {"work-dir-unwritable"}


def test_in_an_image_runs_go_where_the_image_says(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work_dir").touch()  # below the model's folder, where nothing can be written and nothing is
    (tmp_path / "runs").mkdir()
    monkeypatch.setenv("SAL_WORK_DIR", str(tmp_path / "runs"))
    assert machine.found() == {} and machine.found(work_dir=tmp_path / "elsewhere") == {}
    (tmp_path / "runs").rmdir()
    (tmp_path / "runs").touch()
    finding = machine.found()["work-dir-unwritable"]
    assert str(tmp_path / "runs") in finding["message"]
    finding = machine.found(work_dir=tmp_path / "elsewhere")["default-work-dir-unwritable"]
    assert str(tmp_path / "runs") in finding["message"] and str(tmp_path / "runs") in finding["fix"]


def test_the_shared_memory_advised_is_what_the_documentation_gives(machine: Machine) -> None:
    machine.about.update(shm_gib=0.06)
    assert "--shm-size=1g" in machine.found()["little-shm"]["fix"]
    assert "--shm-size=1g" in (ROOT / "docs/docker.md").read_text()


def test_root_and_a_home_that_cannot_be_written(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "--user" in machine.found()["running-as-root"]["fix"]
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setenv("HOME", "/proc")
    found = machine.found()
    assert set(found) == {"home-unwritable"} and "HOME=/tmp" in found["home-unwritable"]["fix"]


# data


def test_a_good_file_is_recognised_without_reading_its_frames(
    machine: Machine, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("frames were read")

    for name in ("read", "blocks", "memmap"):
        monkeypatch.setattr(Npz, name, refuse)
    code, said = machine.doctor(data=tiny_data)
    assert code == 0 and said["findings"] == []
    assert said["data"]["layout"] == "kaggle" and said["data"]["bytes"] == tiny_data.stat().st_size
    assert list(said["data"]) == ["path", "bytes", "layout", "reason", "protocol"]


def test_the_makefiles_variable_names_the_file(machine: Machine, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NTU60", str(tiny_data))
    assert machine.doctor()[1]["data"]["path"] == str(tiny_data)
    monkeypatch.setenv("NTU60", "/nowhere.npz")
    assert "/nowhere.npz" in machine.found()["data-missing"]["message"]
    assert machine.found(data=tiny_data) == {}


def test_a_store(machine: Machine, tiny_data: Path, tmp_path: Path) -> None:
    from shared_data.store import prepare

    store = tmp_path / "tiny.h5"
    prepare(tiny_data, store)
    code, said = machine.doctor(data=store)
    assert (code, said["data"]["layout"]) == (0, "store")
    whole = store.read_bytes()
    store.write_bytes(whole[: len(whole) // 2])
    assert machine.found(data=store)["data-unusable"]["severity"] == "error"


def arrays(train: int, test: int, **changed: Any) -> dict[str, Any]:
    """One frame per clip: the counts are what matters."""
    sizes = {"x_train": (train, 1, 150), "y_train": (train, 60), "x_test": (test, 1, 150), "y_test": (test, 60)}
    return {key: np.zeros(shape, np.int8) for key, shape in {**sizes, **changed}.items()}


def test_files_that_cannot_be_used(machine: Machine, tiny_data: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.npz"
    cut.write_bytes(tiny_data.read_bytes()[:5000])
    text = tmp_path / "notes.txt"
    text.write_text("not data")
    lacking = tmp_path / "lacking.npz"
    np.savez(lacking, x_train=np.zeros((2, 1, 150)))
    uneven = tmp_path / "uneven.npz"
    np.savez(uneven, **arrays(8, 4, y_test=(5, 60)))
    for file, words in ((cut, "truncated"), (text, "not"), (lacking, "y_train"), (uneven, "4 clips but 5 labels")):
        finding = machine.found(data=file)["data-unusable"]
        assert finding["severity"] == "error" and words in finding["message"] and str(file) in finding["message"]


def test_the_right_size(machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "NTU60_CS.npz"
    protocol = PROTOCOLS[0]
    np.savez_compressed(file, **arrays(protocol.train, protocol.test))
    code, said = machine.doctor(data=file)
    assert code == 0 and said["data"]["protocol"] == protocol.name and said["findings"] == []
    assert doctor(data=file) == 0
    assert protocol.name in " ".join(capsys.readouterr().out.split())
    np.savez_compressed(file, **arrays(protocol.train - 91, protocol.test))
    found = machine.found(data=file)
    assert set(found) == {"data-incomplete"}
    assert (
        f"{protocol.train - 91:,}" in found["data-incomplete"]["message"] and protocol.name in found["data-incomplete"]["message"]
    )


def test_a_file_that_may_not_be_read(machine: Machine, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **k: path != tiny_data and real(path, mode, **k))
    assert "--user" in machine.found(data=tiny_data)["data-unreadable"]["fix"]
    monkeypatch.undo()


def test_a_folder_above_that_may_not_be_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    def barred(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", barred)
    seen, (finding,) = verb.look_at(Path("/somebody/else.npz"))
    assert seen is None and finding.code == "data-unreadable" and "Permission denied" in finding.message


# the host side, the documentation

HOST = """
import sys
for name in ("torch", "numpy", "h5py", "safetensors"):
    sys.modules[name] = None
from pathlib import Path
from sal.doctor import doctor
sys.exit(doctor(data=Path(sys.argv[1]), json=True))
"""


def test_the_host_side_needs_no_torch(machine: Machine, tiny_data: Path) -> None:
    environment_there = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", HOST, str(tiny_data)], capture_output=True, text=True, check=False, env=environment_there
    )
    said = json.loads(done.stdout)
    codes = {finding["code"] for finding in said["findings"]}
    assert {"torch-missing", "data-not-opened"} <= codes and "image-gpu-too-new" not in codes, done.stderr
    assert said["driver"][0]["name"] == "Example RTX"
    assert said["data"]["layout"] is None and said["data"]["bytes"] > 0


def made_in_the_source() -> dict[str, set[str]]:
    """Code -> severities with which a `Finding` of it is made; "" for one that is decided at run time."""
    made: dict[str, set[str]] = {}
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
                first = node.args[0]
                choices = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
                codes = [choice.value for choice in choices if isinstance(choice, ast.Constant)]
                assert codes, f"{file}:{node.lineno}: a code that is no literal cannot be looked up"
                severity = node.args[1]
                for code in codes:
                    made.setdefault(code, set()).add(severity.value if isinstance(severity, ast.Constant) else "")
    return made


def test_every_code_is_documented_and_every_documented_code_is_made() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs/doctor.md").read_text(), re.MULTILINE)
    documented = {code: severity for code, severity, *_ in rows}
    made = made_in_the_source()
    assert len(rows) == len(documented) and set(documented) == set(made)
    for code, severities in made.items():
        if severities == {""}:
            assert documented[code].endswith(", error without torch"), code
        else:
            assert severities == {documented[code]}, code


@pytest.mark.parametrize("numbers", ["nan, inf", "1e400, 5000", "-1, -5", "8192, 1e30"])
def test_numbers_that_are_none_are_passed_over(machine: Machine, numbers: str, capsys: pytest.CaptureFixture[str]) -> None:
    machine.cards(f"Example RTX, 550.54.15, {numbers}, 8.6")
    doctor(json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["driver"][0]["name"] == "Example RTX"
    assert "gpu-busy" not in [finding["code"] for finding in found["findings"]]
