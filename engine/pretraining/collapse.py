"""Whether an encoder still tells clips apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def spread(features: Tensor) -> Tensor:
    """(): how far features (N, D), or (N, 2, D), of unit length spread: 1 where they point everywhere, 0 where all are one.

    The standard deviation over the clips, averaged over the dimensions, times sqrt(D) (Chen and He 2021).
    """
    single = features if features.dim() == 2 else features[:, 0]
    unit = F.normalize(single.detach().float(), dim=1)
    if len(unit) < 2:
        return torch.zeros((), device=unit.device)
    result: Tensor = unit.std(0).mean() * unit.shape[1] ** 0.5
    return result
