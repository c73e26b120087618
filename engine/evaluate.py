"""Logits of a network over one split, and the first batch of them tried out before a run begins."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from engine import memory
from engine.distributed import World
from engine.errors import DivergedError
from engine.metrics import Scores
from engine.step import Precision, autocast, forward
from shared_data.loader import Batch, Loader


def evaluate(
    model: nn.Module,
    loader: Loader,
    *,
    device: torch.device,
    precision: Precision = "fp32",
    after_batch: Callable[[], None] = lambda: None,
    world: World | None = None,
) -> Scores:
    """Evaluation-mode logits of every clip of `loader`, in its order; `after_batch` may raise to stop early.

    world   the processes whose loaders share a split (`World.mine`): each is returned the scores of the whole, in its order
    """
    model.eval()
    world = world or World()
    ids, labels, logits = [], [], []
    batches = iter(loader.epoch(0))
    with torch.inference_mode():
        for _ in range(max(world.gather(len(loader)))):  # one may have a batch less, and is asked all the same
            for batch in itertools.islice(batches, 1):
                logits.append(_logits(model, batch, device, precision))
                labels.append(batch.labels.numpy())
                ids.append(batch.ids)
            world.vote()
            after_batch()
    scores = _whole(world.gather(Scores(np.concatenate(ids), np.concatenate(labels), np.concatenate(logits))))
    if not np.isfinite(scores.logits).all():
        wrong = scores.ids[~np.isfinite(scores.logits).all(1)]
        raise DivergedError(
            f"the network's output is not a number for {len(wrong)} of {len(scores.ids)} clips",
            where=f"first: {', '.join(wrong[:5])}",
            next_step="resume from an earlier checkpoint with a smaller --base-lr or --precision fp32",
        )
    return scores


def _whole(parts: list[Scores]) -> Scores:
    """The scores of a split whose every n-th clip, from the r-th on, are in part r of n."""
    count, size = sum(len(part.ids) for part in parts), len(parts)
    places = np.concatenate([np.arange(count)[rank::size] for rank in range(size)])
    order = np.argsort(places)
    whole = Scores(*(np.concatenate([getattr(part, name) for part in parts])[order] for name in ("ids", "labels", "logits")))
    lengths = [len(part.ids) for part in parts]
    if lengths != [len(range(rank, count, size)) for rank in range(size)] or (size > 1 and len(np.unique(whole.ids)) != count):
        raise AssertionError(f"shares of {lengths} clips with {len(np.unique(whole.ids))} ids: one is missing, or there twice")
    return whole


def rehearse(
    model: nn.Module, loader: Loader, optimizer: torch.optim.Optimizer, *, device: torch.device, precision: Precision = "fp32"
) -> None:
    """`evaluate` on the first batch of `loader`, for no scores, as it will be after steps of `optimizer`.

    What those steps will leave beside the network, gradients and the optimizer's state, is there as empty tensors: what runs out
    of memory here would have done so after the first epoch. Buffers are afterwards what they were. Not in inference mode: what a
    network makes once and keeps, it must be able to train with.
    """
    model.eval()
    beside = list(memory.still_to_come(optimizer))
    with torch.no_grad(), _buffers_kept(model):
        for batch in itertools.islice(loader.epoch(0), 1):
            _logits(model, batch, device, precision)
    del beside


@contextlib.contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    tables = [module._buffers for module in model.modules()]
    before = [(table, name, buffer, buffer.clone()) for table in tables for name, buffer in table.items() if buffer is not None]
    try:
        yield
    finally:
        for table, name, buffer, values in before:
            table[name] = buffer.copy_(values)


def evaluation_pass(
    model: nn.Module, clips: Tensor, positions: Tensor | None = None, *, device: torch.device, precision: Precision = "fp32"
) -> Tensor:
    """Logits (N, K) of one batch as every evaluation computes them, in the type that autocast leaves them in.

    clips       (N, C, T, V, M)
    positions   (N, T) of the frames; not asked for by every network
    The caller has put `model` into evaluation mode and turned gradients off; `evaluate` does so by inference mode.
    """
    with autocast(precision, device):
        return forward(model, clips, positions)


def _logits(model: nn.Module, batch: Batch, device: torch.device, precision: Precision) -> np.ndarray:
    """(N, K) float32, on the CPU."""
    positions = None if batch.positions is None else batch.positions.to(device, non_blocking=True)
    clips = batch.clips.to(device, non_blocking=True)
    return evaluation_pass(model, clips, positions, device=device, precision=precision).float().cpu().numpy()
