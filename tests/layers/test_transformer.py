"""Transformer layers against torch's own, and stochastic depth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layers.drop_path import DropPath
from layers.recompute import recomputing
from layers.transformer import Attention, PostNormLayer, PreNormLayer


def copied(ours: Attention, theirs: nn.MultiheadAttention) -> None:
    ours.qkv.load_state_dict({"weight": theirs.in_proj_weight, "bias": theirs.in_proj_bias})
    ours.proj.load_state_dict(theirs.out_proj.state_dict())


@pytest.mark.parametrize("level", ["none", "cheap"])
def test_post_norm_layer_is_torch_s(level):
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True).double()
    ours = PostNormLayer(16, 4, 24).double()
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_(0.3, 0.5)
    copied(ours.attn, theirs.self_attn)
    for mine, other in (("fc1", "linear1"), ("fc2", "linear2"), ("norm1", "norm1"), ("norm2", "norm2")):
        getattr(ours, mine).load_state_dict(getattr(theirs, other).state_dict())
    x = torch.randn(3, 7, 16, dtype=torch.float64, requires_grad=True)
    with recomputing(level):
        out = ours(x)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    expected = theirs(x)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), x)[0], rtol=1e-10, atol=1e-10)


def test_pre_norm_layer_by_its_formula():
    torch.manual_seed(0)
    layer = PreNormLayer(16, 2, mlp_ratio=2.0).double()
    theirs = nn.MultiheadAttention(16, 2, batch_first=True).double()
    copied(layer.attn, theirs)
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    z = layer.norm1(x)
    a = x + theirs(z, z, z)[0]
    expected = a + layer.mlp.fc2(nn.functional.gelu(layer.mlp.fc1(layer.norm2(a))))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_attention_starts_without_biases_as_torch_s_does():
    ours, theirs = Attention(16, 2), nn.MultiheadAttention(16, 2)
    for mine, other in ((ours.qkv.bias, theirs.in_proj_bias), (ours.proj.bias, theirs.out_proj.bias)):
        assert torch.equal(mine, other) and not mine.any()


def test_drop_path_drops_whole_samples_and_scales_the_others():
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    found = drop(torch.zeros(4000, 2, 3), torch.ones(4000, 2, 3))
    assert found.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    per_sample = found.flatten(1)
    assert torch.equal(per_sample.amin(1), per_sample.amax(1))
    assert abs(float(found.mean()) - 1) < 0.05
    assert torch.equal(drop.eval()(torch.ones(2, 3), torch.ones(2, 3)), torch.full((2, 3), 2.0))
