"""ISC's bottleneck: its layers, its schedule step by step, and that it keeps what tells classes apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from engine.downstream.autoencoder import OFFICIAL, AutoencoderSettings, autoencoder, bottleneck
from engine.errors import DivergedError
from shared_data.batches.randomness import permutation

SMALL = AutoencoderSettings(widths=(8, 3), epochs=7, batch=16, decay_every=2, lr=1e-2)


def made(count: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


def test_official_layers_and_settings() -> None:
    encoder, decoder = autoencoder(2048, OFFICIAL.widths)
    shapes = [tuple(layer.weight.shape) for layer in (*encoder, *decoder) if isinstance(layer, nn.Linear)]
    assert shapes == [(1024, 2048), (512, 1024), (125, 512), (512, 125), (1024, 512), (2048, 1024)]
    assert [type(layer) for layer in encoder] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert (OFFICIAL.lr, OFFICIAL.decay, OFFICIAL.decay_every, OFFICIAL.epochs) == (1e-3, 0.95, 50, 400)


def test_training_is_what_its_description_says() -> None:
    train, test = made(), made(9, 1)
    torch.manual_seed(5)
    encoder, decoder = autoencoder(6, SMALL.widths)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])
    for epoch in range(7):
        optimizer.param_groups[0]["lr"] = 1e-2 * 0.95 ** (epoch // 2)
        for rows in torch.from_numpy(permutation(5, epoch, 50)).split(16):
            optimizer.zero_grad()
            x = torch.from_numpy(train)[rows]
            ((decoder(encoder(x)) - x) ** 2).mean().backward()
            optimizer.step()
    state = torch.get_rng_state()
    keys, queries = bottleneck(train, test, settings=SMALL, seed=5)
    assert torch.equal(torch.get_rng_state(), state), "no one else's random numbers are used up"
    np.testing.assert_allclose(keys, encoder(torch.from_numpy(train)).detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(queries, encoder(torch.from_numpy(test)).detach().numpy(), atol=1e-6)
    np.testing.assert_array_equal(bottleneck(train, settings=SMALL, seed=5)[0], keys)
    assert not np.allclose(bottleneck(train, settings=SMALL, seed=6)[0], keys)


def test_an_error_that_is_no_number() -> None:
    with pytest.raises(DivergedError, match="autoencoder"):
        bottleneck(made() * 1e30, settings=SMALL)
