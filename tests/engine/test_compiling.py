"""`--compile`: refused where it cannot work, before any data is read; where it can, the same training up to rounding."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from engine import compiling
from engine.errors import ConfigError
from engine.losses import build_loss
from engine.models import build, discover
from engine.optimizers import build_optimizer
from engine.step import TrainStep

CPU = torch.device("cpu")


def test_no_compiler_is_refused_with_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler") as caught:
        compiling.require(CPU)
    assert caught.value.exit_code == 2 and "CXX" in caught.value.what and "leave --compile out" in caught.value.next_step


def test_a_gpu_needs_triton_a_c_compiler_and_a_new_enough_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    found = "; ".join(compiling.missing(torch.device("cuda")))
    assert "triton" in found and "C compiler gcc or clang" in found and "6.1" in found


def test_a_python_that_cannot_be_traced_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: nn.Module) -> nn.Module:
        raise RuntimeError("Dynamo is not supported on this Python\nmore")

    monkeypatch.setattr(torch, "compile", refuse)
    assert "Dynamo is not supported on this Python" in compiling.missing(CPU)


def test_a_run_is_refused_before_its_data_is_read(
    quick: list[str], tmp_path: Path, run_main: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = run_main(*quick, "--compile", "--data", str(tmp_path / "none.npz"), "--work-dir", str(tmp_path / "run"))
    assert done.returncode == 2 and "no-such-compiler" in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_compiled_steps_are_eager_steps_up_to_rounding() -> None:
    """Three steps of the small ST-GCN; names of the weights are those of the plain network, which evaluates."""
    if missing := compiling.missing(CPU):
        pytest.skip("; ".join(missing))
    losses: dict[bool, list[float]] = {}
    for compiled in (False, True):
        torch.manual_seed(0)
        network = build(discover()["baselines"], num_classes=5, skeleton="ntu25", people=2, architecture="stgcn").train()
        names = list(network.state_dict())
        step = TrainStep(
            network, build_optimizer(network.parameters(), lr=0.001), build_loss(), recompute="cheap", compiled=compiled
        )
        generator = torch.Generator().manual_seed(1)
        batches = [(torch.randn(2, 3, 16, 25, 2, generator=generator), torch.tensor([1, 4])) for _ in range(3)]
        losses[compiled] = [float(step(*batch).loss) for batch in batches]
        assert list(network.state_dict()) == names == list(step.model.state_dict())
        assert torch.isfinite(network.eval()(batches[0][0])).all()
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
