"""Learning rate as a function of the epoch: the rule of the official trainers, set once at the start of each epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence


def epoch_learning_rate(
    epoch: int,
    *,
    base_lr: float,
    warm_up_epoch: int = 0,
    step: Sequence[int] = (),
    lr_decay_rate: float = 0.1,
) -> float:
    """Linear warm-up to `base_lr`, then a drop by `lr_decay_rate` at each epoch in `step`; epochs count from 0.

    The warm-up does not shift the drops: step 35 takes effect in the 36th epoch. Source: CTR-GCN spec, section 6.
    """
    if epoch < warm_up_epoch:
        return base_lr * (epoch + 1) / warm_up_epoch
    return float(base_lr * lr_decay_rate ** sum(epoch >= drop for drop in step))


def cosine_learning_rate(epoch: int, *, base_lr: float, num_epoch: int, warm_up_epoch: int = 0, min_lr: float = 0.0) -> float:
    """Linear warm-up to `base_lr`, then half a cosine that would reach `min_lr` one epoch after the last; epochs count from 0."""
    if epoch < warm_up_epoch:
        return base_lr * (epoch + 1) / warm_up_epoch
    progress = (epoch - warm_up_epoch) / max(num_epoch - warm_up_epoch, 1)
    return min_lr + (base_lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
