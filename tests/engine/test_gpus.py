"""What the driver says, and what is wrong between torch and a GPU: `nvidia-smi` is played by a small program on PATH."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import environment, gpus
from engine.gpus import Driver, Finding, Gpu, ask_driver, is_older, runs_on

CARD = Gpu("Example RTX", "550.54.15", 8192.0, 12.0, "8.6")
SEEN = {"name": "Example RTX", "memory_gib": 7.79, "capability": "8.6"}
HEALTHY: dict[str, Any] = {
    "torch": "2.3.1+cu121", "cuda": "12.1", "cudnn": 8902, "gpus": [SEEN],
    "cuda_architectures": ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"],
}  # fmt: skip


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a shell script in place of `nvidia-smi`; without a call there is none."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(script: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return write


@pytest.fixture(autouse=True)
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PCI bus, no container, no variable that hides GPUs."""
    monkeypatch.setattr(gpus, "PCI", tmp_path / "pci")
    monkeypatch.setattr(environment, "CONTAINER_MARKS", ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "pci"


def plugged(bus: Path, vendor: str, kind: str) -> None:
    device = bus / "0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(vendor + "\n")
    (device / "class").write_text(kind + "\n")


def only(found: list[Finding]) -> Finding:
    (finding,) = found
    assert finding.fix and "\n" not in finding.message + finding.fix
    return finding


def test_what_the_driver_lists(smi: Callable[[str], None]) -> None:
    smi('echo "Example RTX, 550.54.15, 8192, 12, 8.6"; echo "Other, 550.54.15, [N/A], [N/A], [N/A]"')
    assert ask_driver() == Driver(True, (CARD, Gpu("Other", "550.54.15", None, None, None)))


def test_a_driver_that_does_not_know_compute_capabilities_is_asked_without(smi: Callable[[str], None]) -> None:
    smi('case "$1" in *compute_cap*) echo "Field \\"compute_cap\\" is not a valid field to query."; exit 2;; esac\n'
        'echo "Old GPU, 450.80.02, 8192, 12"')  # fmt: skip
    assert ask_driver() == Driver(True, (Gpu("Old GPU", "450.80.02", 8192.0, 12.0, None),))


def test_no_driver(smi: Callable[[str], None]) -> None:
    assert ask_driver() == Driver(False)


def test_a_driver_in_trouble(smi: Callable[[str], None]) -> None:
    smi('echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18')
    driver = ask_driver()
    assert driver == Driver(True, (), "Failed to initialize NVML: Driver/library version mismatch")
    finding = only(gpus.findings({**HEALTHY, "gpus": []}, driver))
    assert (finding.code, finding.severity) == ("driver-silent", "error")
    assert "reboot" in finding.fix and "mismatch" in finding.message
    smi('echo "No devices were found"')
    assert ask_driver() == Driver(True, (), "No devices were found")


def test_a_driver_that_hangs(smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_SECONDS", 0.2)
    smi("exec /bin/sleep 20")
    assert "no answer" in ask_driver().trouble


def test_torch_on_a_gpu_that_it_knows_has_no_findings() -> None:
    assert gpus.findings(HEALTHY, Driver(True, (CARD,))) == []
    assert gpus.findings(HEALTHY, Driver(False)) == []  # a container that was not given nvidia-smi


@pytest.mark.parametrize(
    ("torch", "code", "severity"),
    [
        ("2.2.2", "torch-old", "error"),
        ("not installed", "torch-missing", "warning"),
        ("does not load: libcublas.so.12", "torch-broken", "error"),
    ],
)
def test_torch_itself(torch: str, code: str, severity: str) -> None:
    finding = only(gpus.findings({**HEALTHY, "torch": torch, "gpus": []}, Driver(True, (CARD,)))[:1])
    assert (finding.code, finding.severity) == (code, severity)


@pytest.mark.parametrize("version", ["2.3.0", "2.13.0+cpu", "2.10.0a0+git1234", "3.0.0"])
def test_newer_torch_versions_are_not_old(version: str) -> None:
    assert gpus.findings({**HEALTHY, "torch": version}, Driver(True, (CARD,))) == []


def test_no_gpu_at_all(bus: Path) -> None:
    assert only(gpus.findings({**HEALTHY, "gpus": []}, Driver(False))).code == "no-gpu"
    plugged(bus, "0x10de", "0x040300")  # its sound device is no GPU
    assert only(gpus.findings({**HEALTHY, "gpus": []}, Driver(False))).code == "no-gpu"


def test_a_gpu_without_a_driver(bus: Path) -> None:
    plugged(bus, "0x10de", "0x030000")
    finding = only(gpus.findings({**HEALTHY, "gpus": []}, Driver(False)))
    assert (finding.code, finding.severity) == ("driver-missing", "error")
    assert "525.60.13" in finding.fix


def test_a_container_that_was_not_given_the_gpu(bus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugged(bus, "0x10de", "0x030200")
    (tmp_path / ".dockerenv").touch()
    monkeypatch.setattr(environment, "CONTAINER_MARKS", (tmp_path / ".dockerenv",))
    finding = only(gpus.findings({**HEALTHY, "gpus": []}, Driver(False)))
    assert (finding.code, finding.severity) == ("gpu-not-given", "warning")
    assert "--gpus all" in finding.fix


@pytest.mark.parametrize(
    ("changed", "driver", "code"),
    [
        ({"cuda": None}, "550.54.15", "torch-without-cuda"),
        ({"cuda": "12.1"}, "515.65.01", "driver-mismatch"),
        ({"cuda": "13.0"}, "570.26", "driver-mismatch"),
        ({"cuda": "12.8"}, "525.60.13", "gpu-unusable"),
        ({"cuda": "11.8"}, "515.65.01", "gpu-unusable"),
    ],
)
def test_why_torch_sees_no_gpu(changed: dict[str, Any], driver: str, code: str) -> None:
    finding = only(gpus.findings({**HEALTHY, "gpus": [], **changed}, Driver(True, (CARD._replace(driver=driver),))))
    assert (finding.code, finding.severity) == (code, "error")
    assert driver in finding.message


def test_a_variable_that_hides_the_gpus_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    finding = only(gpus.findings({**HEALTHY, "gpus": []}, Driver(True, (CARD,))))
    assert (finding.code, finding.severity) == ("gpus-hidden", "warning")
    assert "CUDA_VISIBLE_DEVICES=''" in finding.message


def test_a_gpu_newer_than_the_build_is_named_with_the_argument_that_mends_it() -> None:
    gpu = {"name": "Example 5090", "memory_gib": 31.8, "capability": "12.0"}
    finding = only(gpus.findings({**HEALTHY, "gpus": [SEEN, gpu]}, Driver(True, (CARD,))))
    assert (finding.code, finding.severity) == ("gpu-too-new", "error")
    assert "GPU 1 " in finding.message and "12.0" in finding.message and "CUDA 12.1" in finding.message
    assert "BASE_IMAGE" in finding.fix
    old = {"name": "Example K80", "memory_gib": 11.2, "capability": "3.7"}
    assert only(gpus.findings({**HEALTHY, "gpus": [old]}, Driver(True, (CARD,)))).code == "gpu-unsupported"


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


@pytest.mark.parametrize(
    ("driver", "needed", "expected"),
    [
        ("525.60.13", "525.60.13", False),
        ("525.60.11", "525.60.13", True),
        ("515.105.01", "525.60.13", True),
        ("530.30", "525.60.13", False),
        ("1000.1", "525.60.13", False),
        ("[N/A]", "525.60.13", False),
    ],
)
def test_driver_versions_are_compared_by_their_numbers(driver: str, needed: str, expected: bool) -> None:
    assert is_older(driver, needed) is expected
