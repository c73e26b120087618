"""What the readers for learning without labels show once there are labels: one crop of a clip, and nothing else random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shared_data.batches.augment import stream_of
from shared_data.batches.frames import centre_crop, crop_resize, random_crop
from shared_data.batches.gather import channels, lay_out, present_people
from shared_data.batches.randomness import AUGMENTATION, sample_keys, uniforms
from shared_data.clips import Clips
from shared_data.pipelines import contract
from shared_data.pipelines.selfsupervised import REPRESENTATIONS, check_representation, ratio_of
from shared_data.skeletons import skeleton


@dataclass(frozen=True)
class DownstreamOptions:
    """Options of the downstream readers.

    ratio           share of a clip's stored frames that training keeps; None stands for the reader's own. (low, high) is a
                    random crop only if low is the number that the official reader compares with (0.5, or 0.1 for USDRL);
                    any other gives the centre crop of share low, as (low,) does
    test_ratio      the same at test time, where nothing is random
    window          frames of a batch
    representation  joint, motion or bone
    skeleton        layout of the clips
    """

    ratio: tuple[float, ...] | None = None
    test_ratio: tuple[float, ...] | None = None
    window: int = 64
    representation: str = "joint"
    skeleton: str = "ntu25"

    def __post_init__(self) -> None:
        for name in ("ratio", "test_ratio"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, ratio_of(name, getattr(self, name), (1, 2)))
        contract.check_window(self.window, 100_000)
        check_representation(self.representation)
        skeleton(self.skeleton)


@dataclass(frozen=True)
class Crops:
    """Which frames of B clips are shown: `start` and `length`, (B,) int64."""

    start: np.ndarray
    length: np.ndarray


class Downstream:
    """A pipeline (see `contract.Pipeline`) of single crops.

    ratio, test_ratio  where the options leave them open
    random_from        the low end of `ratio` that makes the crop random
    """

    def __init__(
        self,
        name: str,
        options: DownstreamOptions,
        *,
        ratio: tuple[float, ...],
        test_ratio: tuple[float, ...],
        random_from: float,
    ) -> None:
        self.name, self.options = name, options
        self.ratio, self.test_ratio = options.ratio or ratio, options.test_ratio or test_ratio
        self.layout = skeleton(options.skeleton)
        self.random = len(self.ratio) == 2 and self.ratio[0] == random_from

    def item(self, clips: Clips) -> tuple[int, ...]:
        """(3, W, V, M)."""
        return 3, self.options.window, clips.joints, clips.max_people

    def accept(self, clips: Clips) -> None:
        """The joints must be those of the layout."""
        contract.check_joints(clips, self.name, self.layout)

    def draw(self, clips: Clips, index: np.ndarray, seed: int, epoch: int, repeat_number: np.ndarray | int = 0) -> Crops:
        """Two numbers for the crop, if it is random."""
        extent = clips.extent[index]
        if not self.random:
            return Crops(*centre_crop(extent, self.ratio[0]))
        u = uniforms(seed, epoch, sample_keys(index, repeat_number), AUGMENTATION, 2)
        return Crops(*random_crop(extent, self.ratio[0], self.ratio[1], u))

    def train(self, clips: Clips, index: np.ndarray, draws: Any, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3, W, V, M) as `draws`, which are `Crops`, say."""
        present = present_people(clips, index)
        parts = channels(clips, present, crop_resize(draws.start, draws.length, self.options.window))
        streamed = stream_of(parts, REPRESENTATIONS[self.options.representation], self.layout.bones)
        return lay_out(streamed, present, contract.room((len(index), *self.item(clips)), clips, out))

    def test(self, clips: Clips, index: np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3, W, V, M) from the centre of each clip."""
        return self.train(clips, index, Crops(*centre_crop(clips.extent[index], self.test_ratio[0])), out)
