"""What is not kept for the backward pass: the gradients are those without it, and the memory is really free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from models.msg3d import network as module
from models.msg3d.network import MSG3D
from models.msg3d.recompute import activated, recomputed
from planner.lifetimes import Lifetimes


@contextmanager
def kept(bn: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """`activated` without recomputation."""
    yield F.relu(bn(x), inplace=True)


def trained(x: Tensor, labels: Tensor, precision: torch.dtype | None, training: bool) -> tuple[MSG3D, Tensor]:
    """A small network after one forward and backward pass, and its logits."""
    torch.manual_seed(0)
    network = MSG3D(4, skeleton="ucla20", people=1, width=12).train(training)
    with torch.autocast("cpu", precision) if precision else nullcontext():
        logits = network(x)
        F.cross_entropy(logits, labels).backward()
    return network, logits


@pytest.mark.parametrize("training", [True, False], ids=["training", "frozen-statistics"])
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_gradients_are_those_without(monkeypatch: pytest.MonkeyPatch, precision: torch.dtype | None, training: bool) -> None:
    x, labels = torch.randn(3, 3, 9, 20, 1), torch.tensor([0, 1, 2])
    ours, logits = trained(x, labels, precision, training)
    monkeypatch.setattr(module, "recomputed", lambda tensor, again: nullcontext())
    monkeypatch.setattr(module, "activated", kept)
    plain, expected = trained(x, labels, precision, training)
    assert torch.equal(logits, expected)
    for (name, ours_p), plain_p in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours_p.grad, plain_p.grad, rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
    for (name, value), other in zip(ours.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(value, other), name  # running statistics have moved once


def test_the_memory_is_free_until_the_backward_pass() -> None:
    x, first, second = torch.randn(2, 4, 5, 6), torch.randn(8, 4, 1, 1), torch.randn(3, 8, 1, 1, requires_grad=True)
    first.requires_grad_()
    runs = 0

    def again() -> Tensor:
        nonlocal runs
        runs += 1
        assert not torch.is_grad_enabled()
        return F.relu(F.conv2d(x, first))

    y = F.conv2d(x, first)
    with recomputed(y, again):
        y = F.relu(y, inplace=True)
        z = F.conv2d(y, second) + F.conv2d(y[:, :, 1:], second).sum()
    storage = StorageWeakRef(y.untyped_storage())
    del y
    assert storage.expired() and runs == 0
    z.sum().backward(retain_graph=True)
    assert runs == 1  # for ReLU and both convolutions
    once = first.grad.clone(), second.grad.clone()
    z.sum().backward()
    assert runs == 2
    torch.testing.assert_close((first.grad, second.grad), (2 * once[0], 2 * once[1]))
    a, b = (w.detach().clone().requires_grad_() for w in (first, second))
    y = F.relu(F.conv2d(x, a))
    (F.conv2d(y, b) + F.conv2d(y[:, :, 1:], b).sum()).sum().backward()
    torch.testing.assert_close(once, (a.grad, b.grad))


def test_a_batch_norm_over_processes_is_kept() -> None:
    """Another class of BatchNorm may have statistics that cannot be had again from the input alone."""

    class Elsewhere(nn.BatchNorm2d):
        pass

    bn, x = Elsewhere(3), torch.randn(2, 3, 4, 5, requires_grad=True)
    with activated(bn, x) as y:
        z = y * y
    storage = StorageWeakRef(y.untyped_storage())
    del y
    assert not storage.expired()
    z.sum().backward()
    assert torch.isfinite(x.grad).all() and bn.num_batches_tracked == 1


def test_a_training_pass_keeps_less_than_half_of_what_it_would() -> None:
    """Bytes that are alive between forward and backward pass, on the meta device."""

    def alive() -> int:
        with torch.device("meta"):
            network, x = MSG3D(60), torch.empty(2, 3, 64, 25, 2)
        with Lifetimes() as meter:
            logits = network(x)
            held = meter.live
        assert logits.shape == (2, 60)
        return held

    ours = alive()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "recomputed", lambda tensor, again: nullcontext())
        patch.setattr(module, "activated", kept)
        assert ours < 0.5 * alive()
