"""Learning rate as a function of the epoch or of the step: the rules of the official trainers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.config import RunConfig


def learning_rate(config: RunConfig, *, epoch: int, step: int, steps_per_epoch: int) -> float:
    """That of a step by the run's `lr_schedule`; `epoch` and `step` count from 0 over the whole run."""
    if config.lr_schedule == "cosine_iteration":
        return iteration_learning_rate(
            step, base_lr=config.base_lr, iterations=config.num_epoch * steps_per_epoch,
            warm_up_iterations=config.warm_up_epoch * steps_per_epoch, warm_up_lr=config.warm_up_lr, min_lr=config.min_lr,
        )  # fmt: skip
    if config.lr_schedule == "cosine_fraction":
        return fraction_learning_rate(
            step / steps_per_epoch, base_lr=config.base_lr, num_epoch=config.num_epoch, warm_up_epoch=config.warm_up_epoch,
            min_lr=config.min_lr,
        )  # fmt: skip
    if config.lr_schedule == "cosine":
        return cosine_learning_rate(
            epoch, base_lr=config.base_lr, num_epoch=config.num_epoch, warm_up_epoch=config.warm_up_epoch, min_lr=config.min_lr
        )
    return epoch_learning_rate(
        epoch, base_lr=config.base_lr, warm_up_epoch=config.warm_up_epoch, step=config.step, lr_decay_rate=config.lr_decay_rate
    )


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


def iteration_learning_rate(
    iteration: int,
    *,
    base_lr: float,
    iterations: int,
    warm_up_iterations: int = 0,
    warm_up_lr: float = 0.0,
    min_lr: float = 0.0,
) -> float:
    """SkateFormer's rule, set before every step; `iteration` counts steps from 0 over the whole run of `iterations`.

    Linear from `warm_up_lr` (the very first step runs at it), then half a cosine that has been falling since step 0: the
    warm-up does not shift it, so the rate jumps a little where the warm-up ends. After the last step: `min_lr`.
    Source: SkateFormer spec, section 6.
    """
    if iteration < warm_up_iterations:
        return warm_up_lr + iteration * (base_lr - warm_up_lr) / warm_up_iterations
    if iteration >= iterations:
        return min_lr
    return min_lr + 0.5 * (base_lr - min_lr) * (1.0 + math.cos(math.pi * iteration / iterations))


def fraction_learning_rate(epoch: float, *, base_lr: float, num_epoch: int, warm_up_epoch: int = 0, min_lr: float = 0.0) -> float:
    """The rule of masked autoencoders, set before every step; `epoch` is a fraction: steps so far by steps in an epoch.

    Linear from 0 (the very first step changes nothing) to `base_lr`, then half a cosine over the rest of the run to `min_lr`.
    Source: MAMP spec, section 5.
    """
    if epoch < warm_up_epoch:
        return base_lr * epoch / warm_up_epoch
    progress = (epoch - warm_up_epoch) / max(num_epoch - warm_up_epoch, 1)
    return min_lr + (base_lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
