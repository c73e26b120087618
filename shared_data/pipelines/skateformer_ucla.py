"""SkateFormer's reader for NW-UCLA (``specs/skateformer.md`` 5.3): CTR-GCN's with drops, frame positions, joints by body part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared_data.batches.frames import Frames, blended, evenly_spaced
from shared_data.clips import Clips
from shared_data.pipelines import contract
from shared_data.pipelines.skateformer_sampling import frame_positions
from shared_data.pipelines.ucla import CtrgcnUcla, DroppingUclaOptions, UclaDraws
from shared_data.skeletons import skeleton


@dataclass(frozen=True)
class SkateformerUclaOptions(DroppingUclaOptions):
    """Options of `skateformer_ucla`: those of `ctrgcn_ucla` with other defaults, and

    partition  joints ordered by body part; False: as they are
    """

    partition: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        contract.check(isinstance(self.partition, bool), "partition", self.partition, "true or false")


class SkateformerUcla(CtrgcnUcla):
    """Pipeline `skateformer_ucla`: `ctrgcn_ucla` that also tells positions, see `contract.Positioned`."""

    def __init__(self, options: SkateformerUclaOptions) -> None:
        order = skeleton(options.skeleton).order("skateformer") if options.partition else None
        super().__init__(options, "skateformer_ucla", order)

    def positions(self, clips: Clips, index: np.ndarray, draws: UclaDraws | None) -> np.ndarray:
        """index_t, (B, W) float32: 2 t / L - 1 for frame t of L."""
        extent = clips.extent[index]
        shown = evenly_spaced(extent, self.options.window) if draws is None else draws.frames
        return frame_positions(blended(Frames(shown)), np.maximum(extent, 1))
