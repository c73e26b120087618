"""Start values, noise and flags of the shared networks."""

from __future__ import annotations

import math

import torch

from engine.zeroshot.losses import divergence
from engine.zeroshot.network import AlignedVAE, Decoder, LatentClassifier, Sizes, initialise, reparameterised

SIZES = Sizes(40, 64, 10)


def test_start_values() -> None:
    network = AlignedVAE(SIZES)
    initialise(network, 3)
    for layer, inputs, outputs in (
        (network.skeleton_encoder.affine, 40, 10),
        (network.text_encoder.affine, 64, 10),
        (network.skeleton_decoder.affine, 10, 40),
        (network.text_decoder.affine, 10, 64),
    ):
        bound = 0.5 * math.sqrt(6 / (inputs + outputs))  # of mean and log-variance each, though they share one layer
        assert not layer.bias.any()
        assert layer.weight.abs().max() <= bound and abs(float(layer.weight.detach().std()) * math.sqrt(3) / bound - 1) < 0.1
    again, other = AlignedVAE(SIZES), AlignedVAE(SIZES)
    initialise(again, 3)
    initialise(other, 3, turn=1)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert not torch.equal(network.text_encoder.affine.weight, other.text_encoder.affine.weight)
    assert not torch.equal(network.skeleton_decoder.affine.weight[:, :5], network.text_decoder.affine.weight[:40, :5])


def test_one_number_of_noise_per_row() -> None:
    mean, log_variance = torch.randn(4, 10), torch.randn(4, 10)
    noise = torch.tensor([[0.0], [1.0], [-2.0], [0.5]])
    z = reparameterised(mean, log_variance, noise)
    assert torch.equal(z[0], mean[0])
    assert torch.allclose((z - mean) / (log_variance / 2).exp(), noise.expand(4, 10), atol=1e-5)


def test_divergence() -> None:
    assert float(divergence(torch.zeros(3, 5), torch.zeros(3, 5))) == 0.0
    assert float(divergence(torch.ones(3, 4), torch.zeros(3, 4))) == 2.0  # half a unit per dimension, mean over rows


def test_negative_numbers_are_a_flag() -> None:
    z = torch.randn(20, 10)
    for made in (Decoder(10, 6), LatentClassifier(10, 6)):
        assert (made(z) >= 0).all() and (made(z) == 0).any()
    for made in (Decoder(10, 6, relu=False), LatentClassifier(10, 6, relu=False)):
        assert (made(z) < 0).any()
