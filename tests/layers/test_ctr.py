"""CTR-GCN's block: the product with refined graphs against its formula. The whole block is judged in tests/models/ctrgcn."""

from __future__ import annotations

import pytest
import torch

from layers.ctr import refined_product


def product_arguments(dtype: torch.dtype) -> list[torch.Tensor]:
    """Weight (S, C, R'), relation (B, S, R', V*V) and value (B, C*S, V, T)."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((3, 4, 5), (2, 3, 5, 9), (2, 12, 3, 7))
    return [torch.randn(shape, dtype=dtype, generator=draw).requires_grad_() for shape in shapes]


def test_refined_product() -> None:
    weight, relation, value = product_arguments(torch.float64)
    expected = torch.einsum("scr,bsrvu,bcsvt->bcut", weight, relation.view(2, 3, 5, 3, 3), value.view(2, 4, 3, 3, 7))
    torch.testing.assert_close(refined_product(weight, relation, value), expected)
    assert torch.autograd.gradcheck(refined_product, (weight, relation, value))


def test_refined_product_as_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    given = product_arguments(torch.float64)
    result = refined_product(*given)
    gradients = torch.autograd.grad(result.sum(), given)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    plain = refined_product(*given)
    torch.testing.assert_close(plain, result)
    torch.testing.assert_close(torch.autograd.grad(plain.sum(), given), gradients)
