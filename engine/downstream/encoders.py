"""An encoder to be judged: the classifier of a recipe, its encoder from wherever, and the features of all clips of its data.

Any classifier of the lab can be judged: by the features of its encoder, where it has one apart, or by what goes into its head
(`engine.encode`). One that was never trained is judged, too, which is what a pretrained one is held against.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from engine import assembly, models
from engine.config import RunConfig
from engine.downstream.features import Features, require_finite
from engine.encode import encode, encode_clips, head_of
from engine.records import array_fingerprint
from engine.weights import ENCODER, as_told, load_encoder, load_weights
from shared_data.datasets import DataSet
from shared_data.loader import Loader
from shared_data.pipelines import Positioned


@dataclass(frozen=True)
class Encoder:
    """What makes features, on its device and in evaluation mode; `head` is the layer whose input they are.

    source   where its weights came from, "" for start weights
    sha256   of all its weights but the head's
    """

    config: RunConfig
    data: DataSet
    network: nn.Module
    head: nn.Linear
    device: torch.device
    source: str
    sha256: str

    def features(self, part: str) -> Features:
        """Those of the "train" or "test" clips, all cropped as the recipe's test clips are. Raises `DataError`."""
        clips = self.data.train if part == "train" else self.data.test
        return self._encoded(assembly.test_loader(dataclasses.replace(self.data, test=clips), self.config, self.device))

    def each_epoch(self) -> Callable[[int], np.ndarray]:
        """Epoch -> features (N, D) of the training clips as the recipe's training shows them in that epoch, in their order."""
        config = dataclasses.replace(self.config, batch_size=1)
        pipeline = assembly.input_pipeline(config, self.data.skeleton.name, train=True)
        clips = self.data.train

        def epoch(number: int) -> np.ndarray:
            step, found = self.config.test_batch_size, []
            for first in range(0, len(clips), step):
                index = np.arange(first, min(first + step, len(clips)))
                draws = pipeline.draw(clips, index, config.seed, number)
                positions = pipeline.positions(clips, index, draws) if isinstance(pipeline, Positioned) else None
                found.append(self._values(pipeline.train(clips, index, draws), positions))
            return np.concatenate(found)

        return epoch

    def _values(self, clips: torch.Tensor, positions: np.ndarray | None) -> np.ndarray:
        told = None if positions is None else torch.from_numpy(positions).to(self.device)
        with torch.inference_mode():
            features, _ = encode(
                self.network, self.head, clips.to(self.device), told, device=self.device, precision=self.config.precision
            )
        return features.float().cpu().numpy()

    def _encoded(self, loader: Loader) -> Features:
        found = encode_clips(self.network, self.head, loader, device=self.device, precision=self.config.precision)
        require_finite(found.features, self.source or "start weights")
        return Features(found.scores.ids, found.scores.labels, found.features)


def opened(config: RunConfig) -> Encoder:
    """The encoder that `config` names: `init` (an encoder), `weights` (a whole classifier), or the start weights of its seed.

    Raises what opening the data and the weights raises, and `ConfigError` for a file of another model.
    """
    config = as_told(config)
    device = assembly.choose_device(config.device)
    assembly.choose_kernels(config)
    data = assembly.load_data(config)
    network = assembly.build_model(config, data, device)
    if config.weights:
        load_weights(Path(config.weights), network, config.model, trust_pickle=config.trust_pickle)
    if config.init:
        load_encoder(Path(config.init), network, config.model, trust_pickle=config.trust_pickle)
    if isinstance(getattr(network, ENCODER, None), nn.Module):
        clip = assembly.clip_shape(config, data.skeleton, data.train.max_people, train=False)
        network = _Plain(network.get_submodule(ENCODER), clip).to(device)
        head = network.fc
    else:
        head = head_of(models.find(config.model), network)
    inside = {id(p) for p in head.parameters()}
    values = [v for name, v in sorted(network.state_dict(keep_vars=True).items()) if id(v) not in inside]
    return Encoder(
        config, data, network.eval(), head, device, config.init or config.weights or "",
        array_fingerprint(*(value.detach().cpu().numpy() for value in values)),
    )  # fmt: skip


class _Plain(nn.Module):
    """An encoder as it was pretrained, whatever head its classifier has: a linear layer alone is behind its features."""

    def __init__(self, encoder: nn.Module, clip: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = encoder.eval()
        with torch.no_grad():
            width = self.encoder(torch.zeros(1, *clip, device=next(encoder.parameters()).device)).shape[1]
        self.fc = nn.Linear(width, 1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """(N, C, T, V, M) -> (N, 1), which says nothing."""
        said: torch.Tensor = self.fc(self.encoder(clips))
        return said
