"""The graph convolution that keeps little: its value, its gradients, and what it keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.freqmixformer.products import GraphConvolution

B, C_IN, C, S, G, V, T = 2, 3, 8, 3, 4, 5, 4


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """x, weight, bias, maps, shared, gate, all asking for a gradient."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(B, C_IN, V, T), (C * S, C_IN, 1, 1), (C * S,), (B, G, S * V, V), (C, S * V, V), (B, C)]
    values = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    values[-1] = 1.0 + torch.sigmoid(values[-1])
    return tuple(value.requires_grad_() for value in values)


def plain(x: Tensor, weight: Tensor, bias: Tensor, maps: Tensor, shared: Tensor, gate: Tensor) -> Tensor:
    value = F.conv2d(x, weight, bias).view(B, C, S, V, T)
    graph = maps.repeat_interleave(C // G, 1).view(B, C, S, V, V) + shared.view(C, S, V, V)
    return torch.einsum("bcsvw,bcsvt->bcwt", graph, value) * gate.view(B, C, 1, 1)


def test_value_and_gradients() -> None:
    given, wanted = inputs(), torch.randn(B, C, V, T, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, theirs = GraphConvolution.apply(*given), plain(*given)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(ours, given, wanted), torch.autograd.grad(theirs, given, wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(GraphConvolution.apply, inputs())


def test_it_keeps_its_inputs_and_nothing_else() -> None:
    given, kept = inputs(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        GraphConvolution.apply(*given)
    assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in given]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype: torch.dtype) -> None:
    """The product is rounded, the gradients have the precision of what they belong to; backward runs outside autocast."""
    given = inputs(torch.float32)
    with torch.autocast("cpu", dtype):
        y = GraphConvolution.apply(*given)
    assert y.dtype == dtype
    assert float((y.float() - plain(*given)).detach().norm() / plain(*given).detach().norm()) < 0.02
    wanted = torch.randn(B, C, V, T, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(y, given, wanted.to(dtype))
    for a, b in zip(gradients, torch.autograd.grad(plain(*given), given, wanted), strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 0.02
