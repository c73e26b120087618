"""ISC's second retrieval score: neighbours among 125 numbers that an autoencoder makes of a feature.

It learns from the training clips' features alone. Source: `isc.md` 7 and 8, which name neither the batch nor what a step of the
schedule is: ours are 64 clips and an epoch.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.errors import DivergedError
from shared_data.batches.randomness import permutation

EVALUATED = 4096  # rows at a time


@dataclass(frozen=True)
class AutoencoderSettings:
    """Adam on the mean squared error; the rate falls by `decay` every `decay_every` epochs."""

    widths: tuple[int, ...] = (1024, 512, 125)
    lr: float = 1e-3
    decay: float = 0.95
    decay_every: int = 50
    epochs: int = 400
    batch: int = 64


OFFICIAL = AutoencoderSettings()


def autoencoder(width: int, widths: tuple[int, ...]) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder (N, width) -> (N, widths[-1]) and the decoder that mirrors it: linear layers, tanh between them."""
    down = (width, *widths)
    return _layers(down), _layers(down[::-1])


def bottleneck(
    train: NDArray[np.float32],
    *others: NDArray[np.float32],
    settings: AutoencoderSettings = OFFICIAL,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[NDArray[np.float32]]:
    """Train on `train` (N, D) and return it and `others` as the encoder's outputs (N, 125), in this order.

    The same features, settings and seed give the same numbers on the same device. Raises `DivergedError` if the error becomes
    infinite or not a number.
    """
    found = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder, decoder = (part.to(found) for part in autoencoder(train.shape[1], settings.widths))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=settings.lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, settings.decay_every, settings.decay)
    values = _on(found, train)
    for epoch in range(settings.epochs):
        loss = torch.zeros((), device=found)
        for rows in torch.from_numpy(permutation(seed, epoch, len(values))).to(found).split(settings.batch):
            batch = values[rows]
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(decoder(encoder(batch)), batch)
            loss.backward()
            optimizer.step()
        schedule.step()
        if not torch.isfinite(loss.detach()):
            raise DivergedError(
                f"the error of an autoencoder is {loss.item()} in epoch {epoch + 1}", where=f"learning rate {settings.lr}",
                next_step="give a smaller rate, or features of unit length",
            )  # fmt: skip
    return [_encoded(encoder, _on(found, part)) for part in (train, *others)]


def _layers(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def _encoded(encoder: nn.Module, values: Tensor) -> NDArray[np.float32]:
    return torch.cat([encoder(part) for part in values.split(EVALUATED)]).cpu().numpy()


def _on(device: torch.device, values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32)).to(device)
