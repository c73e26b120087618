"""Which update is chosen on a GPU, and that the chosen one trains as the usual one does."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from engine import optimizers
from engine.optimizers import build_optimizer, implementation, set_learning_rate

KINDS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
ON_A_GPU = [nn.Parameter(torch.zeros(2))]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters count as a GPU's. Torch has fused updates for CPUs too, from 2.4 on."""
    monkeypatch.setattr(optimizers, "on_gpu", lambda parameters: True)


def test_a_cpu_keeps_torchs_choice() -> None:
    for kind in KINDS:
        assert implementation(kind, [nn.Parameter(torch.zeros(2))]) == {} == implementation(kind, [])
    optimizer = build_optimizer([nn.Parameter(torch.zeros(2))], lr=0.1)
    assert not optimizer.state and optimizer.param_groups[0]["fused"] is None and optimizer.param_groups[0]["foreach"] is None


def test_a_gpu_gets_fused_updates_or_foreach(gpu: None) -> None:
    for kind in KINDS:
        wanted = "fused" if "fused" in inspect.signature(kind).parameters else "foreach"
        assert implementation(kind, ON_A_GPU) == {wanted: True}
    assert implementation(torch.optim.RMSprop, ON_A_GPU) == {"foreach": True}


def run(name: str, *, scaled: bool = False) -> list[torch.Tensor]:
    """Six steps; `scaled`: with a loss scaler whose first step overflows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    optimizer = build_optimizer(model.parameters(), name=name, lr=0.1, weight_decay=1e-3)  # type: ignore[arg-type]
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=4.0)
    for step in range(6):
        set_learning_rate(optimizer, 0.1 / (step + 1))
        optimizer.zero_grad()
        scaler.scale(model(torch.randn(5, 4)).square().mean()).backward()
        if scaled and step == 0:
            model[0].weight.grad[0, 0] = torch.inf
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    return [p.detach() for p in model.parameters()]


needs_fused_on_cpu = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 4), reason="this torch has fused updates for GPUs only"
)


@needs_fused_on_cpu
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_updates_are_the_usual_ones_up_to_rounding(name: str, scaled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a loss scaler skips the first: fused SGD would go on with the momentum of fresh memory."""
    usual = run(name, scaled=scaled)
    monkeypatch.setattr(optimizers, "on_gpu", lambda parameters: True)
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(1e9))  # fresh memory at its worst
    for one, other in zip(usual, run(name, scaled=scaled), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


@needs_fused_on_cpu
def test_fused_state_survives_saving_and_loading(gpu: None) -> None:
    """A run from before, without fused updates, goes on with them."""
    for name in ("SGD", "AdamW"):
        parameters = [nn.Parameter(torch.ones(3))]
        old = torch.optim.SGD(parameters, lr=0.1, momentum=0.9) if name == "SGD" else torch.optim.AdamW(parameters, lr=0.1)
        parameters[0].grad = torch.ones(3)
        old.step()
        new = build_optimizer(parameters, name=name, lr=0.1, nesterov=False)  # type: ignore[arg-type]
        new.load_state_dict({"state": old.state_dict()["state"], "param_groups": new.state_dict()["param_groups"]})
        new.step()
        assert new.param_groups[0]["fused"] and torch.isfinite(parameters[0]).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_an_update_waits_for_nothing() -> None:
    for name in ("SGD", "Adam", "AdamW"):
        parameter = nn.Parameter(torch.ones(3, device="cuda"))
        optimizer = build_optimizer([parameter], name=name, lr=0.1)  # type: ignore[arg-type]
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            set_learning_rate(optimizer, 0.05)
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_groups_of_one_rate_and_decay() -> None:
    matrix, low, vector = (nn.Parameter(torch.ones(*shape)) for shape in ((2, 2), (2, 2), (2,)))
    optimizer = build_optimizer(
        [matrix, low, vector], name="AdamW", lr=0.1, weight_decay=0.05, betas=[0.9, 0.95], decay_vectors=False, scales={low: 0.5}
    )
    found = [(group["lr"], group["weight_decay"], group["betas"], group["params"]) for group in optimizer.param_groups]
    assert found == [(0.1, 0.05, (0.9, 0.95), [matrix]), (0.05, 0.05, (0.9, 0.95), [low]), (0.1, 0.0, (0.9, 0.95), [vector])]
    set_learning_rate(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1, 0.2]
