"""Whether an encoder says the same of every clip: what shows that learning without labels has collapsed.

All of it looks at features of unit length, in float64, on at most `SAMPLE` clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import DivergedError
from engine.pretraining import COLLAPSED
from shared_data.batches.randomness import permutation

SAMPLE = 4096
AT_A_TIME = 1024  # rows of pairs
LITTLE_SPREAD = COLLAPSED
FEW_DIRECTIONS = 2.0
SAME = 1e-12  # of squares: differences that float32 does not hold

State = Literal["collapsed", "few directions", "spread out"]


@dataclass(frozen=True)
class Collapse:
    """What shows a collapse.

    spread          mean over the D dimensions of the standard deviation, times sqrt(D): 0 where all clips have the same feature,
                    1 where they lie evenly around 0
    effective_rank  exp of the entropy of the centred features' singular values, as shares (Roy and Vetterli, 2007): how many
                    directions are used, 1 to D; 0 where all clips have the same feature
    uniformity      log of the mean over pairs of clips of exp(-2 d^2), d their distance (Wang and Isola, 2020): 0 where all are
                    the same, about -4 where they lie evenly on a sphere of many dimensions
    alignment       mean d^2 between two views of a clip (the same paper): 0 where they agree; None without views
    clips, width    looked at; D
    """

    spread: float
    effective_rank: float
    uniformity: float
    alignment: float | None
    clips: int
    width: int

    @property
    def state(self) -> State:
        """By thresholds of ours: `LITTLE_SPREAD` of the spread of features all around, `FEW_DIRECTIONS` used."""
        if self.spread < LITTLE_SPREAD:
            return "collapsed"
        return "few directions" if self.effective_rank < FEW_DIRECTIONS else "spread out"

    @property
    def verdict(self) -> str:
        """The same for people, with what it goes by."""
        rank = f"effective rank {self.effective_rank:.1f} of {self.width}"
        spread = f"spread {self.spread:.3f} (0: every clip has the same feature, 1: all around)"
        if self.state == "collapsed":
            return f"collapsed: {spread} is below {LITTLE_SPREAD}; {rank}"
        if self.state == "few directions":
            return f"collapsed to few directions: {rank} is below {FEW_DIRECTIONS:g}; {spread}"
        return f"no collapse: {spread}, {rank}"


def of_batch(features: Tensor) -> dict[str, Tensor]:
    """The same of a batch, in a training step: `spread`, `uniformity` and, of two views (N, 2, D), `alignment`, all ().

    features   (N, D) or (N, 2, D), of which the first view is looked at; of one clip there is nothing to say. Nothing here waits
               for a GPU
    """
    unit = torch.nn.functional.normalize(features.detach().float(), dim=-1)
    first = unit if unit.dim() == 2 else unit[:, 0]
    count, width = first.shape
    if count < 2:
        return {}
    spread = (first - first.mean(0)).square().mean(0).sqrt().mean() * width**0.5
    alike = torch.exp(4.0 * (first @ first.T) - 4.0)  # exp(-2 d^2), as d^2 = 2 - 2 u v
    found = {"spread": spread, "uniformity": ((alike.sum() - count) / max(count * (count - 1), 1)).clamp(min=1e-30).log()}
    return found if unit.dim() == 2 else {**found, "alignment": (unit[:, 0] - unit[:, 1]).square().sum(1).mean()}


def collapse(
    features: NDArray[np.float32] | Tensor,
    views: NDArray[np.float32] | Tensor | None = None,
    *,
    sample: int = SAMPLE,
    seed: int = 0,
) -> Collapse:
    """Look at features (N, D), N at least 2, and at those of other `views` (N, D) of the same clips.

    sample   clips looked at, drawn by `seed` where there are more
    Raises `DivergedError` for features that are not numbers.
    """
    rows = np.sort(permutation(seed, 0, len(features))[:sample])
    unit = _unit(features, rows)
    centred = unit - unit.mean(0)
    spread = float(centred.square().mean(0).sqrt().mean()) * unit.shape[1] ** 0.5
    alignment = None if views is None else float((unit - _unit(views, rows)).square().sum(1).mean())
    return Collapse(spread, _effective_rank(centred), _uniformity(unit), alignment, *unit.shape)


def _unit(features: NDArray[np.float32] | Tensor, rows: NDArray[np.int64]) -> Tensor:
    if isinstance(features, Tensor):
        found = features.detach()[torch.from_numpy(rows).to(features.device)].double().cpu()
    else:
        found = torch.from_numpy(np.asarray(features[rows], np.float64))
    if found.ndim != 2 or len(found) < 2:
        raise ValueError(f"features {tuple(found.shape)}: two clips or more, a row each, are needed")
    if not torch.isfinite(found).all():
        raise DivergedError(
            f"features of {int((~torch.isfinite(found)).any(1).sum())} of {len(found)} clips are not numbers", where="an encoder",
            next_step="go back to an earlier checkpoint, with a smaller learning rate or --precision fp32",
        )  # fmt: skip
    return torch.nn.functional.normalize(found, dim=1, eps=1e-30)


def _effective_rank(centred: Tensor) -> float:
    tall = centred if len(centred) >= centred.shape[1] else centred.T
    squared = torch.linalg.eigvalsh(tall.T @ tall)
    if float(squared.max()) < SAME * len(centred):
        return 0.0
    singular = squared[squared > squared.max() * SAME].sqrt()
    shares = singular / singular.sum()
    return float((-shares * shares.log()).sum().exp())


def _uniformity(unit: Tensor) -> float:
    """Over all pairs of different clips, block by block."""
    squares = unit.square().sum(1)  # 1, or 0 for a feature of zeros
    total = 0.0
    for first in range(0, len(unit), AT_A_TIME):
        part = slice(first, first + AT_A_TIME)
        distances = squares[part, None] + squares - 2 * (unit[part] @ unit.T)
        total += float(torch.exp(-2 * distances.clamp(min=0)).sum())
    count = len(unit)
    return float(np.log(max(total - count, 0.0) / (count * (count - 1)) + 1e-300))
