"""The weighting of frequencies: what it computes, what trains it, and that it can be folded away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch_dct

from engine.zeroshot.network import Sizes, initialise
from models.fsvae.network import FrequencyEnhancement, band_edges, build, cosine_transform, folded


@pytest.mark.parametrize("width", [33, 256, 1536])
def test_transform_and_back(width: int) -> None:
    table = torch.from_numpy(cosine_transform(width))
    x = torch.randn(4, width, dtype=torch.float64)
    assert torch.allclose(x @ table.T, torch_dct.dct(x, norm="ortho"), atol=1e-10)
    assert torch.allclose(x @ table.T @ table, x, atol=1e-12)


def test_factors_at_the_start() -> None:
    def factors(width: int) -> torch.Tensor:
        return FrequencyEnhancement(width).double().factors().detach()

    skeleton = factors(256)
    assert torch.allclose(skeleton[[0, 7, 8, 16, 17, 24]], torch.tensor([1.3, 1.3, 1.29, 1.29, 1.28, 1.28]).double(), atol=1e-6)
    assert torch.allclose(skeleton[[25, 254, 255]], torch.tensor([0.43, 0.69, 1.0]).double(), atol=1e-6)
    assert (skeleton[26:255].diff() >= 0).all() and (skeleton > 1).sum() == 25
    text = factors(512)
    assert (text > 1.29).sum() == 17 and text[17].item() == pytest.approx(0.41) and text[510].item() == pytest.approx(0.69)
    for width in (1024, 1536):
        wide = factors(width)
        assert wide[0].item() == pytest.approx(0.4) and wide[-2].item() == pytest.approx(0.69) and (wide >= 1).sum() == 1


def test_edges_are_those_of_float32() -> None:
    exact = {width: [i * (width - 1) // 30 for i in range(31)] for width in range(32, 4097)}
    other = {width: np.subtract(edges, band_edges(width)) for width, edges in exact.items() if edges != band_edges(width)}
    assert len(other) == 52 and {33, 65, 129, 257, 513} <= set(other)
    assert not {256, 512, 768, 1024, 1536} & set(other)
    assert all(difference.sum() == 1 and difference.max() == 1 for difference in other.values())  # one edge, one lower


def test_gradients_reach_strength_and_weights_alone() -> None:
    enhance = FrequencyEnhancement(64).double()
    enhance(torch.randn(5, 64, dtype=torch.float64)).square().sum().backward()
    assert {name for name, p in enhance.named_parameters()} == {"strength", "weights"}
    assert enhance.strength.grad is not None and enhance.strength.grad.abs() > 0
    assert enhance.weights.grad is not None and (enhance.weights.grad.abs() > 0).all()
    assert set(enhance.state_dict()) == {"strength", "weights"}


def test_parts_joined_are_the_whole_with_its_gradients() -> None:
    enhance = FrequencyEnhancement(100).double()
    with torch.no_grad():
        enhance.weights.uniform_(0.2, 2.0)
    x, out = torch.randn(7, 100, dtype=torch.float64), torch.randn(7, 100, dtype=torch.float64)
    whole, joined = enhance(x), enhance.joined(enhance.parts(x))
    assert torch.allclose(whole, joined, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad((whole * out).sum(), list(enhance.parameters())),
        torch.autograd.grad((joined * out).sum(), list(enhance.parameters())),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_folding_changes_nothing(dtype: torch.dtype) -> None:
    network = build(Sizes(256, 513, 30)).to(dtype)
    initialise(network, 1)
    for encoder, width in ((network.skeleton_encoder, 256), (network.text_encoder, 513)):
        with torch.no_grad():
            encoder.enhance.weights.uniform_(0.2, 2.0)
            encoder.affine.bias.uniform_(-1, 1)
        x = torch.randn(9, width, dtype=dtype)
        plain = folded(encoder)
        assert plain.enhance is None and plain.affine.weight.dtype == dtype
        for ours, short in zip(encoder(x), plain(x), strict=True):
            assert torch.allclose(ours, short, atol=1e-5 if dtype == torch.float32 else 1e-13)
        assert not torch.allclose(plain(x)[0], encoder.encode(x)[0], atol=1e-2)  # there is something to fold


def test_without_frequencies() -> None:
    network = build(Sizes(20, 30, 4), enhance=False)
    assert network.skeleton_encoder.enhance is None and network.text_encoder.enhance is None
    assert network.skeleton_encoder(torch.randn(2, 20))[0].shape == (2, 4)


def test_forward_needs_no_values() -> None:
    """Nothing waits for a number, so the networks also run on a device that has none."""
    network = build(Sizes(20, 30, 4)).to("meta")
    mean, _ = network.text_encoder(torch.randn(2, 30, device="meta"))
    assert network.text_decoder(mean).shape == (2, 30)
